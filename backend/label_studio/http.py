"""Sends requests to Label Studio's API: adds the token, retries, and turns refusals into errors.

Label Studio has two kinds of API key. A *legacy token* is sent in the header unchanged, and is switched off by default.
A *personal access token* is a JWT that must be exchanged for an access token, valid five minutes.
"""

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import httpcore
import httpx
import msgspec
import stamina

from backend.errors import AccessError, BackendError, Reason, RequestError, RetryLater
from backend.label_studio.tokens import TokenExchange, TokenKind, token_kind
from backend.logs import without_credentials
from backend.network.deadline_connections import DeadlineBackend
from backend.types import Secret
from model import tls

T = TypeVar("T")

NAME = "paddle-sam-backend"
KEPT_CONNECTIONS = 16
KEPT_S = 5.0  # how long an unused connection is kept; Label Studio's own server closes them later
LONGEST_EXCERPT = 300
_REFRESH = "/api/token/refresh"
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(frozen=True, repr=False)
class Request:
    """A request to a path below Label Studio's address; its body may hold a token, so it has no repr."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = "application/json"
    is_repeatable: bool = True  # whether sending it twice has the same effect as sending it once
    timeout_s: float | None = None  # of the whole request; None for the client's default


class RefusedError(RequestError):
    """Label Studio refuses a request with an HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_gone(self) -> bool:
        """Whether the object does not exist, or no longer."""
        return self.status == httpx.codes.NOT_FOUND


class ForbiddenError(AccessError):
    """Label Studio accepts the key, but does not allow its user this request; it may allow others."""


REFUSALS = (RefusedError, ForbiddenError)
"""Errors that concern one object only, so that requests about others may succeed."""


class FaultError(RetryLater):
    """Label Studio failed on a request (500): its database was busy, or it has a defect."""


class _Refreshed(msgspec.Struct):
    access: str


class _Refusal(msgspec.Struct):
    detail: object = None
    validation_errors: object = None


