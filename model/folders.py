"""Where files are kept that can be made or fetched again."""

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

NAME = "paddle-sam"


def cache_folder() -> Path:
    """Return this program's folder in the user's cache.

    A user without a home directory (no ``HOME``, and none in the system's list of users, as in a container that runs
    under a made-up number) gets one of their own among the temporary files.
    """
    try:
        folder = platformdirs.user_cache_path(NAME)
    except RuntimeError:
        folder = Path()
    return folder if folder.is_absolute() else _temporary(f"{NAME}-{os.getuid()}")


def _temporary(name: str) -> Path:
    """Return a folder of this user's among the temporary files, another one where the name is taken by others."""
    try:
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    except OSError:  # nothing can be written anywhere: what is to be kept there will say so
        return Path("/tmp") / name  # noqa: S108 - nothing is read or written there
    return folder
