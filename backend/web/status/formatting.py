"""Formats times, sizes and percentiles for the status page, and the last times as a bar chart."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_BARS = 60


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of ``values``, at least one, that at least ``share`` of them do not exceed.

    >>> percentile([1, 2, 3, 4], 0.5)
    2
    """
    if not values:
        raise ValueError("values: expected at least one, got none")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def format_ms(milliseconds: float) -> str:
    """Return a time span with a unit that fits its size.

    >>> [format_ms(value) for value in (0.8, 34, 1200, 25_000, 7_500_000)]
    ['0.8 ms', '34 ms', '1.2 s', '25 s', '2 h 5 min']
    """
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def format_bytes(nbytes: float) -> str:
    """Return a number of bytes in decimal megabytes or gigabytes.

    >>> format_bytes(3_000_000), format_bytes(2_400_000_000)
    ('3 MB', '2.4 GB')
    """
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def format_clock(at: float) -> str:
    """Return the UTC time of day of a moment in seconds since 1970.

    >>> format_clock(50_000)
    '13:53:20'
    """
    return time.strftime("%H:%M:%S", time.gmtime(at))


def format_stages(stages_ms: Mapping[str, float]) -> str:
    """Return the stages of an answer in whole milliseconds; those that round to none are left out.

    >>> format_stages({"embedding": 1200.4, "decoder": 30.0, "rle": 0.2, "total": 1231.0})
    'embedding 1200, decoder 30'
    """
    return ", ".join(f"{name} {took:.0f}" for name, took in stages_ms.items() if name != "total" and took >= 0.5)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart of width 100 and height 100, and its text; ``is_cut`` if it is higher than the chart."""

    x: float
    y: float
    width: float
    height: float
    text: str
    is_cut: bool = False


@dataclass(frozen=True)
class Speed:
    """The last times of one kind of work.

    >>> Speed("Encodes", "once per image", (120.0, 80.0, 90.0)).within(0.5)
    '90 ms'
    """

    name: str
    note: str  # what exactly is timed
    times_ms: tuple[float, ...] = ()  # the last times, newest first

    def within(self, share: float) -> str:
        """Return the time within which a share of 0 to 1 ended; a dash if there are no times."""
        return format_ms(percentile(self.times_ms, share)) if self.times_ms else "–"

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The last times as bars from the left, oldest first; those far beyond the 95th percentile are cut off."""
        shown = self.times_ms[:MOST_BARS][::-1]
        if not shown:
            return ()
        top = min(max(shown), 1.5 * percentile(shown, 0.95)) or 1.0
        step = 100 / MOST_BARS
        bars = []
        for index, took in enumerate(shown):
            height = max(2.0, min(100.0, 100 * took / top))
            bars.append(
                Bar(round(index * step, 2), round(100 - height, 1), round(0.75 * step, 2), round(height, 1),
                    format_ms(took), took > top)
            )  # fmt: skip
        return tuple(bars)
