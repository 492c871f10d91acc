"""What the status page says: a snapshot of one process, as plain values."""

from dataclasses import dataclass, field

from backend.web.status.formatting import Speed


@dataclass(frozen=True)
class Field:
    """A name and what is to be said of it."""

    name: str
    text: str


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
class ClusterView:
    """The workers behind Redis.

    Attributes:
        rows: what is to be said of Redis and of what the workers did.
        workers: host and process of each that is alive.
        queues: the most urgent first.
        problems: what is wrong with it.
        headline: why no new image can be had, in a few words; empty where it can.
    """

    rows: tuple[Field, ...] = ()
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
    model: tuple[Field, ...] = ()
    tiers: tuple[Tier, ...] = ()
    cache: tuple[Field, ...] = ()
    work: tuple[Field, ...] = ()
    team: ClusterView | None = None
    projects: tuple[Project, ...] = ()
    pictures: tuple[Picture, ...] | None = None
    requests: tuple[Request, ...] = ()
