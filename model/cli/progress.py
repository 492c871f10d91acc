"""How far a command is: a bar in a terminal, a plain line every few seconds elsewhere; on standard error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

LINE_EVERY_S = 5.0


class Progress(Protocol):
    """Shows the progress of a command."""

    def begin(self, name: str, /) -> None:
        """Note that a picture is begun."""

    def advance(self, done: int, total: int, /) -> None:
        """Record how many of the picture's points are decoded."""

    def end(self) -> None:
        """Note that the picture is finished, or could not be done."""


class Silent:
    """Shows nothing."""

    def begin(self, name: str) -> None:
        """Show nothing."""

    def advance(self, done: int, total: int) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""


class Bar:
    """A bar that is redrawn in place; messages go above it through ``tqdm.write``."""

    def __init__(self, pictures: int, stream: TextIO) -> None:
        """Draw it."""
        from tqdm import tqdm  # here: --help must not wait for it

        shape = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
        self._bar = tqdm(total=pictures, file=stream, dynamic_ncols=True, bar_format=shape)
        self._pictures, self._done = pictures, 0

    def begin(self, name: str) -> None:
        """Note that a picture is begun."""
        self._bar.set_description_str(f"{self._done + 1} of {self._pictures} pictures ")

    def advance(self, done: int, total: int) -> None:
        """Record how many of the picture's points are decoded."""
        self._bar.update(self._done + done / total - self._bar.n)

    def end(self) -> None:
        """Note that the picture is finished."""
        self._done += 1
        self._bar.update(self._done - self._bar.n)

    def close(self) -> None:
        """Leave it as it is, and go to the next line."""
        self._bar.close()


class Lines:
    """Plain lines, written by a thread of their own: an encode of a minute is no reason to fall silent."""

    def __init__(self, pictures: int, stream: TextIO, every_s: float = LINE_EVERY_S) -> None:
        """Begin to write them."""
        self._pictures, self._stream, self._every_s = pictures, stream, every_s
        self._done, self._name, self._points = 0, "", ""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write, name="progress", daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        """Note that a picture is begun."""
        self._name, self._points = name, ""

    def advance(self, done: int, total: int) -> None:
        """Record how many of the picture's points are decoded."""
        self._points = f", {done} of {total} points"

    def end(self) -> None:
        """Note that the picture is finished."""
        self._done += 1

    def close(self) -> None:
        """Write no more."""
        self._is_over.set()
        self._thread.join()

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # the terminal is closed
            while not self._is_over.wait(self._every_s):
                self._stream.write(f"{self._done} of {self._pictures} pictures done; {self._name}{self._points}\n")
                self._stream.flush()


@contextmanager
def showing(pictures: int, stream: TextIO) -> Iterator[Progress]:
    """Show progress on a stream, the way that fits it, until the block ends."""
    shown = Bar(pictures, stream) if stream.isatty() else Lines(pictures, stream)
    try:
        yield shown
    finally:
        shown.close()
