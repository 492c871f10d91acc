"""Sends a GET over a new connection: to the image's server, or through the proxy that an operator configured."""

import base64
import io
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from backend.errors import AccessError, ImageError, Reason
from backend.images.allowed_addresses import GuardedNetwork, Origin
from backend.images.http import answers
from backend.images.http.answers import Head
from backend.network.deadline_connections import DeadlineStream

_ILLEGAL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class Proxy:
    """A proxy through which images are fetched; its repr hides the credentials.

    >>> Proxy.of("http://me:secret@proxy:3128")
    Proxy(origin=Origin(scheme='http', host='proxy', port=3128))
    """

    origin: Origin
    authorization: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> "Proxy":
        """Return the proxy at an address such as ``http://user:password@proxy:3128``, which has been validated."""
        parts = urlsplit(url)
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if "@" in parts.netloc else ""
        return cls(Origin.of(url), f"Basic {base64.b64encode(login.encode()).decode()}" if login else "")

    def __str__(self) -> str:
        return f"the image proxy {self.origin.host}:{self.origin.port}"


@contextmanager
def get(
    url: httpx.URL, headers: Mapping[str, str], network: GuardedNetwork, tls: ssl.SSLContext, proxy: Proxy | None
) -> Iterator[tuple[Head, io.BufferedIOBase]]:
    """Send a GET; yield the head of the answer and the connection, which is open until the context ends.

    ``headers`` are those other than Host and Connection. The proxy is used if the address is public.

    Raises:
        AccessError: the host is not allowed, or the proxy refuses.
        ImageError: the answer is not HTTP.
        httpcore.TimeoutException: the deadline has passed.
        httpcore.NetworkError, httpcore.ProtocolError: the connection failed.
    """
    origin = Origin.at(url)
    host = origin.host
    if proxy is not None and not network.goes_through_proxy(host, origin.port):
        proxy = None
    stream = network.connect(host, origin.port) if proxy is None else _through(proxy, url, network, tls)
    target, headers = url.raw_path, {**headers, "Connection": "close"}
    try:
        if url.scheme == "https":
            stream.start_tls(tls, host)
        elif proxy is not None:
            target = b"http://" + origin.host_and_port.encode("ascii") + target
            headers |= {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        # httpx writes Host, for both of this program's clients: brackets around IPv6, no default port, no credentials.
        request = httpx.Request("GET", url, headers=headers)
        stream.send(_lines(b"GET " + target, request.headers.raw))
        with io.BufferedReader(stream, answers.PIECE_BYTES) as reader:
            head = answers.read_head(reader)
            if proxy is not None and head.status == 407:
                raise _refused(proxy, host, head.status)
            yield head, reader
    finally:
        stream.close()


def _through(proxy: Proxy, url: httpx.URL, network: GuardedNetwork, tls: ssl.SSLContext) -> DeadlineStream:
    """Return a connection to the proxy; for https, one through it to the image's server."""
    try:
        stream = network.connect(proxy.origin.host, proxy.origin.port, is_checked=False)
        try:
            if proxy.origin.scheme == "https":
                stream.start_tls(tls, proxy.origin.host)
            if url.scheme == "https":
                _open_tunnel(proxy, url, stream)
        except BaseException:
            stream.close()
            raise
    except httpcore.ConnectError as error:
        raise httpcore.ConnectError(f"{proxy}: {error}") from error
    return stream


def _open_tunnel(proxy: Proxy, url: httpx.URL, stream: DeadlineStream) -> None:
    host = Origin.at(url).host_and_port.encode("ascii")
    headers = [(b"Host", host)]
    headers += [(b"Proxy-Authorization", proxy.authorization.encode("ascii"))] if proxy.authorization else []
    stream.send(_lines(b"CONNECT " + host, headers))
    reader = io.BufferedReader(stream, 1)  # the bytes after the head belong to the tunnel
    try:
        status = answers.read_head(reader).status
    finally:
        reader.detach()
    if status >= 500:
        raise httpcore.RemoteProtocolError(f"{proxy} answers {status}")
    if not 200 <= status < 300:
        raise _refused(proxy, host.decode("ascii"), status)


def _refused(proxy: Proxy, host: str, status: int) -> AccessError:
    if status == 407:
        return AccessError(f"{proxy} answers 407: it wants other credentials than PADDLE_SAM_IMAGE_PROXY has")
    return AccessError(f"{proxy} answers {status} when asked for {host}", Reason.FORBIDDEN_ADDRESS)


def _lines(request: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if _ILLEGAL.search(value):
            raise ImageError(f"{name.decode('latin-1')} cannot be sent: it holds a control character")
    fields = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return request + b" HTTP/1.1\r\n" + fields + b"\r\n"
