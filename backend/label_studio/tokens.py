"""API keys of Label Studio, told apart by their form; what a token says of itself, and nothing of how it is used."""

import base64
import binascii
from enum import Enum

import msgspec

from backend.types import Secret

LIFETIME_S = 300.0
"""How long an access token lasts when it does not say."""


class TokenKind(str, Enum):
    """What an API key is, told by its form."""

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
    """Return how long an access token lasts, in seconds from its making: two machines' clocks need not agree."""
    claims = _claims(access) or _Claims()
    return claims.exp - claims.iat if 0 < claims.iat < claims.exp else LIFETIME_S


def token_kind(api_key: Secret | None) -> TokenKind:
    """Return what kind of token ``api_key`` is."""
    if api_key is None or not api_key.value:
        return TokenKind.NONE
    claims = _claims(api_key.value)
    if claims is None:
        # Label Studio shows a token whole when it is made, and in its list of tokens without the signature.
        cut = _claims(api_key.value.rstrip(".") + ".")
        return TokenKind.CUT if cut is not None and cut.token_type else TokenKind.LEGACY
    return TokenKind.ACCESS if claims.token_type == "access" else TokenKind.PERSONAL  # noqa: S105 - a claim's name


def _claims(token: str) -> _Claims | None:
    """Return what a JWT says of itself, None for anything else; the signature is Label Studio's to check."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
