"""Compares file names as task addresses, folders and other tools' files spell them.

A path is its folders and file name, without a host or drive. Letters with accents match in both of Unicode's forms:
macOS writes a letter and its accent as two characters, other systems as one. Label Studio puts eight hexadecimal digits
and a dash before the name of an upload, and drops spaces, special characters and separate accents.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

NamePath: TypeAlias = tuple[str, ...]

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_DROPPED = re.compile(r"[^-\w.]")
_DRIVE = re.compile(r"[A-Za-z]:")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|/data/")
_UPLOADS = "/data/upload/"


def split(text: str) -> NamePath:
    r"""Return the folders and file name of a path with slashes of either kind; accents are composed with their letters.

    >>> split("C:\\photos\\a.png"), split("./photos/a.png")
    (('photos', 'a.png'), ('photos', 'a.png'))
    """
    whole = unicodedata.normalize("NFC", text.replace("\\", "/"))
    parts = [part for part in whole.split("/") if part.strip() not in ("", ".", "..")]
    return tuple(parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts)


def plain(name: str) -> str:
    """Return a file name as Label Studio stores an upload of it.

    >>> plain("my photo.png")
    'my_photo.png'
    """
    return _DROPPED.sub("", name.strip().replace(" ", "_"))


def spellings(name: str) -> frozenset[str]:
    """Return the names under which Label Studio stores uploads of a file, from any system."""
    return frozenset(plain(unicodedata.normalize(form, name)) for form in ("NFC", "NFD"))


def of_address(uri: str) -> Iterator[NamePath]:
    """Yield the paths that a task's address may mean, the likelier ones first."""
    if uri.startswith("data:"):
        return
    for text in _texts(uri):
        path = split(text)
        if not path:
            continue
        if is_upload(uri):  # Label Studio's own folders, not those of before the upload
            path = path[-1:]
        yield path
        if (before := before_upload(path)) is not None:
            yield before


def name_of(uri: str) -> str:
    """Return the folders and file name of a task's address, as it spells them; empty where it has none.

    For an upload it is the unique name under which Label Studio stores it.

    >>> name_of("/data/upload/1/0a1b2c3d-photo.png")
    '0a1b2c3d-photo.png'
    """
    if uri.startswith("data:"):
        return ""
    path = next(_texts(uri)).strip("/")
    return path.rpartition("/")[2] if is_upload(uri) else path


def of_file(file_name: str) -> tuple[NamePath, ...]:
    """Return the paths that a ``file_name`` may mean: literal, percent-decoded, or taken from an address."""
    paths = [split(file_name), split(unquote(file_name))]
    if _ADDRESS.match(file_name):
        paths = [*list(of_address(file_name))[:1], *paths]
    return tuple(dict.fromkeys(path for path in paths if path))


def is_upload(uri: str) -> bool:
    """Whether an address names a file that was uploaded to Label Studio."""
    parts = _parts(uri)
    return parts.scheme in ("", "http", "https") and _UPLOADS in unquote(parts.path)


def before_upload(path: NamePath) -> NamePath | None:
    """Return a path without the digits that Label Studio puts before the name of an upload; None without such digits.

    Original names may begin like this too: eight decimal digits and a dash are mostly a date.
    """
    if not path or not _UPLOADED.match(path[-1]):
        return None
    return (*path[:-1], _UPLOADED.sub("", path[-1], count=1))


def begins_like_an_upload(path: NamePath) -> bool:
    """Whether a path in a COCO file looks like an upload, as Label Studio's own exports write them."""
    return before_upload(path) is not None and ("upload" in path[:-1] or not path[-1][:8].isdecimal())


def _texts(uri: str) -> Iterator[str]:
    """Yield the paths in an address: decoded, then literal; of local files, the value of ``d=``."""
    parts = _parts(uri)
    local_paths = parse_qs(parts.query).get("d") if "/local-files" in parts.path else None
    yield from (local_paths[0],) if local_paths else (unquote(parts.path), parts.path)


def _parts(uri: str) -> SplitResult:
    """Return the parts of an address; of an invalid one, all of it as the path."""
    try:
        return urlsplit(uri)
    except ValueError:
        return SplitResult("", "", uri, "", "")


def may_be_one(path: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two paths may name one file, seen from different folders: the folders that both have are equal."""
    return all(
        folder == other_folder for folder, other_folder in zip(reversed(path[:-1]), reversed(other[:-1]), strict=False)
    )


def fit(path: Sequence[str], other: Sequence[str]) -> tuple[bool, int]:
    """Return how well two paths match: whether the names are identical, and how many of the folders before them."""
    pairs = zip(reversed(path[:-1]), reversed(other[:-1]), strict=False)
    return path[-1] == other[-1], sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
