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

import httpx
import stamina

from backend.concurrency.byte_budget import DEFAULT_BYTES, ByteBudget, Share
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.decode import is_web_page
from backend.images.http import outcomes
from backend.images.http.connections import Proxy
from backend.images.http.outcomes import NAME, REDIRECTS, TransientError, address
from backend.images.http.requests import FetchLimits, ImageRequests, Reply
from backend.images.locations import (
    Inline,
    LabelStudioOrigin,
    LocalFile,
    Remote,
    inline_size,
    resolve,
    serves_task_files,
)
from backend.label_studio.http import LabelStudioHttp
from backend.logs import without_credentials
from backend.network.deadline_connections import seconds_left
from backend.network.name_resolution import Resolve, Resolver
from backend.network.name_resolution import resolve as look_up
from backend.types import ImageRef

__all__ = ["FetchLimits", "Fetched", "ImageSource", "Route", "Validators"]

_USER_AGENT = f"Mozilla/5.0 (compatible; {NAME})"
"""Hosts that require a browser accept a "compatible" one, as search engines call themselves; the name stays true."""

_LOGIN_PATH = "/user/login"
MAX_REDIRECTS = 5


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

    def sendable(self) -> "Validators":
        """Return those that can be sent back unchanged."""
        values = (self.etag, self.last_modified)
        return Validators(*(value if value.isascii() and value.isprintable() else "" for value in values))


@dataclass(frozen=True)
class Fetched:
    """A fetched image file."""

    data: bytes
    version: Validators = Validators()
    immutable: bool = False
    # the share of the memory for images; release it when the bytes are no longer needed
    share: Share | None = field(default=None, compare=False, repr=False)

    def release(self) -> None:
        """Release the bytes' share of the memory for images."""
        if self.share is not None:
            self.share.release()


@dataclass(frozen=True)
class Route:
    """How the images' servers are reached."""

    resolve: Resolve = look_up
    # used for images on public addresses; never with the token, nor for Label Studio's origin
    proxy: Proxy | None = None


@dataclass
class _Trip:
    """The state of one fetch as it follows redirects."""

    cached: Validators  # the validators of the cached content, which need not be sent again
    deadline: float  # on the monotonic clock, in seconds
    url: httpx.URL
    send_token: bool = True  # whether the token may be sent: all addresses so far serve files of tasks
    # the cookies that each origin has set, sent back there as browsers do; none of Label Studio's
    cookies: dict[Origin, dict[str, str]] = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        return Origin.at(self.url)

    @property
    def path(self) -> str:
        """The current path as it is sent, without its query."""
        return self.url.raw_path.decode("ascii").partition("?")[0]


