"""Makes a virtual environment and installs packages into it; one whose installation was interrupted is made again.

``make`` calls this before anything is installed (``python -m backend.demo.environment STAMP ARGUMENTS-OF-PIP``), so it
needs nothing but Python. A stamp is a file of the environment that is written last and removed first: an environment
without one was never finished, or a change of it was interrupted. pip takes an incomplete package for a complete one,
so such an environment is made from nothing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

PROGRESS_S = 10.0
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


class InstallError(Exception):
    """An environment cannot be made; the message gives the cause and a remedy."""


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment."""
    return folder / "bin" / "python"


def is_complete(stamp: Path, requirements: Path) -> bool:
    """Whether an environment is there and holds what this version of the requirements asks for."""
    try:
        return os.access(python_of(stamp.parent), os.X_OK) and stamp.read_bytes() == requirements.read_bytes()
    except FileNotFoundError:
        return False


def install(
    stamp: Path, arguments: Sequence[str], say: Callable[[str], None], *, text: bytes = b"", every_s: float = PROGRESS_S
) -> None:
    """Install packages with ``pip install`` into the environment of a stamp, which is made unless it holds a stamp.

    The stamp, a file in the environment's folder that marks these packages as installed, gets the content ``text``.

    Raises:
        InstallError: Python cannot make an environment here, or pip fails; both have printed why.
    """
    folder = stamp.parent
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*stamp")}
    if not stamps or not os.access(python_of(folder), os.X_OK):
        stamps = {}
        say(f"Setting up {folder}, once; this takes minutes ...")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], f"Python cannot make an environment in {folder}")
    for path in (*stamps, stamp):
        path.unlink(missing_ok=True)
    packages = Path(arguments[-1]).name
    say(f"  {folder}: installing {packages} ...")
    began = time.monotonic()

    def tick() -> None:
        say(f"  {folder}: {time.monotonic() - began:.0f} s, {_megabytes(folder)} MB installed")

    _run([str(python_of(folder)), *PIP, *arguments], f"{packages} was not installed into {folder}", tick, every_s)
    for path, changed_at in stamps.items():
        path.touch()
        os.utime(path, ns=(changed_at, changed_at))
    stamp.write_bytes(text)


def _run(
    command: Sequence[str], failure: str, tick: Callable[[], None] = lambda: None, every_s: float = PROGRESS_S
) -> None:
    with subprocess.Popen(command) as process:  # noqa: S603 - pip and venv
        try:
            while True:
                try:
                    status = process.wait(every_s)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status:
        raise InstallError(
            f"{failure} (exit status {status}, the cause is above). It needs a network or a mirror that pip knows, and "
            "room on the disk. The next start tries again."
        )


def _megabytes(folder: Path) -> int:
    size = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip has just removed it
                size += os.lstat(Path(top) / name).st_blocks * 512
    return -(-size // 1_000_000)


def main(arguments: Sequence[str]) -> None:
    """Install as ``make`` asks: a stamp, then the arguments of ``pip install``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        install(Path(arguments[0]), arguments[1:], lambda line: print(line, flush=True))  # noqa: T201
    except InstallError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
