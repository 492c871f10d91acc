"""Resolves an image's address in a task's data into the location to fetch it from.

Tasks' data has many spellings: uploads and local files relative to Label Studio, with and without the first
slash; absolute addresses; ``data:`` addresses; and cloud addresses, which Label Studio itself signs or relays.
"""

import base64
import binascii
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, quote, unquote, unquote_to_bytes, urlsplit

from backend.errors import AccessError, ImageError, Reason
from backend.images.allowed_addresses import Origin
from backend.logs import without_credentials
from backend.types import ImageRef

_CLOUD = ("s3", "gs", "azure-blob")
_UPLOADS = ("/data/upload/", "/storage-data/uploaded")
_LOCAL_FILES = "/data/local-files"
_RELATIVE = re.compile(r"/|(data|upload|storage-data|tasks|projects)/")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_DECODED_AT_MOST = 4


@dataclass(frozen=True)
class Inline:
    """An image that is contained in the task's data."""

    data: bytes


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine, in the directory that an operator shares; symbolic links are resolved."""

    path: Path


@dataclass(frozen=True)
class Remote:
    """An http or https address."""

    url: str
    # whether the content at this address never changes, as with Label Studio's uploads, each of which gets a new name
    immutable: bool = False


Location: TypeAlias = Inline | LocalFile | Remote


@dataclass(frozen=True)
class LabelStudioOrigin:
    """Label Studio's addresses; without a slash at the end, and perhaps with a path."""

    url: str  # the address at which this process reaches it
    # the address at which browsers reach it, if another; Label Studio may write it into tasks
    public_url: str | None = None

    def is_at(self, origin: Origin) -> bool:
        """Whether an origin is that of ``url``, or https of the same host where that is http on port 80."""
        own = Origin.of(self.url)
        return origin == own or (own.port == 80 and origin == Origin("https", own.host, 443))

    def path_of(self, uri: str) -> str | None:
        """Return the path, with its query, that an absolute address may have on Label Studio; None if it is elsewhere.

        On the origin of ``url`` every path may be Label Studio's; on that of ``public_url`` only those below its path.

        >>> LabelStudioOrigin("http://studio:8080").path_of("http://studio:8080/data/upload/1/a.png")
        '/data/upload/1/a.png'

        Raises:
            ValueError: it is not an http or https address.
        """
        origin, parts = Origin.of(uri), urlsplit(uri)
        is_own = origin == Origin.of(self.url)
        prefixes = [_prefix(base) for base in self._bases() if Origin.of(base) == origin]
        path = _without(prefixes, parts.path or "/") or (parts.path if is_own else None)
        return None if path is None else path + (f"?{parts.query}" if parts.query else "")

    def without_prefix(self, path: str) -> str:
        """Return a path without the prefix of Label Studio's address, if it begins with that."""
        return _without([_prefix(base) for base in self._bases()], path) or path

    def _bases(self) -> tuple[str, ...]:
        return (self.url,) if self.public_url is None else (self.url, self.public_url)


def _prefix(base: str) -> str:
    return urlsplit(base).path.rstrip("/")


