"""What the status page says: a snapshot of one process, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_BARS = 60


@dataclass(frozen=True)
class Row:
    """A name and what is to be said of it."""

    name: str
    text: str
    is_problem: bool = False


@dataclass(frozen=True)
class Problem:
    """Something that an operator should look at.

    Attributes:
        subject: what it is about.
        text: what is wrong.
        fix: what to do about it, empty where that is in the text.
    """

    subject: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of a chart of width 100 and height 100, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    text: str
    is_cut: bool = False


@dataclass(frozen=True)
class Speed:
    """How long something took lately.

    Attributes:
        name: what.
        note: what exactly is timed, or why there is nothing yet.
        times_ms: the last ones, newest first.
    """

    name: str
    note: str
    times_ms: tuple[float, ...] = ()

    @property
    def median(self) -> str:
        """Half of them took no longer; a dash where there were none."""
        return duration(percentile(self.times_ms, 0.5)) if self.times_ms else "–"

    @property
    def p95(self) -> str:
        """95 of 100 took no longer."""
        return duration(percentile(self.times_ms, 0.95)) if self.times_ms else "–"

    @property
    def slowest(self) -> str:
        """The longest."""
        return duration(max(self.times_ms)) if self.times_ms else "–"

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The last ones as bars from the left, oldest first; those far beyond the 95th percentile are cut off."""
        shown = self.times_ms[:MOST_BARS][::-1]
        if not shown:
            return ()
        top = min(max(shown), 1.5 * percentile(shown, 0.95)) or 1.0
        step = 100 / MOST_BARS
        bars = []
        for place, took in enumerate(shown):
            height = max(2.0, min(100.0, 100 * took / top))
            bars.append(
                Bar(round(place * step, 2), round(100 - height, 1), round(0.75 * step, 2), round(height, 1),
                    duration(took), took > top)
            )  # fmt: skip
        return tuple(bars)


@dataclass(frozen=True)
class Tier:
    """One place where embeddings are kept.

    Attributes:
        name: e.g. ``memory``.
        entries: how many it holds.
        used: how many bytes, in words.
        share: of its room that is taken, in [0, 1]; None where it has no bound.
        found: how often an embedding was found there.
        trouble: why it is passed over, empty when it works.
    """

    name: str
    entries: int
    used: str
    share: float | None
    found: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Queue:
    """Images that wait for a worker."""

    name: str
    depth: int
    age: str = ""


@dataclass(frozen=True)
class Team:
    """The workers behind Redis.

    Attributes:
        rows: what is to be said of Redis and of what the workers did.
        workers: host and process of each that is alive.
        queues: the most urgent first.
        problems: what is wrong with it.
        headline: why no new image can be had, in a few words; empty where it can.
    """

    rows: tuple[Row, ...] = ()
    workers: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()
    problems: tuple[Problem, ...] = ()
    headline: str = ""


@dataclass(frozen=True)
class Outcomes:
    """What became of the last requests.

    Attributes:
        answered: got regions.
        empty: had nothing to be answered with, such as a task that was only opened.
        failed: got none although somebody waited for a mask.
    """

    answered: int = 0
    empty: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.answered + self.empty + self.failed

    @property
    def shares(self) -> tuple[float, float, float]:
        """The three in percent of all."""
        total = self.total or 1
        return 100 * self.answered / total, 100 * self.empty / total, 100 * self.failed / total


@dataclass(frozen=True)
class Cause:
    """A reason that was given, and how often.

    Attributes:
        reason: its code.
        count: since the start of this process.
        last: when it was given last, ``HH:MM:SS`` UTC; empty where that is long ago.
        meaning: what has happened, in a few words.
        remedy: what to do about it; empty where nothing has to be.
        is_harmless: whether there was nothing to answer.
    """

    reason: str
    count: int
    last: str
    meaning: str
    remedy: str
    is_harmless: bool


@dataclass(frozen=True)
class Project:
    """A project that was opened or connected, and what its labeling config lacks."""

    name: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One of the last requests.

    Attributes:
        at: when it was answered, ``HH:MM:SS`` UTC.
        kind: ``click``, ``opened``, or ``N tasks``.
        subject: project and task.
        regions: how many regions the answer held.
        took: from the first byte to the answer.
        stages: where the time went.
        reasons: why it was empty or prompts went unused.
        is_failure: whether somebody waited for a mask in vain.
    """

    at: str
    kind: str
    subject: str
    regions: int
    took: str
    stages: str = ""
    reasons: tuple[str, ...] = ()
    is_failure: bool = False


@dataclass(frozen=True)
class Picture:
    """The outline of one answer's masks.

    Attributes:
        width: of the drawing; the longer side is 100.
        height: of the drawing.
        path: the outlines, in SVG's words.
        caption: label and score.
    """

    width: float
    height: float
    path: str
    caption: str


@dataclass(frozen=True)
class Status:
    """What one process knows of itself.

    Attributes:
        headline: whether it can answer clicks, in a few words.
        is_ready: whether it can.
        is_broken: whether it will not, unless somebody does something about it.
        process: which process this is, since when.
        problems: what an operator should look at.
        speeds: how fast it was lately.
        outcomes: what became of the last requests.
        causes: why answers were empty, failures first, the most frequent first.
        model: name, device and state of the network.
        tiers: where embeddings are kept.
        cache: what else is to be said of them.
        work: what is being encoded.
        team: the workers; None without Redis.
        projects: those that were opened.
        pictures: the last masks; None where they are not to be shown.
        requests: the last requests, newest first.
    """

    headline: str
    is_ready: bool
    is_broken: bool = False
    process: str = ""
    problems: tuple[Problem, ...] = ()
    speeds: tuple[Speed, ...] = ()
    outcomes: Outcomes = field(default_factory=Outcomes)
    causes: tuple[Cause, ...] = ()
    model: tuple[Row, ...] = ()
    tiers: tuple[Tier, ...] = ()
    cache: tuple[Row, ...] = ()
    work: tuple[Row, ...] = ()
    team: Team | None = None
    projects: tuple[Project, ...] = ()
    pictures: tuple[Picture, ...] | None = None
    requests: tuple[Request, ...] = ()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of ``values`` that at least ``share`` of them do not exceed.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("values: expected at least one, got none")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def duration(milliseconds: float) -> str:
    """Return a time in the unit that reads well: ``0.8 ms``, ``34 ms``, ``1.2 s``, ``25 s``, ``2 h 5 min``."""
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


def size(nbytes: float) -> str:
    """Return a number of bytes in decimal megabytes or gigabytes."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"
