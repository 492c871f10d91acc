"""The one client of Label Studio: its tokens, projects, tasks and predictions.

A small client of our own on httpx rather than label-studio-sdk, of which it would use five calls. The SDK 2.1.2 takes
2 to 3 s and 116 MB of memory to import (httpx 0.4 s and 32 MB), brings 73 packages and pins OpenCV's minor version; its
download helper sends a personal access token as it is, which Label Studio refuses. The SDK remains the reference that
tests compare with.

Label Studio knows two kinds of API key. A *legacy token* goes into the header as it is, and is switched off by default.
A *personal access token* is a JWT that must be exchanged for an access token, valid five minutes.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import msgspec
import stamina

from backend.errors import AccessError, BackendError, Reason, RequestError, RetryLater
from backend.tokens import TokenKind, lifetime_s, token_kind
from backend.types import Secret, Task

T = TypeVar("T")

_RENEW_AT = 0.8
_REFRESH = "/api/token/refresh"
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Project:
    """A Label Studio project."""

    id: int
    title: str
    label_config: str


@dataclass(frozen=True, repr=False)
class _Request:
    """A request to the API; its body may hold a token, so it has no repr."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def may_repeat(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method == "GET" or self.path == _REFRESH


class _Refresh(msgspec.Struct):
    refresh: str


class _Refreshed(msgspec.Struct):
    access: str


class _Project(msgspec.Struct):
    id: int
    title: str = ""
    label_config: str = ""


class _Task(msgspec.Struct):
    id: int
    data: Any = None  # Any: whatever the project's tasks hold


class _TaskPage(msgspec.Struct):
    tasks: list[_Task]


class _Version(msgspec.Struct):
    release: str = ""


class _User(msgspec.Struct):
    username: str = ""
    email: str = ""


class _NewPrediction(msgspec.Struct):
    task: int
    result: msgspec.Raw
    score: float
    model_version: str


