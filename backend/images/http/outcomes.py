"""Interprets answers to requests for images: redirects, errors, and whether a retry makes sense."""

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

_TRANSIENT = (408, 425, 429, *range(500, 600))
_PERMANENT = (501, 505, 506, 508, 510, 511)
"""Statuses of 5xx that are permanent: the server lacks a feature, or the network requires a login."""

_MOST_COOKIES, _LONGEST_COOKIE = 20, 4096
_ADDRESS = re.compile(r"([^?#]*)(.*)", re.DOTALL)


class TransientError(RetryLater):
    """A failure after which an immediate retry makes sense."""


def address(url: str) -> httpx.URL:
    """Return an address as it is sent, without a user name or password.

    >>> str(address("https://me:secret@example.org/a b.png"))
    'https://example.org/a%20b.png'

    Raises:
        ImageError: it is not an http or https address.
    """
    shown = without_credentials(url)
    try:
        parsed = httpx.URL(url).copy_with(userinfo=b"")
        is_usable = parsed.scheme in ("http", "https") and bool(parsed.raw_host)
        is_usable = is_usable and (parsed.port is None or 0 < parsed.port < 65536)
        why = ""
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        is_usable, why = False, f": {error}" if shown == url else ""  # the error may quote a part of a password
    if not is_usable:
        raise ImageError(f"{shown[:80]!r} is not an address{why}", Reason.UNSUPPORTED_IMAGE_SOURCE)
    return parsed


def redirected(url: httpx.URL, head: Head) -> httpx.URL:
    """Return the target of a redirect, parsed as browsers do; `ImageError` unless it is an http or https address."""
    if len(set(head.all("location"))) > 1:
        raise ImageError("the server redirects to several addresses at once", Reason.UNSUPPORTED_IMAGE_SOURCE)
    target = re.sub(r"[\t\r\n]", "", head.text("location"))
    match = _ADDRESS.match(target)
    assert match is not None  # the pattern matches any text
    path, rest = match[1].replace("\\", "/"), match[2]
    scheme = re.match(r"(https?):(/*)", path, re.IGNORECASE)
    if scheme and len(scheme[2]) < 2 and scheme[1].lower() == url.scheme:
        path = path[len(scheme[1]) + 1 :]  # "http:/a" and "http:a" are relative
    elif scheme:
        path = f"{scheme[1]}://{path[scheme.end() :]}"
    try:
        if scheme and scheme.end() == len(match[1]):
            raise ValueError("no host")
        return address(urljoin(str(url), path + rest))
    except ImageError as error:
        raise ImageError(f"redirected to {error}", Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    except ValueError as error:
        text = f"redirected to {without_credentials(target)[:80]!r}, which is not an address"
        raise ImageError(text, Reason.UNSUPPORTED_IMAGE_SOURCE) from error


def keep_cookies(head: Head, cookies: dict[str, str]) -> None:
    """Store the cookies that an answer sets, for later requests of the same fetch to that origin."""
    for line in head.all("set-cookie"):
        name, equals, value = line.partition(b";")[0].decode("latin-1").partition("=")
        is_sendable = (name + value).isascii() and (name + value).isprintable() and len(line) <= _LONGEST_COOKIE
        if equals and name.strip() and is_sendable and len(cookies) < _MOST_COOKIES:
            cookies[name.strip()] = value.strip()


def status_error(head: Head, size: int, host: str) -> BackendError | None:
    """Return the error that the status of an answer of ``size`` bytes means, None for a success."""
    status = head.status
    if status == 304 or (status in REDIRECTS and head.text("location")):
        return None
    if 200 <= status < 300:
        is_good = size > 0 or status == 200  # an empty 200 is left to the decoder
        return None if is_good else ImageError(f"{host} answers {status} without an image", Reason.IMAGE_NOT_FOUND)
    if status in (401, 403):
        wanted = "a login" if status == 401 else "a login, a Referer of its own pages or another User-Agent"
        return AccessError(
            f"{host} answers {status}: it refuses the image to this program, which asks as {NAME}, with Label Studio's "
            f"address as Referer and without an API key. It may want {wanted}"
        )
    if status in _TRANSIENT and status not in _PERMANENT:
        return TransientError(f"{host} answers {status}", Reason.IMAGE_FETCH_FAILED)
    return ImageError(f"{host} answers {status}", Reason.IMAGE_NOT_FOUND)


def connection_error(error: Exception, host: str) -> BackendError:
    """Return the error of a failed connection: temporary, except for failures of TLS."""
    refusal = tls.refusal(error)
    if refusal is not None:
        return AccessError(f"{host}: {refusal}", Reason.UNTRUSTED_CERTIFICATE)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ImageError(f"{host} does not speak TLS as this program does: {cause.reason or cause}")
    return TransientError(f"the image cannot be fetched: {error}", Reason.IMAGE_FETCH_FAILED)


def unknown_coding(names: tuple[str, ...], host: str) -> str:
    """Return the error message for unsupported codings."""
    return (
        f"{host} sends content-encoding {', '.join(names)[:80]!r}, which this program did not request and cannot "
        "decode: expected gzip, deflate or none"
    )


def is_complete(data: bytes) -> bool:
    """Whether an image file is complete according to its format; False for TIFF, which does not show it."""
    if data.startswith(b"\xff\xd8\xff"):
        return data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if data.startswith(b"\x89PNG"):
        return data[-12:-4] == b"\0\0\0\0IEND"
    if data.startswith(b"GIF8"):
        return data.endswith(b"\0;")
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little") > 8
    return data.startswith(b"BM") and len(data) >= int.from_bytes(data[2:6], "little") > 0
