"""One request for an image: its answer's content, unpacked, within limits of time, size and memory."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpcore
import httpx

from backend.concurrency.byte_budget import ByteBudget, Share
from backend.errors import ImageError, Reason, RetryLater
from backend.images.http import connections, content_codings, outcomes
from backend.images.http.answers import Head
from backend.images.http.connections import Answer, Proxy
from backend.images.name_resolution import Resolver
from backend.images.network_policy import AddressPolicy, GuardedNetwork, seconds_left
from model import tls

_UNKNOWN_SIZE_BYTES = 4_000_000
"""What is taken of the memory for images where a server does not say how large one is, before it turns out larger."""


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

    def check_size(self, size: int) -> None:
        """Refuse what is larger.

        Raises:
            ImageError: it is (``image_too_large``).
        """
        if size > self.max_bytes:
            raise ImageError(
                f"expected at most {self.max_bytes:,} bytes, got {size:,}; see PADDLE_SAM_MAX_IMAGE_BYTES",
                Reason.IMAGE_TOO_LARGE,
            )


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        head: what came first.
        data: the content, unpacked; of 2xx only.
        share: of the memory for images, which the content holds.
    """

    head: Head
    data: bytes = b""
    share: Share | None = None

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self.head.status


class _NoRoom(Exception):  # noqa: N818 - not an error: the body of a size that was not announced needs more room
    pass


class ImageRequests:
    """Sends requests, each over a connection of its own; safe from many threads."""

    def __init__(
        self, policy: AddressPolicy, limits: Limits, resolver: Resolver, proxy: Proxy | None, budget: ByteBudget
    ) -> None:
        """Connect to nothing yet; see `backend.images.fetch.ImageSource` for the arguments."""
        self._policy, self._limits, self._resolver = policy, limits, resolver
        self._proxy, self._budget, self._tls = proxy, budget, tls.client_context()

    def send(self, url: httpx.URL, headers: Mapping[str, str], deadline: float, *, may_use_proxy: bool) -> Reply:
        """Ask for what lies at an address.

        Args:
            url: http or https.
            headers: beside Host and Connection.
            deadline: on the monotonic clock, in seconds.
            may_use_proxy: whether the proxy may see it, if there is one.

        Raises:
            ImageError: it is too large, or none that can be read.
            AccessError: the address, its certificate or the proxy forbids it.
            RetryLater: the network failed (`outcomes.TransientError`), or time or memory ran out.
        """
        try:
            return self._send(url, headers, deadline, None, may_use_proxy=may_use_proxy)
        except _NoRoom:
            pass  # and no share in hand any more, so that one can be waited for
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
        """Send it once; a ``share`` is room for the largest body that is allowed."""
        network = GuardedNetwork(self._policy, deadline, self._resolver)
        proxy = self._proxy if may_use_proxy else None
        try:
            with connections.get(url, headers, network, self._tls, proxy) as answer:
                if not 200 <= answer.head.status < 300:
                    return Reply(answer.head)
                return Reply(answer.head, *self._body(answer, url.host, deadline, share))
        except httpcore.TimeoutException as error:
            raise RetryLater(
                f"the image took longer than {self._limits.timeout_s:g} s to fetch ({error}); see "
                "PADDLE_SAM_FETCH_TIMEOUT_S",
                Reason.IMAGE_FETCH_FAILED,
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise outcomes.broken(error, url.host) from error

    def _body(self, answer: Answer, host: str, deadline: float, share: Share | None) -> tuple[bytes, Share]:
        """Return an answer's content and the room it holds.

        Raises:
            _NoRoom: it is larger than there is room for just now, and its size was not announced.
        """
        names = content_codings.codings(answer.head.text("content-encoding"))
        announced = answer.head.length
        self._limits.check_size(announced or 0)
        if share is None:
            size = announced if announced is not None and not names else _UNKNOWN_SIZE_BYTES
            share = self._budget.take(min(size, self._limits.max_bytes), seconds_left(deadline))
        content = io.BytesIO()  # gives its bytes away without copying them
        try:
            try:
                for piece in content_codings.decoded(answer.body(), names, self._limited):
                    size = content.tell() + len(piece)
                    if size > share.size and not share.resize(min(2 * size, self._limits.max_bytes)):
                        raise _NoRoom
                    content.write(piece)
            except httpcore.RemoteProtocolError:
                if not outcomes.is_complete(content.getvalue()):
                    raise  # the connection broke; otherwise the server counts wrong, and the image is there
            data = content.getvalue()
            unknown = content_codings.unknown(names)
            if unknown and not outcomes.begins_like_an_image(data):
                raise ImageError(outcomes.unknown_coding(unknown, host))
        except BaseException as error:
            share.release()
            if isinstance(error, content_codings.CodingError):
                raise ImageError(f"{host} sends content-encoding {', '.join(names)[:80]!r}: {error}") from error
            raise
        share.resize(len(data))
        return data, share

    def _limited(self, content: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on as much as a file may have: of what comes over the wire, and of each step of unpacking it."""
        size = 0
        for piece in content:
            size += len(piece)
            self._limits.check_size(size)
            yield piece
