"""Recognises the kind and lifetime of Label Studio's API keys by their form, and renews access tokens."""

import base64
import binascii
import copy
from collections.abc import Callable
from enum import Enum

import msgspec

from backend.concurrency.priority_executor import PriorityExecutor
from backend.concurrency.single_flight import SingleFlight
from backend.errors import BackendError
from backend.types import Priority, Secret

LIFETIME_S = 300.0  # lifetime of an access token that does not contain one
NO_API_KEY = "LABEL_STUDIO_API_KEY is not set: images that were uploaded to Label Studio cannot be fetched"
NEW_API_KEY = "create a personal access token in Label Studio under Account & Settings and set LABEL_STUDIO_API_KEY"

_RENEW_AT = 0.8


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


class TokenExchange:
    """Exchanges a personal access token for access tokens; concurrent callers share one exchange and its outcome."""

    def __init__(self, new_access_token: Callable[[], str], clock: Callable[[], float]) -> None:
        self._new_access_token, self._clock = new_access_token, clock
        self._header, self._renew_at = "", 0.0
        # In a separate thread, so that each caller can stop waiting at its own timeout.
        self._exchanges = SingleFlight[str, str](PriorityExecutor(1, name="token"))

    def authorization(self, rejected: str | None, within_s: float | None) -> str:
        """Return an ``Authorization`` header other than ``rejected``.

        Raises:
            TimeoutError: the exchange takes longer than ``within_s`` seconds; it continues.
            BackendError: Label Studio refuses, or cannot be reached.
        """
        header = self._header
        if header and self._clock() < self._renew_at and rejected != header:
            return header
        try:
            return self._exchanges.run("token", lambda task: self._renew(), Priority.INTERACTIVE).result(within_s)
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, each a copy

    def _renew(self) -> str:
        started_at, self._header = self._clock(), ""
        access = self._new_access_token()
        self._renew_at, self._header = started_at + _RENEW_AT * lifetime_s(access), f"Bearer {access}"
        return self._header