class ImageSource:
    """Fetches images from the addresses in tasks' data; safe from many threads."""

    def __init__(
        self,
        http: LabelStudioHttp,
        policy: AddressPolicy,
        limits: FetchLimits | None = None,
        *,
        public_url: str | None = None,
        local_files_root: Path | None = None,
        route: Route | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        """Fetch with the address and token of ``http``, each time over a new connection that ``policy`` allows.

        ``public_url`` is Label Studio's address for browsers, if another; its images are fetched from
        ``http.url``. Local files are read from ``local_files_root``, or not at all. ``budget`` is the memory for
        files.
        """
        self._http, self._limits, route = http, limits or FetchLimits(), route or Route()
        self._label_studio, self._root = LabelStudioOrigin(http.url, public_url), local_files_root
        self._page = Origin.of(public_url or http.url)
        self._budget = budget or ByteBudget(max(DEFAULT_BYTES, self._limits.max_bytes))
        self._requests = ImageRequests(policy, self._limits, Resolver(route.resolve), route.proxy, self._budget)
        wait_s = self._limits.retry_wait_s
        self._retrying = stamina.RetryingCaller(2, wait_initial=wait_s, wait_jitter=wait_s).on(TransientError)

    def fetch(self, ref: ImageRef, cached: Validators | None = None) -> Fetched | None:
        """Return the image file, or None if it has not changed since ``cached``.

        Raises:
            ImageError: the image is missing or too large, or its address is not supported.
            AccessError: a token, an address rule or a path forbids it; the message says what to change.
            RetryLater: the network or a server failed, or it took too long.
        """
        deadline = time.monotonic() + self._limits.timeout_s
        share = self._take(size) if (size := inline_size(ref)) is not None else None  # before it is decoded
        location = resolve(ref, self._label_studio, self._root)
        if isinstance(location, Inline):
            self._limits.check_size(len(location.data))
            return Fetched(location.data, immutable=True, share=share)
        if isinstance(location, LocalFile):
            return self._read(location.path, cached)
        remote, validators = location, (cached or Validators()).sendable()
        try:
            return self._retrying(lambda: self._download(_Trip(validators, deadline, address(remote.url)), remote))
        except TransientError as error:
            raise RetryLater(str(error), error.reason) from error

    def _take(self, size: int) -> Share:
        self._limits.check_size(size)
        return self._budget.take(size, self._limits.timeout_s)

    def _read(self, path: Path, cached: Validators | None) -> Fetched | None:
        try:
            with path.open("rb") as file:
                status = path.stat()
                version = Validators(etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")
                if cached == version:
                    return None
                share = self._take(status.st_size)
                return Fetched(file.read(status.st_size), version, share=share)
        except OSError as error:
            raise AccessError(f"{path.name} cannot be read: {error.strerror}", Reason.FORBIDDEN_PATH) from error

    def _download(self, trip: _Trip, remote: Remote) -> Fetched | None:
        """Follow redirects to the image; the token is sent until the first redirect that leaves the task files."""
        for _ in range(MAX_REDIRECTS + 1):
            is_private = self._is_private_path(trip)
            trip.send_token = trip.send_token and self._label_studio.is_at(trip.origin) and not is_private
            reply = self._ask(trip, is_private=is_private)
            if reply.status == 304 and trip.cached.is_known:
                return None
            if reply.status == 304:
                raise ImageError("the server answers 304, not modified, to a first request", Reason.IMAGE_NOT_FOUND)
            if reply.status not in REDIRECTS:
                etag, modified = (b", ".join(reply.head.all(name)) for name in ("etag", "last-modified"))
                version = Validators(etag.decode("latin-1"), modified.decode("latin-1")).sendable()
                return Fetched(reply.data, version, remote.immutable, reply.share)
            path, trip.url = trip.path, outcomes.redirected(trip.url, reply.head)
            if trip.url.path.rstrip("/").endswith(_LOGIN_PATH):
                if trip.send_token:
                    raise self._http.refusal("asks for a login", self._header(trip))
                if is_private:
                    raise _without_key("asks for a login", path)
        raise ImageError(f"more than {MAX_REDIRECTS} redirects", Reason.IMAGE_NOT_FOUND)

    def _ask(self, trip: _Trip, *, is_private: bool) -> Reply:
        """Return the answer to one request; to Label Studio with the token, and with a new one after a 401."""
        header = self._header(trip) if trip.send_token else None
        reply = self._get(trip, header)
        if reply.status == 401 and header is not None and (renewed := self._header(trip, header)) != header:
            reply = self._get(trip, renewed)
        is_refused = reply.status in (401, 403)
        if trip.send_token and (is_refused or (reply.status == 200 and is_web_page(reply.data))):
            event = f"answers {reply.status} for an image" if is_refused else "answers with a web page"
            raise self._http.refusal(event, header)
        if is_refused and is_private:
            raise _without_key(f"answers {reply.status}", trip.path)
        failure = outcomes.status_error(reply.head, len(reply.data), trip.url.host)
        if failure is not None:
            raise failure
        return reply

    def _get(self, trip: _Trip, header: str | None) -> Reply:
        """Send one request and store the cookies of its answer, except Label Studio's."""
        is_label_studio = header is not None or self._label_studio.is_at(trip.origin)
        headers = {"User-Agent": _USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        if self._page.scheme == "http" or trip.url.scheme == "https":
            headers["Referer"] = f"{self._page.url}/"  # as browsers send it for an image: the origin of the page
        cookies = "; ".join(f"{name}={value}" for name, value in trip.cookies.get(trip.origin, {}).items())
        optional = {"Authorization": header, "Cookie": cookies}
        optional |= {"If-None-Match": trip.cached.etag, "If-Modified-Since": trip.cached.last_modified}
        headers |= {name: value for name, value in optional.items() if value}
        may_use_proxy = not is_label_studio and trip.origin != self._page
        reply = self._requests.send(trip.url, headers, trip.deadline, may_use_proxy=may_use_proxy)
        if not is_label_studio:
            outcomes.keep_cookies(reply.head, trip.cookies.setdefault(trip.origin, {}))
        return reply

    def _is_private_path(self, trip: _Trip) -> bool:
        """Whether an address is on Label Studio's origin at a path that does not get the token."""
        prefix = address(self._label_studio.url).raw_path.decode("ascii").rstrip("/")
        is_below = trip.path.startswith(prefix + "/")
        serves_files = is_below and serves_task_files(trip.path[len(prefix) :])
        return self._label_studio.is_at(trip.origin) and not serves_files

    def _header(self, trip: _Trip, rejected: str | None = None) -> str | None:
        return self._http.authorization(rejected, seconds_left(trip.deadline))


def _without_key(event: str, path: str) -> AccessError:
    """Return the error for a path of Label Studio's origin that is not public and gets no token."""
    return AccessError(
        f"Label Studio {event} at {without_credentials(path)[:80]!r}, where it serves no files of tasks; its API key "
        "does not go there",
        Reason.FORBIDDEN_PATH,
    )
