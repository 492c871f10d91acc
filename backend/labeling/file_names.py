"""File names as addresses of tasks, folders and other tools' files spell them, and which of them are those of one file.

A path is its folders and file name, without a host or drive. Letters with accents count in either of Unicode's forms:
macOS writes a letter and its accent as two characters, others as one. Label Studio puts eight hexadecimal digits and a
dash before the name of an upload, and keeps neither spaces nor special characters nor accents that stand alone.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

NamePath: TypeAlias = tuple[str, ...]

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_DROPPED = re.compile(r"[^-\w.]")
_DRIVE = re.compile(r"[A-Za-z]:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|/data/")
_UPLOADS = "/data/upload/"


def split(text: str) -> NamePath:
    """Return the folders and file name of a path, with slashes of either kind, accents put together with letters."""
    whole = unicodedata.normalize("NFC", text.replace("\\", "/"))
    parts = [part for part in whole.split("/") if part.strip() not in ("", ".", "..")]
    return tuple(parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts)


def plain(name: str) -> str:
    """Return a file name as Label Studio stores an upload of it."""
    return _DROPPED.sub("", name.strip().replace(" ", "_"))


def spellings(name: str) -> frozenset[str]:
    """Return a file name as Label Studio stores uploads of it, from whichever system it was uploaded."""
    return frozenset(plain(unicodedata.normalize(form, name)) for form in ("NFC", "NFD"))


def of_address(uri: str) -> Iterator[NamePath]:
    """Yield the paths that a task's address may stand for, the likelier ones first."""
    if uri.startswith("data:"):
        return
    for text in _texts(uri):
        path = split(text)
        if not path:
            continue
        if is_upload(uri):  # Label Studio's own folders, which say nothing about those before the upload
            path = path[-1:]
        yield path
        if (before := before_upload(path)) is not None:
            yield before


def name_of(uri: str) -> str:
    """Return the folders and file name to write for a task's address, as it spells them; empty where it has none.

    Of an upload it is the name under which Label Studio keeps it, which no other upload has.
    """
    if uri.startswith("data:"):
        return ""
    path = next(_texts(uri)).strip("/")
    return path.rpartition("/")[2] if is_upload(uri) else path


def of_file(file_name: str) -> tuple[NamePath, ...]:
    """Return the paths that a ``file_name`` may stand for: as it is, percent-encoded, or an address itself."""
    found = [split(file_name), split(unquote(file_name))]
    if _ADDRESS.match(file_name):
        found = [*list(of_address(file_name))[:1], *found]
    return tuple(dict.fromkeys(path for path in found if path))


def is_upload(uri: str) -> bool:
    """Whether an address is that of a file that was uploaded to Label Studio."""
    parts = _parts(uri)
    return parts.scheme in ("", "http", "https") and _UPLOADS in unquote(parts.path)


def before_upload(path: NamePath) -> NamePath | None:
    """Return a path without the digits that Label Studio puts before the name of an upload; None where there are none.

    Names that begin so by themselves exist too, and eight figures and a dash are mostly a date.
    """
    if not path or not _UPLOADED.match(path[-1]):
        return None
    return (*path[:-1], _UPLOADED.sub("", path[-1], count=1))


def begins_like_an_upload(path: NamePath) -> bool:
    """Whether a path that stands in a file is that of an upload, as Label Studio's own exports write them."""
    return before_upload(path) is not None and ("upload" in path[:-1] or not path[-1][:8].isdecimal())


def _texts(uri: str) -> Iterator[str]:
    """Yield what an address may say a path is: decoded, then as it is; of local files what comes after ``d=``."""
    parts = _parts(uri)
    asked = parse_qs(parts.query).get("d") if "/local-files" in parts.path else None
    yield from (asked[0],) if asked else (unquote(parts.path), parts.path)


def _parts(uri: str) -> SplitResult:
    """Return the parts of an address; of one that is none, a path alone."""
    try:
        return urlsplit(uri)
    except ValueError:
        return SplitResult("", "", uri, "", "")


def may_be_one(path: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two paths may be those of one file, seen from different folders."""
    return all(one == two for one, two in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False))


def fit(path: Sequence[str], other: Sequence[str]) -> tuple[bool, int]:
    """Return how well two paths fit: whether the name is the same to the letter, and how many folders before it."""
    folders = 0
    for one, two in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False):
        if one != two:
            break
        folders += 1
    return path[-1] == other[-1], folders
