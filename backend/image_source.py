"""Fetch the bytes of an image, within limits of size, time and address.

Who may see what: every image is read with this service's own API key, so it reaches what that key's user may see in
Label Studio, and no more. Whoever writes a task's data names the address, so the key goes only to the paths of Label
Studio's own origin at which it serves the files of tasks (see `backend.locations.serves_task_files`): neither to its
API and pages nor to another host, directly or through a redirect. What else there is on that origin is read as anybody
may read it. Local files are read directly only where an operator shares a directory, and then without Label Studio's
checks. Answers are cached per project and address (see ``backend.embeddings``), so a project only profits from
a fetch that was made for it.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx
import stamina

from backend import addresses
from backend.addresses import AddressPolicy, GuardedNetwork, Origin, Resolve
from backend.errors import AccessError, BackendError, ImageError, Reason, RetryLater
from backend.images import is_web_page
from backend.locations import Home, Inline, LocalFile, Remote, resolve, serves_task_files
from backend.logs import without_credentials
from backend.types import ImageRef

_REDIRECTS = (301, 302, 303, 307, 308)
_USER_AGENT = "paddle-sam-backend"
_LOGIN_PATH = "/user/login"


@dataclass(frozen=True)
class Limits:
    """How much one image may cost.

    Attributes:
        max_bytes: a larger file is refused, before it is read where its size is announced.
        timeout_s: for the whole of it: names, connections, redirects, every byte.
        max_redirects: more are refused.
    """

    max_bytes: int = 200_000_000
    timeout_s: float = 30.0
    max_redirects: int = 5


@dataclass(frozen=True)
class Version:
    """What a server says of the content behind an address, so that it can be asked whether it changed."""

    etag: str = ""
    last_modified: str = ""

    @property
    def is_known(self) -> bool:
        """Whether there is anything to ask with."""
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True)
class Fetched:
    """A fetched image file.

    Attributes:
        data: its bytes.
        version: what its server says of them.
        immutable: whether the content behind this address never changes.
    """

    data: bytes
    version: Version = Version()
    immutable: bool = False


class Authority(Protocol):
    """Who vouches for this service at Label Studio; ``backend.label_studio.LabelStudio`` does."""

    @property
    def url(self) -> str:
        """Label Studio's address, without a slash at the end."""
        ...

    def authorization(self, rejected: str | None = None, within_s: float | None = None) -> str | None:
        """Return the ``Authorization`` header's value within a time, a new one if ``rejected`` is no longer good."""
        ...

    def refusal(self, what: str, header: str | None) -> AccessError:
        """Return the error for a request that Label Studio refused."""
        ...


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    data: bytes = b""


