"""Who may call, and the answers that need no thread: those to probes, and to callers without credentials."""

import base64
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import Response

from backend.errors import Reason
from backend.metrics import Metrics
from backend.types import Secret

logger = logging.getLogger(__name__)

JSON = "application/json"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer. A page sets its own policy in a meta element, which cannot forbid framing."""


@dataclass(frozen=True)
class Access:
    """Credentials, and limits on the size and number of requests.

    >>> Access(1000).admits("")
    True
    >>> Access(1000, user="ada", password=Secret("key")).admits("Basic YWRhOmd1ZXNz")
    False
    """

    max_body_bytes: int  # a larger request is refused: its body is only read to its end and dropped
    # how many predictions may run at a time, most of them waiting; further ones are answered empty at once
    max_predicts: int = 32
    user: str | None = None  # Basic auth user; None admits every caller
    password: Secret | None = None

    def admits(self, authorization: str) -> bool:
        """Whether a caller with this ``Authorization`` header is admitted; compared in constant time."""
        if self.user is None or self.password is None:
            return True
        user, password = _credentials(authorization)
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.value.encode())
        return same_user and same_password


class Gate:
    """Checks callers, and answers probes; a server asks it before a request takes a thread."""

    def __init__(self, access: Access, metrics: Metrics, probes: Mapping[str, Callable[[], Response]]) -> None:
        """Check credentials, except on the paths of ``probes``, each with the answer to a GET."""
        self._access, self._metrics, self._probes = access, metrics, probes
        self._has_warned = False

    def admits(self, authorization: str) -> bool:
        """Whether the body of a caller with this ``Authorization`` header is kept."""
        return self._access.admits(authorization)

    def may_wait(self, path: str) -> bool:
        """Whether a request may wait for seconds, for an image or for the decoder."""
        return path == "/predict"

    def answer(self, method: str, path: str, authorization: str) -> Response | None:
        """Return the answer of a probe, or a refusal; None for a request that the application has to answer."""
        if path in self._probes:
            return protected(self._probes[path]()) if method in ("GET", "HEAD") else None
        if self._access.admits(authorization):
            return None
        if path == "/webhook" and method == "POST" and not authorization:
            return protected(self._ignore_webhook())
        self._metrics.record_refusal(Reason.AUTH_FAILED)
        refusal = json_response(b'{"detail":"wrong or missing credentials"}', 401)
        refusal.headers["WWW-Authenticate"] = 'Basic realm="paddle-sam"'
        return protected(refusal)

    def _ignore_webhook(self) -> Response:
        """Answer a webhook without credentials: so Label Studio registers it, and calls it for each annotation."""
        logger.log(
            logging.DEBUG if self._has_warned else logging.WARNING,
            "event=webhook_ignored detail='no credentials; to have new tasks encoded ahead, add an Authorization "
            "header under Settings > Webhooks of the project in Label Studio'",
        )
        self._has_warned = True
        return json_response(b'{"status":"ignored"}')


def json_response(body: bytes, code: int = 200) -> Response:
    """Return an answer whose body is JSON."""
    return Response(body, code, content_type=JSON)


def protected(response: Response) -> Response:
    """Add the headers that every answer has."""
    response.headers.update(_HEADERS)
    return response


def _credentials(header: str) -> tuple[str, str]:
    """Return the user and password of an ``Authorization`` header; empty ones where it is not a well-formed Basic one.

    Werkzeug's own parser raises at characters that are not ASCII, and accepts a user and password of any scheme.
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(rest.strip(" \t"), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password
