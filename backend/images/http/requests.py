"""Sends one request for an image and returns the decoded content, within limits of time, size and memory."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpcore
import httpx

from backend.concurrency.byte_budget import ByteBudget, Share
from backend.errors import ImageError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, GuardedNetwork
from backend.images.http import connections, content_codings, outcomes
from backend.images.http.answers import Head, read_body
from backend.images.http.connections import Proxy
from backend.network.deadline_connections import seconds_left
from backend.network.name_resolution import Resolver
from model import tls
from model.images.files import kind_of

_UNKNOWN_SIZE_BYTES = 4_000_000  # memory reserved at first for an image whose size the server does not announce


@dataclass(frozen=True)
class FetchLimits:
    """Limits of one fetch."""

    max_bytes: int = 200_000_000  # largest size of a file; an announced larger one is refused before it is read
    timeout_s: float = 30.0  # timeout of the whole fetch: names, connections, redirects, every byte
    retry_wait_s: float = 0.2  # about how long to wait before a failed fetch is retried once

    def check_size(self, size: int) -> None:
        """Raise `ImageError` (``image_too_large``) for a size in bytes above ``max_bytes``."""
        if size > self.max_bytes:
            text = f"expected at most {self.max_bytes:,} bytes, got {size:,}; see PADDLE_SAM_MAX_IMAGE_BYTES"
            raise ImageError(text, Reason.IMAGE_TOO_LARGE)


@dataclass(frozen=True)
class Reply:
    """An answer."""

    head: Head
    data: bytes = b""  # the decoded content; only of 2xx answers
    share: Share | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status


class _NoRoom(Exception):  # noqa: N818 - not an error: a body of unannounced size needs more memory
    pass


class ImageRequests:
    """Sends requests, each over a new connection; safe from many threads."""

    def __init__(
        self, policy: AddressPolicy, limits: FetchLimits, resolver: Resolver, proxy: Proxy | None, budget: ByteBudget
    ) -> None:
        self._policy, self._limits, self._resolver = policy, limits, resolver
        self._proxy, self._budget, self._tls = proxy, budget, tls.client_context()

    def send(self, url: httpx.URL, headers: Mapping[str, str], deadline: float, *, may_use_proxy: bool) -> Reply:
        """Send a GET for an http or https address, with ``headers`` other than Host and Connection.

        Raises:
            ImageError: the answer is too large, or cannot be read.
            AccessError: the address, its certificate or the proxy forbids it.
            RetryLater: the network failed (`outcomes.TransientError`), or time or memory ran out.
        """
        try:
            return self._send(url, headers, deadline, None, may_use_proxy=may_use_proxy)
        except _NoRoom:
            pass  # its share is released, so that waiting for a larger one cannot deadlock
        share = self._budget.take(self._limits.max_bytes, seconds_left(deadline))
        try:
            reply = self._send(url, headers, deadline, share, may_use_proxy=may_use_proxy)
        except BaseException:
            share.release()
            raise
        if reply.share is None:
            share.release()
        return reply

    def _send(
        self, url: httpx.URL, headers: Mapping[str, str], deadline: float, share: Share | None, *, may_use_proxy: bool
    ) -> Reply:
        """Send a request once; a ``share`` is memory for the largest body that is allowed."""
        network = GuardedNetwork(self._policy, deadline, self._resolver)
        proxy = self._proxy if may_use_proxy else None
        try:
            with connections.get(url, headers, network, self._tls, proxy) as (head, stream):
                if not 200 <= head.status < 300:
                    return Reply(head)
                return Reply(head, *self._body(head, stream, url.host, deadline, share))
        except httpcore.TimeoutException as error:
            took = f"the image took longer than {self._limits.timeout_s:g} s to fetch ({error})"
            raise RetryLater(f"{took}; see PADDLE_SAM_FETCH_TIMEOUT_S", Reason.IMAGE_FETCH_FAILED) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise outcomes.connection_error(error, url.host) from error

    def _body(
        self, head: Head, stream: io.BufferedIOBase, host: str, deadline: float, share: Share | None
    ) -> tuple[bytes, Share]:
        """Return an answer's content and its share of the memory; `_NoRoom` if that must grow and cannot."""
        names = content_codings.codings(head.text("content-encoding"))
        announced = head.length
        self._limits.check_size(announced or 0)
        if share is None:
            size = announced if announced is not None and not names else _UNKNOWN_SIZE_BYTES
            share = self._budget.take(min(size, self._limits.max_bytes), seconds_left(deadline))
        content = io.BytesIO()  # returns its bytes without copying them
        try:
            try:
                for piece in content_codings.decoded(read_body(head, stream), names, self._limited):
                    size = content.tell() + len(piece)
                    if size > share.size and not share.resize(min(2 * size, self._limits.max_bytes)):
                        raise _NoRoom
                    content.write(piece)
            except httpcore.RemoteProtocolError:
                if not outcomes.is_complete(content.getvalue()):
                    raise  # the connection broke; otherwise the announced length is wrong and the image complete
            data = content.getvalue()
            unknown = content_codings.unknown(names)
            if unknown and not kind_of(data):
                raise ImageError(outcomes.unknown_coding(unknown, host))
        except BaseException as error:
            share.release()
            if isinstance(error, content_codings.CodingError):
                raise ImageError(f"{host} sends content-encoding {', '.join(names)[:80]!r}: {error}") from error
            raise
        share.resize(len(data))
        return data, share

    def _limited(self, content: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on pieces up to the size limit: of the received bytes, and of the result of each coding."""
        size = 0
        for piece in content:
            size += len(piece)
            self._limits.check_size(size)
            yield piece
