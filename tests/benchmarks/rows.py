"""What a benchmark reports, and how two pieces of work are timed fairly on a machine that others use too."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAUSE_S = 0.3
LONG_MS = 1000.0


@dataclass(frozen=True)
class Row:
    """One figure beside what it is compared with.

    Attributes:
        name: what was measured.
        ours: our figure.
        reference: the other's figure, or the limit.
        unit: of both, ``ms`` or ``MB``.
        against: who or what the reference is.
        goal: the ratio ``ours / reference`` must not exceed this; None where nothing was promised.
        ratio: median of the ratios of the pairs; less sensitive to other work than the ratio of medians.
    """

    name: str
    ours: float
    reference: float
    unit: str
    against: str
    goal: float | None
    ratio: float

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.goal is None or self.ratio <= self.goal


def say(line: str) -> None:
    """Tell on stderr how far the work is; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def milliseconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def warm_milliseconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes right after itself, or at once if it is long.

    A virtual machine that was idle for a moment takes up to three times as long for the first few dozen milliseconds.
    """
    took_ms = milliseconds(work)
    return took_ms if took_ms > LONG_MS else milliseconds(work)


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    goal: float | None,
    rounds: int,
) -> Row:
    """Time two pieces of work alternately, after one unmeasured run of each.

    Before each there is a pause: threads of OpenMP, which torch has, keep a core busy for a while after their work.
    """
    ours()
    theirs()
    say(f"measuring {name} against {against}")
    pairs = []
    for _ in range(rounds):
        time.sleep(PAUSE_S)
        mine = warm_milliseconds(ours)
        time.sleep(PAUSE_S)
        pairs.append((mine, warm_milliseconds(theirs)))
    say(f"measured {name}")
    return Row(
        name,
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
        "ms",
        against,
        goal,
        statistics.median(mine / other for mine, other in pairs),
    )


def limit(name: str, ours: float, most: float, unit: str) -> Row:
    """A figure that must stay within a limit."""
    return Row(name, ours, most, unit, "the limit", 1.0, ours / most)


def processor_flags() -> frozenset[str]:
    """The processor's instruction sets as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))
