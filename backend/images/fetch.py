"""Fetches the bytes of an image, within limits of size, time and address.

Access: images are read with this service's own API key, so it can read what that key's user may see in Label Studio,
and no more. The author of a task's data chooses the address, so the key is sent only to the paths of Label Studio's own
origin at which it serves the files of tasks (see `backend.images.locations.serves_task_files`): never to its API and
pages nor to another host, directly or through a redirect. Other paths of that origin are read without the key. Local
files are read from disk only where an operator shares a directory, and then without Label Studio's checks. Answers are
cached per project and address (see ``backend.embeddings.local``), so a project uses only fetches that were made for it.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import stamina

from backend.concurrency.byte_budget import DEFAULT_BYTES, ByteBudget, Share
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.images.decode import is_web_page
from backend.images.http import outcomes
from backend.images.http.answers import Head
from backend.images.http.connections import Proxy, port_of
from backend.images.http.outcomes import NAME, REDIRECTS, TransientError, address
from backend.images.http.requests import ImageRequests, Limits, Reply
from backend.images.locations import Inline, LabelStudioOrigin, LocalFile, inline_size, resolve, serves_task_files
from backend.images.network_policy import AddressPolicy, Origin
from backend.logs import without_credentials
from backend.network.deadlines import seconds_left
from backend.network.name_resolution import Resolve, Resolver
from backend.network.name_resolution import resolve as look_up
from backend.types import ImageRef

__all__ = ["Fetched", "ImageSource", "LabelStudioAuth", "Limits", "Validators"]

_USER_AGENT = f"Mozilla/5.0 (compatible; {NAME})"
"""Hosts that require a browser accept a "compatible" one, as search engines call themselves; the name stays true."""

_LOGIN_PATH = "/user/login"


@dataclass(frozen=True)
class Validators:
    """The validators of a cached answer (RFC 9111), with which a server is asked whether the content has changed.

    >>> Validators(etag='"abc"').is_known, Validators().is_known
    (True, False)
    """

    etag: str = ""
    last_modified: str = ""

    @property
    def is_known(self) -> bool:
        """Whether there is any validator to send."""
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True)
class Fetched:
    """A fetched image file.

    Attributes:
        data: its bytes.
        version: the validators in the server's answer.
        immutable: whether the content at this address never changes.
        share: the share of the memory for images; release it when the bytes are no longer needed.
    """

    data: bytes
    version: Validators = Validators()
    immutable: bool = False
    share: Share | None = field(default=None, compare=False, repr=False)

    def release(self) -> None:
        """Release the bytes' share of the memory for images."""
        if self.share is not None:
            self.share.release()


class LabelStudioAuth(Protocol):
    """Authenticates this service at Label Studio; ``backend.label_studio.http.LabelStudioHttp`` does."""

    @property
    def url(self) -> str:
        """Label Studio's address, without a slash at the end."""
        ...

    def authorization(self, rejected: str | None = None, within_s: float | None = None) -> str | None:
        """Return the ``Authorization`` header's value within ``within_s``; a new one if ``rejected`` was refused."""
        ...

    def refusal(self, what: str, header: str | None) -> AccessError:
        """Return the error for a request that Label Studio refused."""
        ...


@dataclass
class _Trip:
    """The state of one fetch as it follows redirects.

    Attributes:
        cached: the validators of the cached content, which need not be sent again.
        deadline: on the monotonic clock, in seconds.
        url: the current address.
        send_token: whether the token may be sent: all addresses so far serve files of tasks.
        cookies: the cookies that each origin has set, sent back there as browsers do; none of Label Studio's.
    """

    cached: Validators
    deadline: float
    url: httpx.URL
    send_token: bool = True
    cookies: dict[Origin, dict[str, str]] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        return seconds_left(self.deadline)