class LabelStudioHttp:
    """Sends requests as one user to the Label Studio at ``url``; safe from many threads."""

    def __init__(
        self,
        url: str,
        api_key: Secret | None,  # a legacy or personal access token; None to send no token
        *,
        timeout_s: float = 10.0,  # of a whole request, from the look-up of the name to the last byte of the answer
        attempts: int = 3,  # of a request that may be repeated
        retry_wait_s: float = 0.2,  # about how long to wait before the second attempt
        keeps_connections: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an HTTP client; it connects with its first request.

        Connections are reused if ``keeps_connections``. A service calls rarely, and a connection that the server has
        meanwhile closed would fail a request that may not be repeated.
        """
        self.url = url.rstrip("/")
        self.token_kind = token_kind(api_key)
        self._api_key = api_key
        self._timeout_s, self._network = timeout_s, DeadlineBackend()
        # No proxies from the environment: the token is sent to Label Studio only.
        self._pool = httpcore.ConnectionPool(
            tls.client_context(),
            max_keepalive_connections=KEPT_CONNECTIONS if keeps_connections else 0,
            keepalive_expiry=KEPT_S,
            network_backend=self._network,
        )
        self._retrying = stamina.RetryingCaller(
            attempts=attempts, wait_initial=retry_wait_s, wait_jitter=retry_wait_s, wait_max=2.0
        ).on(lambda error: isinstance(error, RetryLater) and error.retry_after_s is None)  # else the caller waits
        self._exchange = TokenExchange(self._new_access_token, clock)

    def __repr__(self) -> str:
        return f"LabelStudioHttp({self.url!r}, {self.token_kind.value})"

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def authorization(self, rejected: str | None = None, within_s: float | None = None) -> str | None:
        """Return the value of the ``Authorization`` header, None without an API key.

        A personal access token is exchanged again if Label Studio ``rejected`` that value with 401. The wait for the
        exchange takes at most ``within_s``.

        Raises:
            AccessError: Label Studio refuses the personal access token.
            RetryLater: Label Studio cannot be reached, or takes longer; the exchange continues.
        """
        if self._api_key is None or self.token_kind is TokenKind.NONE:
            return None
        if self.token_kind is TokenKind.CUT:
            raise AccessError(
                "LABEL_STUDIO_API_KEY is a personal access token without its end, as Label Studio's list shows it; "
                "create one and copy it from where it is shown whole, once"
            )
        if self.token_kind is TokenKind.LEGACY:
            return f"Token {self._api_key.value}"
        if self.token_kind is TokenKind.ACCESS:
            return f"Bearer {self._api_key.value}"
        try:
            return self._exchange.authorization(rejected, within_s)
        except concurrent.futures.TimeoutError:
            text = f"Label Studio at {self.url} takes too long to exchange the personal access token"
            raise RetryLater(text, Reason.LABEL_STUDIO_UNREACHABLE) from None

    def abort(self) -> None:
        """End all requests, running and future ones; each fails as if Label Studio could not be reached."""
        self._network.abort()

    def _new_access_token(self) -> str:
        assert self._api_key is not None  # a personal access token
        body = msgspec.json.encode({"refresh": self._api_key.value})
        return decoded(self._retried(Request("POST", _REFRESH, body=body), None), _Refreshed).access

    def get(self, path: str, kind: type[T], params: Mapping[str, str] | None = None, *, anonymous: bool = False) -> T:
        """Return the answer to a GET of a path, as a msgspec type.

        Raises:
            AccessError: Label Studio refuses the key, or its address is another one.
            RequestError: the object does not exist, or the request is invalid.
            RetryLater: it cannot be reached or is overloaded; ``retry_after_s`` is the wait that it asks for.
        """
        request = Request("GET", path, params or {})
        return decoded(self._retried(request, None) if anonymous else self.send(request), kind)

    def send(self, request: Request) -> bytes:
        """Send a request with the token, and again with a new one after a 401; return the answer's body; see `get`."""
        header = self.authorization()
        try:
            return self._retried(request, header)
        except AccessError as error:
            if self.token_kind is not TokenKind.PERSONAL or error.reason is not Reason.AUTH_FAILED:
                raise
        return self._retried(request, self.authorization(rejected=header))

    def _retried(self, request: Request, header: str | None) -> bytes:
        def send() -> bytes:  # without arguments, since stamina logs them
            return self._once(request, header)

        return self._retrying(send) if request.is_repeatable else send()

    def _once(self, request: Request, header: str | None) -> bytes:
        timeout_s = request.timeout_s or self._timeout_s
        try:
            reply = self._exchanged(request, header, time.monotonic() + timeout_s)
        except httpcore.TimeoutException as error:
            text = f"Label Studio at {self.url} cannot be reached, or takes longer than {timeout_s:g} s to answer"
            raise RetryLater(f"{text} {request.path}: {error}", Reason.LABEL_STUDIO_UNREACHABLE) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            text = f"{self.url} is no address of a Label Studio; set LABEL_STUDIO_URL to where it is: {error}"
            raise AccessError(text, Reason.LABEL_STUDIO_NOT_CONFIGURED) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.DecodingError) as error:
            if (refusal := tls.refusal(error)) is not None:
                raise AccessError(f"Label Studio at {self.url}: {refusal}", Reason.UNTRUSTED_CERTIFICATE) from error
            text = f"Label Studio at {self.url} cannot be reached: {error}"
            raise RetryLater(text, Reason.LABEL_STUDIO_UNREACHABLE) from error
        if reply.is_success:
            return reply.content
        raise self._failure(reply, request.path, header)

    def _exchanged(self, request: Request, header: str | None, deadline: float) -> httpx.Response:
        """Return the answer to a request, read and decoded; httpx writes and reads headers as for images."""
        headers = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": NAME}
        headers |= {"Content-Type": request.content_type} if request.body else {}
        headers |= {"Authorization": header} if header else {}
        written = httpx.Request(
            request.method, self.url + request.path, params=request.params, headers=headers, content=request.body
        )
        url = written.url
        answer = self._pool.request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=written.headers.raw,
            content=request.body,
            extensions={"timeout": dict.fromkeys(("connect", "write", "read"), deadline)},  # see DeadlineBackend
        )
        return httpx.Response(answer.status, headers=answer.headers, content=answer.content)

    def _failure(self, reply: httpx.Response, path: str, header: str | None) -> BackendError:
        status = reply.status_code
        if path == _REFRESH and status in (400, 401, 403):
            return AccessError(
                "Label Studio refuses the personal access token: it is revoked, expired or another server's; "
                "create one under Account & Settings and set LABEL_STUDIO_API_KEY"
            )
        if path == _REFRESH and status not in _TRANSIENT and not reply.is_redirect:
            return AccessError(
                f"Label Studio at {self.url} answers {status} to {path}, which exchanges personal access tokens; set "
                "LABEL_STUDIO_URL to Label Studio's own address, or use a legacy token if it is too old for the others",
                Reason.LABEL_STUDIO_NOT_CONFIGURED,
            )
        if status == httpx.codes.UNAUTHORIZED or (status == httpx.codes.FORBIDDEN and header is None):
            return self.refusal(f"answers {status} to {path}", header, _excerpt(reply))
        if status == httpx.codes.FORBIDDEN:
            return ForbiddenError(str(self.refusal(f"answers {status} to {path}{_excerpt(reply)}", header)))
        if status in _TRANSIENT:
            text = f"Label Studio answers {status} to {path}"
            kind = FaultError if status == httpx.codes.INTERNAL_SERVER_ERROR else RetryLater
            return kind(text, Reason.LABEL_STUDIO_UNREACHABLE, _retry_after_s(reply))
        if reply.is_redirect:
            target = without_credentials(reply.headers.get("location", ""))
            text = f"Label Studio at {self.url} redirects to {target[:200]}; set LABEL_STUDIO_URL to where it really is"
            return AccessError(text, Reason.LABEL_STUDIO_NOT_CONFIGURED)
        return RefusedError(f"Label Studio answers {status} to {path}{_excerpt(reply)}", status)

    def refusal(self, event: str, header: str | None, detail: str = "") -> AccessError:
        """Return the error for a request refused with this ``Authorization``, with advice for an operator.

        ``detail`` is Label Studio's own message, which differs between unknown and disabled tokens.
        """
        if header is None:
            text = f"Label Studio {event}: LABEL_STUDIO_API_KEY is not set"
            return AccessError(text, Reason.LABEL_STUDIO_NOT_CONFIGURED)
        hint = {
            TokenKind.LEGACY: _unknown_or_off(detail),
            TokenKind.PERSONAL: "the token's user may not see this project, or the token was revoked",
        }.get(self.token_kind, "access tokens expire after minutes; use a personal access token")
        return AccessError(f"Label Studio {event}: {hint}")


def _unknown_or_off(detail: str) -> str:
    """Return why a legacy token is refused; without a message from Label Studio, legacy tokens may be disabled."""
    if "invalid token" in detail.lower():
        return (
            "it knows no such token; it was copied in part, was reset, or is another server's (what is no personal "
            "access token counts as a legacy one)"
        )
    return "legacy tokens are switched off by default; use a personal access token"


def _retry_after_s(reply: httpx.Response) -> float | None:
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 7 else None


def _excerpt(reply: httpx.Response) -> str:
    """Return Label Studio's message about a refused request, shortened; empty for an HTML page."""
    try:
        refusal = msgspec.json.decode(reply.content, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    text = refusal.validation_errors or refusal.detail
    return f": {' '.join(str(text).split())[:LONGEST_EXCERPT]}" if text else ""


def decoded(data: bytes, kind: type[T]) -> T:
    """Return an answer's body as a msgspec type; `RetryLater` if it is something else, most likely a proxy's page."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        name = getattr(kind, "__name__", "an answer").strip("_")
        text = f"expected {name} from Label Studio, got something else: {error}"
        raise RetryLater(text, Reason.LABEL_STUDIO_UNREACHABLE) from error