def _without(prefixes: list[str], path: str) -> str | None:
    """Return the rest of a path after the longest matching prefix; None if no prefix matches."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        if path.startswith(prefix + "/"):
            return path[len(prefix) :]
    return None


def resolve(ref: ImageRef, studio: LabelStudioOrigin, local_files_root: Path | None = None) -> Location:
    """Return the location of an image; local storage's files are read from disk only if ``local_files_root`` is given.

    >>> studio = LabelStudioOrigin("http://studio:8080")
    >>> resolve(ImageRef("/data/upload/1/a.png", task_id=7), studio)
    Remote(url='http://studio:8080/data/upload/1/a.png', immutable=True)
    >>> resolve(ImageRef("data:image/gif;base64,R0lGODlh", task_id=7), studio)
    Inline(data=b'GIF89a')

    Raises:
        ImageError: the address is not supported (``unsupported_image_source``), or is a broken ``data:`` address.
        AccessError: the path leads out of the allowed directories (``forbidden_path``).
    """
    uri = ref.uri.strip()
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return Inline(_inline(uri))
    if scheme in ("http", "https"):
        return _absolute(uri, studio, local_files_root)
    if scheme in _CLOUD:
        return Remote(_presign(ref, uri, studio.url))
    if uri.startswith("//"):  # a browser uses the scheme of the current page
        return _absolute(f"{urlsplit(studio.public_url or studio.url).scheme}:{uri}", studio, local_files_root)
    if not scheme and _RELATIVE.match(uri):
        return _relative(studio.without_prefix("/" + uri.lstrip("/")), studio, local_files_root)
    kinds = "an http(s), data, s3, gs or azure-blob address, or a path on Label Studio"
    raise ImageError(f"expected {kinds}, got {_quoted(uri)}", Reason.UNSUPPORTED_IMAGE_SOURCE)


def inline_size(ref: ImageRef) -> int | None:
    """Return the size in bytes of a ``data:`` address, computed without decoding it; None for any other address.

    >>> inline_size(ImageRef("data:image/gif;base64,R0lGODlh", task_id=7))
    6
    """
    uri = ref.uri.strip()
    if uri[:5].lower() != "data:":
        return None
    head, _, content = uri.partition(",")
    length = len(content) - 2 * content.count("%")
    if not _is_base64(head):
        return length
    length -= sum(map(content.count, (" ", "\n", "\r", "\t", "%0A", "%0D", "%20")))
    padding = content[-6:].upper().replace("%3D", "=").count("=")
    return max(0, length // 4 * 3 + max(0, length % 4 - 1) - padding)


def _inline(uri: str) -> bytes:
    head, comma, content = uri.partition(",")
    if not comma:
        raise ImageError("expected data:<type>;base64,<content>, got no comma", Reason.UNSUPPORTED_IMAGE_SOURCE)
    raw = unquote_to_bytes(content.encode("utf-8", "surrogatepass"))
    if not _is_base64(head):
        return raw
    compact = bytes(raw.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n"))
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"data: address is not base64: {error}") from error


def _is_base64(head: str) -> bool:
    return head.rstrip().lower().endswith(";base64")


def _absolute(uri: str, studio: LabelStudioOrigin, local_files_root: Path | None) -> Location:
    try:
        path = studio.path_of(uri)
    except ValueError as error:
        message = f"expected an http(s) address, got {_quoted(uri)}"
        raise ImageError(message, Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    if path is not None:
        location = _relative(path, studio, local_files_root)
        if serves_task_files(_full_path(path).partition("?")[0]):
            return location
    return Remote(uri.partition("#")[0])  # other paths of that server are read without the token


def serves_task_files(path: str) -> bool:
    """Whether Label Studio serves the files of tasks at a path; only such paths get the token.

    The path is percent-encoded, without query and the prefix of Label Studio's address. The author of a task's data
    chooses it, so it is parsed in every way in which a server may decode it.

    >>> serves_task_files("/data/upload/1/a.png"), serves_task_files("/data/../api/users")
    (True, False)
    """
    match _segments(path):
        case ["data", kind, *_]:
            return kind != "avatars"
        case ["storage-data", "uploaded", *_]:
            return True
        case ["tasks" | "projects", number, "presign" | "resolve"]:
            return number.isascii() and number.isdecimal()
    return False


def _segments(path: str) -> list[str] | None:
    """Return a path's segments after repeated percent-decoding, as by several servers; None if one is ``..``."""
    for _ in range(_DECODED_AT_MOST):
        path, before = unquote(path), path
        if path == before:
            segments = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
            return None if ".." in segments else segments
    return None


def _full_path(uri: str) -> str:
    uri = "/" + uri.partition("#")[0].lstrip("/")
    return "/data" + uri if uri.startswith("/upload/") else uri


def _relative(uri: str, studio: LabelStudioOrigin, local_files_root: Path | None) -> Location:
    """Return the location of a path on Label Studio, given without the prefix of Label Studio's address."""
    uri = _full_path(uri)
    path, _, query = uri.partition("?")
    wanted = parse_qs(query).get("d", [""])[0] if path.rstrip("/") == _LOCAL_FILES else ""
    if _segments(path) is None or ".." in re.split(r"[/\\]", wanted):
        raise AccessError(f"expected a path without '..', got {_quoted(uri)}", Reason.FORBIDDEN_PATH)
    if wanted and local_files_root is not None:
        file = _below(local_files_root, wanted)
        if file is not None:
            return LocalFile(file)
    return Remote(studio.url.rstrip("/") + uri, immutable=path.startswith(_UPLOADS))


def _quoted(uri: str) -> str:
    return repr(without_credentials(uri)[:80])


def _below(root: Path, wanted: str) -> Path | None:
    """Return the existing file ``wanted`` below ``root``, or None; `AccessError` if a link leads elsewhere."""
    try:
        file = (root / posixpath.normpath(wanted).lstrip("/")).resolve()
        if not file.is_file():
            return None
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL, a loop of links
        return None
    if not file.is_relative_to(root.resolve()):
        raise AccessError(f"{wanted[:80]!r} leads out of the local files", Reason.FORBIDDEN_PATH)
    return file


def resolved_through(ref: ImageRef) -> str | None:
    """Return ``tasks/<id>`` or ``projects/<id>``, through which Label Studio resolves a cloud address.

    The same ``s3://`` address may be another file in each project's storage. Empty for a cloud address of neither; None
    for other addresses.
    """
    match = _SCHEME.match(ref.uri.strip())
    if match is None or match[1].lower() not in _CLOUD:
        return None
    if ref.task_id is not None:
        return f"tasks/{ref.task_id}"
    return f"projects/{ref.project_id}" if ref.project_id is not None else ""


def _presign(ref: ImageRef, uri: str, label_studio_url: str) -> str:
    """Return the address at which Label Studio redirects to a cloud file, or serves it."""
    owner = resolved_through(ref)
    if not owner:
        text = f"{_quoted(uri)}: expected a task to resolve it with, got none"
        raise ImageError(text, Reason.UNSUPPORTED_IMAGE_SOURCE)
    name = base64.urlsafe_b64encode(uri.encode("utf-8", "replace")).decode()
    return f"{label_studio_url.rstrip('/')}/{owner}/presign/?fileuri={quote(name)}"
