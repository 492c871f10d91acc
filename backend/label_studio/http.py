"""Sends requests to Label Studio's API: adds the token, retries, and turns refusals into errors.

Label Studio has two kinds of API key. A *legacy token* is sent in the header unchanged, and is switched off by default.
A *personal access token* is a JWT that must be exchanged for an access token, valid five minutes.
"""

import concurrent.futures
import copy
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import msgspec
import stamina

from backend.errors import AccessError, BackendError, Reason, RequestError, RetryLater
from backend.label_studio.tokens import TokenKind, lifetime_s, token_kind
from backend.logs import without_credentials
from backend.types import Secret
from model import tls

T = TypeVar("T")

KEPT_CONNECTIONS = 16
LONGEST_EXCERPT = 300
_RENEW_AT = 0.8
_REFRESH = "/api/token/refresh"
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(frozen=True, repr=False)
class Request:
    """A request to the API; its body may hold a token, so it has no repr.

    Attributes:
        method: the HTTP method.
        path: the path below Label Studio's address.
        params: the parameters of the query.
        body: JSON, empty where there is none.
        is_repeatable: whether sending it twice has the same effect as sending it once.
        timeout_s: timeout of each step (connect, send, each read); None for the client's default.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_repeatable: bool = True
    timeout_s: float | None = None


class RefusedError(RequestError):
    """Label Studio refuses a request.

    Attributes:
        status: the HTTP status of the answer.
    """

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


class _Refresh(msgspec.Struct):
    refresh: str


class _Refreshed(msgspec.Struct):
    access: str


class _Refusal(msgspec.Struct):
    detail: object = None
    validation_errors: object = None


class LabelStudioHttp:
    """Sends requests as one user; safe from many threads.

    Attributes:
        url: Label Studio's address, without a slash at the end.
        token_kind: the kind of the API key.
    """

    def __init__(
        self,
        url: str,
        api_key: Secret | None,
        *,
        timeout_s: float,
        attempts: int,
        retry_wait_s: float,
        keeps_connections: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an HTTP client; see `backend.label_studio.client.LabelStudio` for the arguments."""
        self.url = url.rstrip("/")
        self.token_kind = token_kind(api_key)
        self._api_key, self._clock = api_key, clock
        # No proxies from the environment: the token is sent to Label Studio only.
        limits = httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS if keeps_connections else 0)
        self._client = httpx.Client(
            timeout=timeout_s, trust_env=False, verify=tls.client_context(), follow_redirects=False, limits=limits
        )
        self._retrying = stamina.RetryingCaller(
            attempts=attempts, wait_initial=retry_wait_s, wait_jitter=retry_wait_s, wait_max=2.0
        ).on(_is_worth_another_try)
        self._lock = threading.Lock()
        self._access: str | None = None
        self._renew_at = 0.0
        self._exchange: Future[str] | None = None  # the running exchange

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def authorization(self, rejected: str | None = None, within_s: float | None = None) -> str | None:
        """Return the value of the ``Authorization`` header; see `LabelStudio.authorization`."""
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
        return f"Bearer {self._access_token(self._api_key, rejected, within_s)}"

    def _access_token(self, api_key: Secret, rejected: str | None, within_s: float | None) -> str:
        """Return an access token; concurrent callers share one exchange and its result or failure."""
        with self._lock:
            is_good = self._access is not None and self._clock() < self._renew_at
            if self._access is not None and is_good and rejected != f"Bearer {self._access}":
                return self._access
            exchange = self._exchange
            if exchange is None:
                # In a separate thread, so that each caller can stop waiting at its own timeout.
                exchange = Future()
                threading.Thread(target=self._renew, args=(api_key, exchange), name="token", daemon=True).start()
                self._exchange = exchange
        try:
            return exchange.result(within_s)
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, each a copy
        except concurrent.futures.TimeoutError:
            raise RetryLater(
                f"Label Studio at {self.url} takes too long to exchange the personal access token",
                Reason.LABEL_STUDIO_UNREACHABLE,
            ) from None

    def _renew(self, api_key: Secret, exchange: "Future[str]") -> None:
        """Exchange the personal access token; set the result or the failure of ``exchange`` in any case."""
        started_at = self._clock()
        access, renew_at, failure = None, 0.0, None
        try:
            body = msgspec.json.encode(_Refresh(api_key.value))
            access = decoded(self._retried(Request("POST", _REFRESH, body=body), None), _Refreshed).access
            renew_at = started_at + _RENEW_AT * lifetime_s(access)
        except Exception as error:  # noqa: BLE001 - a defect must not leave callers waiting; they raise it
            failure = error
        with self._lock:
            self._access, self._renew_at, self._exchange = access, renew_at, None
        if access is None:
            exchange.set_exception(failure)
        else:
            exchange.set_result(access)

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
        """Send a request with the token, and again with a new one after a 401; return the answer's body.

        Raises:
            BackendError: see `get`.
        """
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
        headers = {"Content-Type": "application/json"} if request.body else {}
        if header:
            headers["Authorization"] = header
        try:
            reply = self._client.request(
                request.method,
                self.url + request.path,
                params=request.params,
                content=request.body,
                headers=headers,
                timeout=httpx.USE_CLIENT_DEFAULT if request.timeout_s is None else request.timeout_s,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refusal = tls.refusal(error)
            if refusal is not None:
                raise AccessError(f"Label Studio at {self.url}: {refusal}", Reason.UNTRUSTED_CERTIFICATE) from error
            # httpx parses a redirect's target although it does not follow it.
            if isinstance(error, httpx.InvalidURL) or "Invalid URL in location header" in str(error):
                raise AccessError(
                    f"Label Studio at {self.url} redirects to what is no address; set LABEL_STUDIO_URL to where it "
                    "really is",
                    Reason.LABEL_STUDIO_NOT_CONFIGURED,
                ) from error
            raise RetryLater(
                f"Label Studio at {self.url} cannot be reached: {error}", Reason.LABEL_STUDIO_UNREACHABLE
            ) from error
        if reply.is_success:
            return reply.content
        raise self._failure(reply, request.path, header)

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
            return AccessError(
                f"Label Studio at {self.url} redirects to {target[:200]}; set LABEL_STUDIO_URL to where it really is",
                Reason.LABEL_STUDIO_NOT_CONFIGURED,
            )
        return RefusedError(f"Label Studio answers {status} to {path}{_excerpt(reply)}", status)

    def refusal(self, what: str, header: str | None, detail: str = "") -> AccessError:
        """Return the error for a request that Label Studio refused, with advice for an operator.

        Args:
            what: what was refused.
            header: the value of ``Authorization`` that it was sent with.
            detail: Label Studio's own message, which differs between unknown and disabled tokens.
        """
        if header is None:
            return AccessError(
                f"Label Studio {what}: LABEL_STUDIO_API_KEY is not set", Reason.LABEL_STUDIO_NOT_CONFIGURED
            )
        hint = {
            TokenKind.LEGACY: _unknown_or_off(detail),
            TokenKind.PERSONAL: "the token's user may not see this project, or the token was revoked",
        }.get(self.token_kind, "access tokens expire after minutes; use a personal access token")
        return AccessError(f"Label Studio {what}: {hint}")


def _unknown_or_off(detail: str) -> str:
    """Return why a legacy token is refused; without a message from Label Studio, legacy tokens may be disabled."""
    if "invalid token" in detail.lower():
        return (
            "it knows no such token; it was copied in part, was reset, or is another server's (what is no personal "
            "access token counts as a legacy one)"
        )
    return "legacy tokens are switched off by default; use a personal access token"


def _is_worth_another_try(error: Exception) -> bool:
    """Whether to retry at once; a ``Retry-After`` time is left to the caller."""
    return isinstance(error, RetryLater) and error.retry_after_s is None


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
    """Return an answer's body as a msgspec type.

    Raises:
        RetryLater: it is something else, most likely a proxy's page.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        name = getattr(kind, "__name__", "an answer").strip("_")
        raise RetryLater(
            f"expected {name} from Label Studio, got something else: {error}", Reason.LABEL_STUDIO_UNREACHABLE
        ) from error
