"""Recognises the kind and lifetime of Label Studio's API keys by their form."""

import base64
import binascii
from enum import Enum

import msgspec

from backend.types import Secret

LIFETIME_S = 300.0
"""Lifetime of an access token that does not contain one."""


class TokenKind(str, Enum):
    """The kind of an API key, recognised by its form."""

    NONE = "none"
    LEGACY = "legacy token"
    PERSONAL = "personal access token"
    CUT = "personal access token without its end"
    ACCESS = "access token"


class _Claims(msgspec.Struct):
    token_type: str = ""
    exp: float = 0.0
    iat: float = 0.0


def lifetime_s(access: str) -> float:
    """Return an access token's lifetime in seconds from its issue; the clocks of two machines need not agree."""
    claims = _claims(access) or _Claims()
    return claims.exp - claims.iat if 0 < claims.iat < claims.exp else LIFETIME_S


def token_kind(api_key: Secret | None) -> TokenKind:
    """Return what kind of token ``api_key`` is.

    >>> token_kind(Secret("0123456789abcdef")).value, token_kind(None).value
    ('legacy token', 'none')
    """
    if api_key is None or not api_key.value:
        return TokenKind.NONE
    claims = _claims(api_key.value)
    if claims is None:
        # Label Studio shows a complete token only when it is made; its list of tokens shows it without the signature.
        cut = _claims(api_key.value.rstrip(".") + ".")
        return TokenKind.CUT if cut is not None and cut.token_type else TokenKind.LEGACY
    return TokenKind.ACCESS if claims.token_type == "access" else TokenKind.PERSONAL  # noqa: S105 - a claim's name


def _claims(token: str) -> _Claims | None:
    """Return the claims of a JWT, None for anything else; Label Studio checks the signature."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
