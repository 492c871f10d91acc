"""How far a run is: a bar in a terminal, a line now and then elsewhere; both with the rate and the time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Is told of everything that is done."""

    def advance(self, count: int = 1, /) -> None:
        """Note that ``count`` more are done."""
        ...


class Lines:
    """Plain lines, for logs."""

    def __init__(
        self,
        what: str,
        total: int,
        stream: TextIO,
        *,
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say that it begins.

        Args:
            what: is being done, e.g. ``precompute``.
            total: how many tasks there are.
            stream: takes the lines.
            every_s: seconds between two of them.
            clock: seconds, monotonic.
        """
        self._what, self._total, self._stream, self._every_s, self._clock = what, total, stream, every_s, clock
        self._done, self._began = 0, clock()
        self._said = self._began
        self._say(f"{what}: {total} tasks")

    def advance(self, count: int = 1) -> None:
        """Note that more are done, and say so if it is time."""
        self._done += count
        now = self._clock()
        if now - self._said >= self._every_s or self._done == self._total:
            self._said = now
            rate = self._done / max(now - self._began, 1e-9)
            left = duration(max(self._total - self._done, 0) / rate)
            self._say(f"{self._what}: {self._done} of {self._total} tasks, {rate:.2f} per second, {left} left")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class Bar:
    """A bar that is drawn anew."""

    def __init__(self, what: str, total: int, stream: TextIO) -> None:
        """Draw it."""
        from tqdm import tqdm  # here: --help must not wait for it

        self._bar = tqdm(desc=what, total=total, unit=" tasks", file=stream, dynamic_ncols=True, smoothing=0.05)

    def advance(self, count: int = 1) -> None:
        """Note that more are done."""
        self._bar.update(count)

    def close(self) -> None:
        """Leave it as it is, and go to the next line."""
        self._bar.close()


@contextmanager
def showing(what: str, total: int, stream: TextIO) -> Iterator[Progress]:
    """Show progress on a stream, the way that fits it, until the block ends."""
    if not stream.isatty():
        yield Lines(what, total, stream)
        return
    bar = Bar(what, total, stream)
    try:
        yield bar
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """Return a time span as ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
