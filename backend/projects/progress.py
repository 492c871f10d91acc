"""Shows a run's progress, with the rate and the time left: a bar in a terminal, a line every 10 s elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Shows how many tasks are done."""

    def advance(self, count: int = 1, /) -> None:
        """Add ``count`` finished tasks."""


class Lines:
    """Shows progress as plain lines, for logs."""

    def __init__(
        self,
        title: str,
        total: int,
        stream: TextIO,
        *,
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write the first line about ``total`` tasks, and another every ``every_s`` seconds."""
        self._title, self._total, self._stream, self._every_s, self._clock = title, total, stream, every_s, clock
        self._done, self._began = 0, clock()
        self._written_at = self._began
        self._write(f"{title}: {total} tasks")

    def advance(self, count: int = 1) -> None:
        """Add finished tasks, and write a line if one is due."""
        self._done += count
        now = self._clock()
        if now - self._written_at >= self._every_s or self._done == self._total:
            self._written_at = now
            rate = self._done / max(now - self._began, 1e-9)
            left = format_seconds(max(self._total - self._done, 0) / rate)
            self._write(f"{self._title}: {self._done} of {self._total} tasks, {rate:.2f} per second, {left} left")

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class Bar:
    """Shows progress as a bar that is redrawn in place."""

    def __init__(self, title: str, total: int, stream: TextIO) -> None:
        from tqdm import tqdm  # here: --help must not wait for it

        self._bar = tqdm(desc=title, total=total, unit=" tasks", file=stream, dynamic_ncols=True, smoothing=0.05)

    def advance(self, count: int = 1) -> None:
        """Add finished tasks."""
        self._bar.update(count)

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self._bar.close()


@contextmanager
def showing(title: str, total: int, stream: TextIO) -> Iterator[Progress]:
    """Show progress on a stream, the way that fits it, until the block ends."""
    if not stream.isatty():
        yield Lines(title, total, stream)
        return
    bar = Bar(title, total, stream)
    try:
        yield bar
    finally:
        bar.close()


def format_seconds(seconds: float) -> str:
    """Return a time span as hours, minutes and seconds.

    >>> format_seconds(3723)
    '1:02:03'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
