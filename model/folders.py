"""Where files are kept that can be made or downloaded again, and how they are written."""

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

NAME = "paddle-sam"


def cache_folder() -> Path:
    """Return this program's folder in the user's cache.

    A user without a home directory (no ``HOME``, and none in the system's list of users, as in a container that runs
    under an arbitrary user id) gets a separate folder among the temporary files.
    """
    try:
        folder = platformdirs.user_cache_path(NAME)
    except RuntimeError:
        folder = Path()
    return folder if folder.is_absolute() else _temporary(f"{NAME}-{os.getuid()}")


def write(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write a file with these permissions, whole or not at all, and return its path.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(handle)
        Path(unfinished).chmod(mode)
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return path


def _temporary(name: str) -> Path:
    """Return a folder of this user among the temporary files; another one if the name is taken by another user."""
    try:
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    except OSError:  # no folder is writable: writing to it will raise
        return Path("/tmp") / name  # noqa: S108 - nothing is read or written there
    return folder
