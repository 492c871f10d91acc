"""What a task's data says of an image, read as a place to get it from. Nothing is fetched here.

Label Studio's data holds many spellings: uploads and local files relative to Label Studio, with and without the first
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

from backend.addresses import Origin
from backend.errors import AccessError, ImageError, Reason
from backend.types import ImageRef

_CLOUD = ("s3", "gs", "azure-blob")
_UPLOADS = ("/data/upload/", "/storage-data/uploaded")
_LOCAL_FILES = "/data/local-files"
_RELATIVE = re.compile(r"/|(data|upload|storage-data|tasks|projects)/")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True)
class Inline:
    """An image that stands in the task's data itself."""

    data: bytes


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine, below the directory an operator shares; symbolic links are resolved."""

    path: Path


@dataclass(frozen=True)
class Remote:
    """An http or https address.

    Attributes:
        url: absolute.
        immutable: whether the content behind this address never changes, as with Label Studio's uploads, whose names
            are made up anew for each.
    """

    url: str
    immutable: bool = False


Location: TypeAlias = Inline | LocalFile | Remote


def resolve(ref: ImageRef, label_studio_url: str, local_files_root: Path | None = None) -> Location:
    """Return where the image is.

    Args:
        ref: what the task's data says.
        label_studio_url: address of Label Studio, without a slash at the end; may have a path.
        local_files_root: directory that Label Studio's local storage is in, if it may be read directly.

    Raises:
        ImageError: a spelling that is not understood (``unsupported_image_source``), or broken ``data:``.
        AccessError: a path that leads out of where it may (``forbidden_path``).
    """
    uri = ref.uri.strip()
    found = _SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    if scheme == "data":
        return Inline(_inline(uri))
    if scheme in ("http", "https"):
        return _absolute(uri, label_studio_url, local_files_root)
    if scheme in _CLOUD:
        return Remote(_presign(ref, uri, label_studio_url))
    if uri.startswith("//"):
        return _absolute(f"{urlsplit(label_studio_url).scheme}:{uri}", label_studio_url, local_files_root)
    if not scheme and _RELATIVE.match(uri):
        return _relative(uri, label_studio_url, local_files_root)
    kinds = "an http(s), data, s3, gs or azure-blob address, or a path on Label Studio"
    raise ImageError(f"expected {kinds}, got {uri[:80]!r}", Reason.UNSUPPORTED_IMAGE_SOURCE)


def _inline(uri: str) -> bytes:
    head, comma, content = uri.partition(",")
    if not comma:
        raise ImageError("expected data:<type>;base64,<content>, got no comma", Reason.UNSUPPORTED_IMAGE_SOURCE)
    raw = unquote_to_bytes(content)
    if not head.lower().endswith(";base64"):
        return raw
    compact = bytes(raw.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n"))
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"data: address is not base64: {error}") from error


def _absolute(uri: str, label_studio_url: str, local_files_root: Path | None) -> Location:
    try:
        origin = Origin.of(uri)
    except ValueError as error:
        message = f"expected an http(s) address, got {uri[:80]!r}"
        raise ImageError(message, Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    if origin == Origin.of(label_studio_url):
        parts = urlsplit(uri)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return _relative(path or "/", label_studio_url, local_files_root)
    return Remote(uri.partition("#")[0])


def _relative(uri: str, label_studio_url: str, local_files_root: Path | None) -> Location:
    """Return where a path on Label Studio leads."""
    uri = "/" + uri.partition("#")[0].lstrip("/")
    if uri.startswith("/upload/"):
        uri = "/data" + uri
    base = urlsplit(label_studio_url)
    prefix = base.path.rstrip("/")
    if prefix and uri.startswith(prefix + "/"):
        uri = uri[len(prefix) :]
    path, _, query = uri.partition("?")
    wanted = parse_qs(query).get("d", [""])[0] if path.rstrip("/") == _LOCAL_FILES else ""
    if _climbs(unquote(path)) or _climbs(wanted):
        raise AccessError(f"expected a path without '..', got {uri[:80]!r}", Reason.FORBIDDEN_PATH)
    if wanted and local_files_root is not None:
        file = _below(local_files_root, wanted)
        if file is not None:
            return LocalFile(file)
    return Remote(f"{base.scheme}://{base.netloc}{prefix}{uri}", immutable=path.startswith(_UPLOADS))


def _climbs(path: str) -> bool:
    return ".." in re.split(r"[/\\]", path)


def _below(root: Path, wanted: str) -> Path | None:
    """Return the existing file ``wanted`` below ``root``, None if there is none.

    Raises:
        AccessError: it exists and lies elsewhere, through a symbolic link.
    """
    try:
        file = (root / posixpath.normpath(wanted).lstrip("/")).resolve()
        if not file.is_file():
            return None
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL, a loop of links
        return None
    if not file.is_relative_to(root.resolve()):
        raise AccessError(f"{wanted[:80]!r} leads out of the local files", Reason.FORBIDDEN_PATH)
    return file


def _presign(ref: ImageRef, uri: str, label_studio_url: str) -> str:
    """Return the address at which Label Studio redirects to a cloud file, or relays it."""
    if ref.task_id is not None:
        owner = f"tasks/{ref.task_id}"
    elif ref.project_id is not None:
        owner = f"projects/{ref.project_id}"
    else:
        raise ImageError(f"{uri[:80]!r}: expected a task to resolve it with, got none", Reason.UNSUPPORTED_IMAGE_SOURCE)
    name = base64.urlsafe_b64encode(uri.encode()).decode()
    return f"{label_studio_url.rstrip('/')}/{owner}/presign/?fileuri={quote(name)}"