class ImageSource:
    """Fetches images from wherever a task's data says; safe from many threads."""

    def __init__(
        self,
        authority: Authority,
        policy: AddressPolicy,
        limits: Limits | None = None,
        *,
        public_url: str | None = None,
        local_files_root: Path | None = None,
        resolve: Resolve = addresses.resolve,
        retry_wait_s: float = 0.2,
    ) -> None:
        """Connect to nothing yet.

        Args:
            authority: Label Studio's address and token.
            policy: where to connect.
            limits: how much one image may cost.
            public_url: Label Studio's address for browsers, if another; images there are asked of ``authority``.
            local_files_root: a directory to read local files from; None never reads any.
            resolve: names to numeric addresses.
            retry_wait_s: about how long to wait before a failed fetch is tried once more.
        """
        self._authority, self._policy, self._limits = authority, policy, limits or Limits()
        self._home, self._root, self._resolve = Home(authority.url, public_url), local_files_root, resolve
        self._tls: ssl.SSLContext = httpx.create_ssl_context()
        self._retrying = stamina.RetryingCaller(attempts=2, wait_initial=retry_wait_s, wait_jitter=retry_wait_s).on(
            _Transient
        )

    def fetch(self, ref: ImageRef, known: Version | None = None) -> Fetched | None:
        """Return the image file, or None if it is still the ``known`` one.

        Raises:
            ImageError: not there, too large, or an address that is not understood.
            AccessError: a token, an address rule or a path forbids it; the message says what to change.
            RetryLater: the network or a server failed, or it took too long.
        """
        place = resolve(ref, self._home, self._root)
        if isinstance(place, Inline):
            self._check_size(len(place.data))
            return Fetched(place.data, immutable=True)
        if isinstance(place, LocalFile):
            return self._read(place.path, known)
        deadline = time.monotonic() + self._limits.timeout_s

        def download() -> Fetched | None:
            return self._download(place, _sendable(known or Version()), deadline)

        try:
            return self._retrying(download)
        except _Transient as error:
            raise RetryLater(str(error), error.reason) from error

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise ImageError(
                f"expected at most {self._limits.max_bytes:,} bytes, got {size:,}; see PADDLE_SAM_MAX_IMAGE_BYTES",
                Reason.IMAGE_TOO_LARGE,
            )

    def _read(self, path: Path, known: Version | None) -> Fetched | None:
        try:
            with path.open("rb") as file:
                status = path.stat()
                version = Version(etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")
                if known == version:
                    return None
                self._check_size(status.st_size)
                data = file.read(self._limits.max_bytes + 1)
        except OSError as error:
            raise AccessError(f"{path.name} cannot be read: {error.strerror}", Reason.FORBIDDEN_PATH) from error
        self._check_size(len(data))
        return Fetched(data, version)

    def _download(self, place: Remote, known: Version, deadline: float) -> Fetched | None:
        """Follow redirects to the image; the token goes along until the first hop that leaves the task files."""
        url, at_home = place.url, True
        for _ in range(self._limits.max_redirects + 1):
            target = _target(url)
            at_home = at_home and _holds_task_files(target, self._authority.url)
            reply = self._ask(target, at_home, known, deadline)
            if reply.status == 304 and known.is_known:
                return None
            if reply.status == 304:
                raise ImageError("the server answers 304, not modified, to a first request", Reason.IMAGE_NOT_FOUND)
            if reply.status not in _REDIRECTS:
                version = Version(reply.headers.get("etag", ""), reply.headers.get("last-modified", ""))
                return Fetched(reply.data, _sendable(version), place.immutable)
            url = urljoin(url, reply.headers.get("location", ""))
            parts = urlsplit(url)
            if at_home and parts.path.rstrip("/").endswith(_LOGIN_PATH):
                raise self._authority.refusal("asks for a login", self._header(deadline))
            if parts.path.rstrip("/").endswith(_LOGIN_PATH) and self._is_closed(target):
                raise _without_key("asks for a login", target)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ImageError(f"redirected to {without_credentials(url)[:80]!r}", Reason.UNSUPPORTED_IMAGE_SOURCE)
        raise ImageError(f"more than {self._limits.max_redirects} redirects", Reason.IMAGE_NOT_FOUND)

    def _ask(self, target: httpcore.URL, at_home: bool, known: Version, deadline: float) -> _Reply:
        """Return the answer to one request; at home with the token, and with a new one after a 401."""
        header = self._header(deadline) if at_home else None
        reply = self._get(target, header, known, deadline)
        if at_home and reply.status == 401 and header is not None:
            renewed = self._header(deadline, rejected=header)
            if renewed != header:
                reply = self._get(target, renewed, known, deadline)
        if at_home and (reply.status in (401, 403) or (reply.status == 200 and is_web_page(reply.data))):
            what = f"answers {reply.status} for an image" if reply.status != 200 else "answers with a web page"
            raise self._authority.refusal(what, header)
        if reply.status in (401, 403) and self._is_closed(target):
            raise _without_key(f"answers {reply.status}", target)
        failure = _failure(reply, target.host.decode("ascii"))
        if failure is not None:
            raise failure
        return reply

    def _is_closed(self, target: httpcore.URL) -> bool:
        """Whether an address is on Label Studio's origin, where it gets no token."""
        is_home = _is_home(target, Origin.of(self._authority.url))
        return is_home and not _holds_task_files(target, self._authority.url)

    def _header(self, deadline: float, rejected: str | None = None) -> str | None:
        return self._authority.authorization(rejected, max(0.0, deadline - time.monotonic()))

    def _get(self, target: httpcore.URL, header: str | None, known: Version, deadline: float) -> _Reply:
        headers: dict[bytes | str, bytes | str]
        headers = {"User-Agent": _USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        headers |= {"Authorization": header} if header else {}
        headers |= {"If-None-Match": known.etag} if known.etag else {}
        headers |= {"If-Modified-Since": known.last_modified} if known.last_modified else {}
        try:
            network = GuardedNetwork(self._policy, deadline, self._resolve)
            # A pool of its own: the deadline belongs to this fetch, and an image is fetched once.
            with (
                httpcore.ConnectionPool(ssl_context=self._tls, network_backend=network) as pool,
                pool.stream("GET", target, headers=headers) as response,
            ):
                fields = {name.decode("latin-1").lower(): _text(value) for name, value in response.headers}
                data = self._body(response, fields) if response.status == 200 else b""
                return _Reply(response.status, fields, data)
        except httpcore.TimeoutException as error:
            raise RetryLater(
                f"the image took longer than {self._limits.timeout_s:g} s to fetch; see PADDLE_SAM_FETCH_TIMEOUT_S",
                Reason.IMAGE_FETCH_FAILED,
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
            raise _Transient(f"the image cannot be fetched: {error}", Reason.IMAGE_FETCH_FAILED) from error

    def _body(self, response: httpcore.Response, headers: Mapping[str, str]) -> bytes:
        encoding = headers.get("content-encoding", "identity")
        if encoding not in ("identity", ""):
            raise ImageError(f"expected an unencoded image, got content-encoding {encoding[:40]!r}")
        announced = headers.get("content-length", "")
        if announced.isdigit():
            self._check_size(int(announced))
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            self._check_size(len(data))
        return bytes(data)


def _text(value: bytes) -> str:
    """Return a header's value: ASCII by rule, but a redirect may name its target as it is written."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _sendable(version: Version) -> Version:
    """Return a version without what cannot be sent back to the server that told it."""
    etag, last_modified = (said if said.isascii() else "" for said in (version.etag, version.last_modified))
    return Version(etag, last_modified)


class _Transient(RetryLater):
    """A failure after which one more try makes sense at once."""


def _is_home(target: httpcore.URL, home: Origin) -> bool:
    """Whether an address is Label Studio's own, or the same host's one step up from http to https."""
    scheme, host = target.scheme.decode("ascii"), target.host.decode("ascii")
    origin = Origin(scheme, host, target.port or (443 if scheme == "https" else 80))
    return origin == home or (home.port == 80 and origin == Origin("https", home.host, 443))


def _holds_task_files(target: httpcore.URL, label_studio_url: str) -> bool:
    """Whether an address is one of Label Studio's own at which it serves the files of tasks."""
    path, prefix = _path(target), _path(_target(label_studio_url)).rstrip("/")
    is_below = _is_home(target, Origin.of(label_studio_url)) and path.startswith(prefix + "/")
    return is_below and serves_task_files(path[len(prefix) :])


def _path(target: httpcore.URL) -> str:
    """Return the path that goes over the wire, without its query."""
    return target.target.decode("ascii").partition("?")[0]


def _without_key(what: str, target: httpcore.URL) -> AccessError:
    """Return the error for a path of Label Studio's origin that is not public and gets no token."""
    return AccessError(
        f"Label Studio {what} at {without_credentials(_path(target))[:80]!r}, where it serves no files of tasks; its "
        "API key does not go there",
        Reason.FORBIDDEN_PATH,
    )


def _target(url: str) -> httpcore.URL:
    """Return the address as it goes over the wire; a user name or password in it is left out.

    Raises:
        ImageError: it is not an address after all.
    """
    try:
        parsed = httpx.URL(url)
        return httpcore.URL(scheme=parsed.scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        shown = without_credentials(url)
        why = f": {error}" if shown == url else ""  # which may quote a piece of a password
        raise ImageError(f"{shown[:80]!r} is not an address{why}", Reason.UNSUPPORTED_IMAGE_SOURCE) from error


def _failure(reply: _Reply, host: str) -> BackendError | None:
    """Return what an answer's status means, None if it is good."""
    status = reply.status
    if status in (200, 304) or (status in _REDIRECTS and reply.headers.get("location")):
        return None
    if status in (401, 403):
        return AccessError(f"{host} answers {status}: the image is not public, and gets no API key")
    if status == 429 or status >= 500:
        return _Transient(f"{host} answers {status}", Reason.IMAGE_FETCH_FAILED)
    return ImageError(f"{host} answers {status}", Reason.IMAGE_NOT_FOUND)
