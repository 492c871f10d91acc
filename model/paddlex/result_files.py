"""Where results are written: the file names that PaddleX gives."""

import itertools
import mimetypes
import secrets
import time
from pathlib import Path

from PIL import Image

_NUMBERS = itertools.count(secrets.randbelow(9000))  # one after the other: no two of one second are the same


def file_name(name: str | None) -> Path:
    """Return what files are named after; as in PaddleX the second and four digits where the input has no name."""
    return Path(name or f"{int(time.time())}_{1000 + next(_NUMBERS) % 9000}")


def json_path(save_path: str | Path, name: Path) -> Path:
    """Return the file that ``save_to_json`` writes, in a folder that is there.

    Args:
        save_path: a file that ends in ``.json``, or a directory, where it becomes ``<stem>_res.json``.
        name: what files are named after.
    """
    path = Path(save_path)
    if mimetypes.guess_type(path.name)[0] != "application/json":
        path = path / f"{name.stem}_res.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def image_path(save_path: str | Path, name: Path) -> Path:
    """Return the file that ``save_to_img`` writes, in a folder that is there.

    Args:
        save_path: an image file, or a directory, where it becomes ``<stem>_res`` with the input's suffix (``.png``
            where the input has none that can be written).
        name: what files are named after.
    """
    path, writable = Path(save_path), _writable_suffixes()
    if path.suffix.lower() not in writable:
        path = path / f"{name.stem}_res{name.suffix if name.suffix.lower() in writable else '.png'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _writable_suffixes() -> frozenset[str]:
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE) - {".pdf"}