class LabelStudio:
    """Label Studio's API, as one user.

    Attributes:
        url: its address, without a slash at the end.
        token_kind: what kind of API key is in use.
    """

    def __init__(
        self,
        url: str,
        api_key: Secret | None = None,
        *,
        timeout_s: float = 10.0,
        attempts: int = 3,
        retry_wait_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: address of Label Studio.
            api_key: a legacy or personal access token; None to ask without one.
            timeout_s: for each step of a request (connect, send, each read).
            attempts: how often a request that may be repeated is tried.
            retry_wait_s: about how long to wait before the second try.
            clock: seconds, monotonic.
        """
        self.url = url.rstrip("/")
        self.token_kind = token_kind(api_key)
        self._api_key, self._clock = api_key, clock
        # No proxies from the environment: the token goes to Label Studio and nowhere else. No connections kept: calls
        # are rare, and one that the server has meanwhile closed would fail a request that may not be repeated.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(timeout=timeout_s, trust_env=False, follow_redirects=False, limits=limits)
        self._retrying = stamina.RetryingCaller(
            attempts=attempts, wait_initial=retry_wait_s, wait_jitter=retry_wait_s, wait_max=2.0
        ).on(RetryLater)
        self._lock = threading.Lock()
        self._access: str | None = None
        self._renew_at = 0.0

    def __repr__(self) -> str:
        return f"LabelStudio({self.url!r}, {self.token_kind.value})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def authorization(self, rejected: str | None = None) -> str | None:
        """Return the value of the ``Authorization`` header, None without an API key.

        Args:
            rejected: a value that Label Studio has just answered 401; a personal access token is then exchanged anew.

        Raises:
            AccessError: Label Studio refuses the personal access token.
            RetryLater: Label Studio cannot be reached.
        """
        if self._api_key is None or self.token_kind is TokenKind.NONE:
            return None
        if self.token_kind is TokenKind.LEGACY:
            return f"Token {self._api_key.value}"
        if self.token_kind is TokenKind.ACCESS:
            return f"Bearer {self._api_key.value}"
        with self._lock:
            current = f"Bearer {self._access}"
            if self._access is None or self._clock() >= self._renew_at or rejected == current:
                self._access = self._exchange(self._api_key)
            return f"Bearer {self._access}"

    def _exchange(self, api_key: Secret) -> str:
        self._access = None
        asked_at = self._clock()
        body = msgspec.json.encode(_Refresh(api_key.value))
        reply = self._retried(_Request("POST", _REFRESH, body=body), None)
        access = _decoded(reply, _Refreshed).access
        self._renew_at = asked_at + _RENEW_AT * lifetime_s(access)
        return access

    def version(self) -> str:
        """Return Label Studio's release, e.g. ``1.23.2``; needs no token."""
        return _decoded(self._retried(_Request("GET", "/api/version"), None), _Version).release

    def user(self) -> str:
        """Return who the API key belongs to."""
        found = _decoded(self._authorised(_Request("GET", "/api/current-user/whoami")), _User)
        return found.email or found.username

    def project(self, project_id: int) -> Project:
        """Return a project."""
        found = _decoded(self._authorised(_Request("GET", f"/api/projects/{project_id}/")), _Project)
        return Project(found.id, found.title, found.label_config)

    def next_tasks(self, project_id: int, after_task_id: int, count: int) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks that follow a task in order of id, as an annotator meets them."""
        items = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after_task_id},
            {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": True},
        ]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        params = {
            "project": str(project_id),
            "page": "1",
            "page_size": str(count),
            "resolve_uri": "false",
            "query": json.dumps(query),
        }
        page = _decoded(self._authorised(_Request("GET", "/api/tasks", params)), _TaskPage)
        return tuple(Task(task.id, task.data) for task in page.tasks[:count])

    def create_prediction(self, task_id: int, result: msgspec.Raw, score: float, model_version: str) -> None:
        """Store a prediction; tried once, since repeating it could store two.

        Args:
            task_id: the task it is about.
            result: JSON, the list of regions.
            score: in [0, 1].
            model_version: as in the answer to /setup.
        """
        body = msgspec.json.encode(_NewPrediction(task_id, result, score, model_version))
        self._authorised(_Request("POST", "/api/predictions/", body=body))

    def _authorised(self, request: _Request) -> bytes:
        """Send a request with the token, once more with a new one after a 401."""
        header = self.authorization()
        try:
            return self._retried(request, header)
        except AccessError as error:
            if self.token_kind is not TokenKind.PERSONAL or error.reason is not Reason.AUTH_FAILED:
                raise
        return self._retried(request, self.authorization(rejected=header))

    def _retried(self, request: _Request, header: str | None) -> bytes:
        def send() -> bytes:  # without arguments, since what retries logs them
            return self._once(request, header)

        return self._retrying(send) if request.may_repeat else send()

    def _once(self, request: _Request, header: str | None) -> bytes:
        headers = {"Content-Type": "application/json"} if request.body else {}
        if header:
            headers["Authorization"] = header
        try:
            reply = self._http.request(
                request.method, self.url + request.path, params=request.params, content=request.body, headers=headers
            )
        except httpx.HTTPError as error:
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
        if status in (401, 403):
            return self.refusal(f"answers {status} to {path}", header)
        if status in _TRANSIENT:
            return RetryLater(f"Label Studio answers {status} to {path}", Reason.LABEL_STUDIO_UNREACHABLE)
        if reply.is_redirect:
            target = reply.headers.get("location", "")
            return AccessError(
                f"Label Studio at {self.url} redirects to {target[:200]}; set LABEL_STUDIO_URL to where it really is",
                Reason.LABEL_STUDIO_NOT_CONFIGURED,
            )
        return RequestError(f"Label Studio answers {status} to {path}")

    def refusal(self, what: str, header: str | None) -> AccessError:
        """Return the error for a request that Label Studio refused, with what an operator can do about it."""
        if header is None:
            return AccessError(
                f"Label Studio {what}: LABEL_STUDIO_API_KEY is not set", Reason.LABEL_STUDIO_NOT_CONFIGURED
            )
        hint = {
            TokenKind.LEGACY: "legacy tokens are switched off by default; use a personal access token",
            TokenKind.PERSONAL: "the token's user may not see this project, or the token was revoked",
        }.get(self.token_kind, "access tokens expire after minutes; use a personal access token")
        return AccessError(f"Label Studio {what}: {hint}")


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise RetryLater(
            f"expected {kind.__name__.strip('_')} from Label Studio, got something else: {error}",
            Reason.LABEL_STUDIO_UNREACHABLE,
        ) from error