class ImageSource:
    """Fetches images from the addresses in tasks' data; safe from many threads."""

    def __init__(
        self,
        authority: LabelStudioAuth,
        policy: AddressPolicy,
        limits: Limits | None = None,
        *,
        public_url: str | None = None,
        local_files_root: Path | None = None,
        resolve: Resolve = look_up,
        proxy: Proxy | None = None,
        budget: ByteBudget | None = None,
        retry_wait_s: float = 0.2,
    ) -> None:
        """Make a source; it connects for each fetch.

        Args:
            authority: Label Studio's address and token.
            policy: the addresses that may be connected to.
            limits: limits of size and time of one image.
            public_url: Label Studio's address for browsers, if another; its images are fetched from ``authority.url``.
            local_files_root: a directory to read local files from; None to read none.
            resolve: returns the numeric addresses of a name.
            proxy: used for images on public addresses; never with the token, nor for Label Studio's origin.
            budget: the memory for files; None for a new one.
            retry_wait_s: about how long to wait before a failed fetch is retried once.
        """
        self._authority, self._limits = authority, limits or Limits()
        self._label_studio, self._root = LabelStudioOrigin(authority.url, public_url), local_files_root
        self._page = Origin.of(public_url or authority.url)
        self._budget = budget or ByteBudget(max(DEFAULT_BYTES, self._limits.max_bytes))
        self._requests = ImageRequests(policy, self._limits, Resolver(resolve), proxy, self._budget)
        self._retrying = stamina.RetryingCaller(attempts=2, wait_initial=retry_wait_s, wait_jitter=retry_wait_s).on(
            TransientError
        )

    def fetch(self, ref: ImageRef, cached: Validators | None = None) -> Fetched | None:
        """Return the image file, or None if it has not changed since ``cached``.

        Raises:
            ImageError: the image is missing or too large, or its address is not supported.
            AccessError: a token, an address rule or a path forbids it; the message says what to change.
            RetryLater: the network or a server failed, or it took too long.
        """
        deadline = time.monotonic() + self._limits.timeout_s
        size = inline_size(ref)
        if size is not None:
            return self._inline(ref, size)
        location = resolve(ref, self._label_studio, self._root)
        assert not isinstance(location, Inline)
        if isinstance(location, LocalFile):
            return self._read(location.path, cached)

        def download() -> Fetched | None:
            trip = _Trip(_sendable(cached or Validators()), deadline, address(location.url))
            return self._download(trip, immutable=location.immutable)

        try:
            return self._retrying(download)
        except TransientError as error:
            raise RetryLater(str(error), error.reason) from error

    def _inline(self, ref: ImageRef, size: int) -> Fetched:
        self._limits.check_size(size)
        share = self._budget.take(size, self._limits.timeout_s)
        location = resolve(ref, self._label_studio, self._root)
        assert isinstance(location, Inline)
        self._limits.check_size(len(location.data))
        return Fetched(location.data, immutable=True, share=share)

    def _read(self, path: Path, cached: Validators | None) -> Fetched | None:
        try:
            with path.open("rb") as file:
                status = path.stat()
                version = Validators(etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")
                if cached == version:
                    return None
                self._limits.check_size(status.st_size)
                share = self._budget.take(status.st_size, self._limits.timeout_s)
                data = file.read(status.st_size)
        except OSError as error:
            raise AccessError(f"{path.name} cannot be read: {error.strerror}", Reason.FORBIDDEN_PATH) from error
        return Fetched(data, version, share=share)

    def _download(self, trip: _Trip, *, immutable: bool) -> Fetched | None:
        """Follow redirects to the image; the token is sent until the first redirect that leaves the task files."""
        for _ in range(self._limits.max_redirects + 1):
            here = trip.url
            trip.send_token = trip.send_token and _holds_task_files(here, self._authority.url)
            reply = self._ask(trip)
            if reply.status == 304 and trip.cached.is_known:
                return None
            if reply.status == 304:
                raise ImageError("the server answers 304, not modified, to a first request", Reason.IMAGE_NOT_FOUND)
            if reply.status not in REDIRECTS:
                version = Validators(_validator(reply.head, "etag"), _validator(reply.head, "last-modified"))
                return Fetched(reply.data, version, immutable, reply.share)
            trip.url = outcomes.redirected(here, reply.head)
            asks_for_login = trip.url.path.rstrip("/").endswith(_LOGIN_PATH)
            if trip.send_token and asks_for_login:
                raise self._authority.refusal("asks for a login", self._header(trip))
            if asks_for_login and self._is_private_path(here):
                raise _without_key("asks for a login", here)
        raise ImageError(f"more than {self._limits.max_redirects} redirects", Reason.IMAGE_NOT_FOUND)

    def _ask(self, trip: _Trip) -> Reply:
        """Return the answer to one request; to Label Studio with the token, and with a new one after a 401."""
        header = self._header(trip) if trip.send_token else None
        reply = self._get(trip, header)
        if trip.send_token and reply.status == 401 and header is not None:
            renewed = self._header(trip, rejected=header)
            if renewed != header:
                reply = self._get(trip, renewed)
        if trip.send_token and (reply.status in (401, 403) or (reply.status == 200 and is_web_page(reply.data))):
            what = f"answers {reply.status} for an image" if reply.status != 200 else "answers with a web page"
            raise self._authority.refusal(what, header)
        if reply.status in (401, 403) and self._is_private_path(trip.url):
            raise _without_key(f"answers {reply.status}", trip.url)
        failure = outcomes.failure(reply.head, len(reply.data), trip.url.host)
        if failure is not None:
            raise failure
        return reply

    def _get(self, trip: _Trip, header: str | None) -> Reply:
        """Send one request and store the cookies of its answer, except Label Studio's."""
        url, is_label_studio = trip.url, self._is_label_studio(trip.url)
        origin = Origin(url.scheme, url.host, port_of(url))
        headers = {"User-Agent": _USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        if self._page.scheme == "http" or url.scheme == "https":
            headers["Referer"] = f"{self._page.url}/"  # as browsers send it for an image: the origin of the page
        cookies = "; ".join(f"{name}={value}" for name, value in trip.cookies.get(origin, {}).items())
        optional = {"Authorization": header, "Cookie": cookies}
        optional |= {"If-None-Match": trip.cached.etag, "If-Modified-Since": trip.cached.last_modified}
        headers |= {name: value for name, value in optional.items() if value}
        may_use_proxy = header is None and not is_label_studio and origin != self._page
        reply = self._requests.send(url, headers, trip.deadline, may_use_proxy=may_use_proxy)
        if header is None and not is_label_studio:
            outcomes.keep_cookies(reply.head, trip.cookies.setdefault(origin, {}))
        return reply

    def _is_private_path(self, target: httpx.URL) -> bool:
        """Whether an address is on Label Studio's origin at a path that does not get the token."""
        return self._is_label_studio(target) and not _holds_task_files(target, self._authority.url)

    def _is_label_studio(self, target: httpx.URL) -> bool:
        return _is_label_studio(target, Origin.of(self._authority.url))

    def _header(self, trip: _Trip, rejected: str | None = None) -> str | None:
        return self._authority.authorization(rejected, trip.left_s)


def _validator(head: Head, name: str) -> str:
    """Return a validator of an answer; empty where it cannot be sent back unchanged."""
    value = b", ".join(head.all(name)).decode("latin-1")
    return value if value.isascii() and value.isprintable() else ""


def _sendable(version: Validators) -> Validators:
    """Return validators without those that cannot be sent back unchanged."""
    values = (version.etag, version.last_modified)
    etag, last_modified = (value if value.isascii() and value.isprintable() else "" for value in values)
    return Validators(etag, last_modified)


def _is_label_studio(target: httpx.URL, label_studio: Origin) -> bool:
    """Whether an address is on Label Studio's origin, or on https of the same host where Label Studio's is http."""
    origin = Origin(target.scheme, target.raw_host.decode("ascii"), port_of(target))
    return origin == label_studio or (label_studio.port == 80 and origin == Origin("https", label_studio.host, 443))


def _holds_task_files(target: httpx.URL, label_studio_url: str) -> bool:
    """Whether an address is one at which Label Studio serves the files of tasks."""
    path, prefix = _path(target), _path(address(label_studio_url)).rstrip("/")
    is_below = _is_label_studio(target, Origin.of(label_studio_url)) and path.startswith(prefix + "/")
    return is_below and serves_task_files(path[len(prefix) :])


def _path(target: httpx.URL) -> str:
    """Return the path as it is sent, without its query."""
    return target.raw_path.decode("ascii").partition("?")[0]


def _without_key(what: str, target: httpx.URL) -> AccessError:
    """Return the error for a path of Label Studio's origin that is not public and gets no token."""
    return AccessError(
        f"Label Studio {what} at {without_credentials(_path(target))[:80]!r}, where it serves no files of tasks; its "
        "API key does not go there",
        Reason.FORBIDDEN_PATH,
    )
