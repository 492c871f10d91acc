"""What an answer to a request for an image means: where it leads, why it is none, whether trying again makes sense."""

import re
import ssl
from urllib.parse import urljoin

import httpx

from backend.errors import AccessError, BackendError, ImageError, Reason, RetryLater
from backend.images.http.answers import Head
from backend.logs import without_credentials
from model import tls

NAME = "paddle-sam-backend"
REDIRECTS = (301, 302, 303, 307, 308)

_PASSING = (408, 425, 429, *range(500, 600))
_LASTING = (501, 505, 506, 508, 510, 511)
"""Those of 5xx that say what a server cannot do, or that a login to the network is missing."""

_MOST_COOKIES, _LONGEST_COOKIE = 20, 4096
_ADDRESS = re.compile(r"([^?#]*)(.*)", re.DOTALL)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


class TransientError(RetryLater):
    """A failure after which one more try makes sense at once."""


def address(url: str) -> httpx.URL:
    """Return an address as it goes over the wire; a user name or password in it goes nowhere.

    Raises:
        ImageError: it is none of http or https.
    """
    shown = without_credentials(url)
    try:
        parsed = httpx.URL(url).copy_with(userinfo=b"")
        is_stale_usable = parsed.scheme in ("http", "https") and bool(parsed.raw_host)
        is_stale_usable = is_stale_usable and (parsed.port is None or 0 < parsed.port < 65536)
        why = ""
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        is_stale_usable, why = False, f": {error}" if shown == url else ""  # which may quote a piece of a password
    if not is_stale_usable:
        raise ImageError(f"{shown[:80]!r} is not an address{why}", Reason.UNSUPPORTED_IMAGE_SOURCE)
    return parsed


def redirected(here: httpx.URL, head: Head) -> httpx.URL:
    """Return where a redirect leads, read as browsers read it.

    Raises:
        ImageError: nowhere that images are fetched from.
    """
    if len(set(head.all("location"))) > 1:
        raise ImageError("the server redirects to several addresses at once", Reason.UNSUPPORTED_IMAGE_SOURCE)
    told = re.sub(r"[\t\r\n]", "", head.text("location"))
    found = _ADDRESS.match(told)
    assert found is not None  # it matches everything
    path, rest = found[1].replace("\\", "/"), found[2]
    scheme = re.match(r"(https?):(/*)", path, re.IGNORECASE)
    if scheme and len(scheme[2]) < 2 and scheme[1].lower() == here.scheme:
        path = path[len(scheme[1]) + 1 :]  # "http:/a" and "http:a" are relative
    elif scheme:
        path = f"{scheme[1]}://{path[scheme.end() :]}"
    try:
        if scheme and scheme.end() == len(found[1]):
            raise ValueError("no host")
        return address(urljoin(str(here), path + rest))
    except ImageError as error:
        raise ImageError(f"redirected to {error}", Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    except ValueError as error:
        shown = without_credentials(told)[:80]
        raise ImageError(
            f"redirected to {shown!r}, which is not an address", Reason.UNSUPPORTED_IMAGE_SOURCE
        ) from error


def keep_cookies(head: Head, kept: dict[str, str]) -> None:
    """Keep what an answer sets, for the next request to the same origin on the way to one image."""
    for line in head.all("set-cookie"):
        name, equals, value = line.partition(b";")[0].decode("latin-1").partition("=")
        is_sendable = (name + value).isascii() and (name + value).isprintable() and len(line) <= _LONGEST_COOKIE
        if equals and name.strip() and is_sendable and len(kept) < _MOST_COOKIES:
            kept[name.strip()] = value.strip()


def failure(head: Head, size: int, host: str) -> BackendError | None:
    """Return what the status of an answer of ``size`` bytes means, None if it is good."""
    status = head.status
    if status == 304 or (status in REDIRECTS and head.text("location")):
        return None
    if 200 <= status < 300:
        is_good = size > 0 or status == 200  # which is left to the decoder to name
        return None if is_good else ImageError(f"{host} answers {status} without an image", Reason.IMAGE_NOT_FOUND)
    if status in (401, 403):
        wanted = "a login" if status == 401 else "a login, a Referer of its own pages or another User-Agent"
        return AccessError(
            f"{host} answers {status}: it refuses the image to this program, which asks as {NAME}, with Label Studio's "
            f"address as Referer and without an API key. It may want {wanted}"
        )
    if status in _PASSING and status not in _LASTING:
        return TransientError(f"{host} answers {status}", Reason.IMAGE_FETCH_FAILED)
    return ImageError(f"{host} answers {status}", Reason.IMAGE_NOT_FOUND)


def broken(error: Exception, host: str) -> BackendError:
    """Return what a failed connection means: most of them pass, those that TLS refuses do not."""
    refusal = tls.refusal(error)
    if refusal is not None:
        return AccessError(f"{host}: {refusal}", Reason.UNTRUSTED_CERTIFICATE)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ImageError(f"{host} does not speak TLS as this program does: {cause.reason or cause}")
    return TransientError(f"the image cannot be fetched: {error}", Reason.IMAGE_FETCH_FAILED)


def unknown_coding(names: tuple[str, ...], host: str) -> str:
    """Return what to say about codings that are not undone."""
    return (
        f"{host} sends content-encoding {', '.join(names)[:80]!r}, which was not asked for and is not undone here: "
        "expected gzip, deflate or none"
    )


def begins_like_an_image(data: bytes) -> bool:
    """Whether a file begins as those do that are read."""
    return data.startswith(_BEGINNINGS)


def is_complete(data: bytes) -> bool:
    """Whether a file is an image that its own format says ends here; of TIFF it cannot be told."""
    if data.startswith(b"\xff\xd8\xff"):
        return data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if data.startswith(b"\x89PNG"):
        return data[-12:-4] == b"\0\0\0\0IEND"
    if data.startswith(b"GIF8"):
        return data.endswith(b"\0;")
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little") > 8
    return data.startswith(b"BM") and len(data) >= int.from_bytes(data[2:6], "little") > 0
