"""The content of the status page: a snapshot of one process, as plain values."""

from dataclasses import dataclass, field

from backend.web.status.formatting import Speed


@dataclass(frozen=True)
class Field:
    """A label and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Problem:
    """A problem that needs an operator's attention.

    Attributes:
        subject: the part that has the problem.
        text: what is wrong.
        fix: what to do about it, empty if the text says so.
    """

    subject: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Tier:
    """One tier of the embedding cache.

    Attributes:
        name: e.g. ``memory``.
        entries: how many embeddings it holds.
        used: its size in bytes, formatted.
        share: of its capacity that is used, in [0, 1]; None if it has no limit.
        found: how many look-ups found an embedding there.
        trouble: why it is not used, empty if it works.
    """

    name: str
    entries: int
    used: str
    share: float | None
    found: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Queue:
    """A queue of images that wait for a worker: its name, length, and the age of its first image, formatted."""

    name: str
    depth: int
    age: str = ""


@dataclass(frozen=True)
class ClusterView:
    """Redis and its workers.

    Attributes:
        rows: figures about Redis and about the workers' work.
        workers: host and process of each worker that is alive.
        queues: the most urgent first.
        problems: what is wrong with it.
        headline: why no new image can be encoded, in a few words; empty if it can.
    """

    rows: tuple[Field, ...] = ()
    workers: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()
    problems: tuple[Problem, ...] = ()
    headline: str = ""


@dataclass(frozen=True)
class Outcomes:
    """The last requests, counted by outcome.

    Attributes:
        answered: requests that got regions.
        empty: requests that called for no regions, such as that of a task that was only opened.
        failed: requests that expected regions and got none.
    """

    answered: int = 0
    empty: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The number of requests."""
        return self.answered + self.empty + self.failed

    @property
    def shares(self) -> tuple[float, float, float]:
        """The three counts in percent of all."""
        total = self.total or 1
        return 100 * self.answered / total, 100 * self.empty / total, 100 * self.failed / total


@dataclass(frozen=True)
class Cause:
    """A reason of empty answers, and how often it was given.

    Attributes:
        reason: its code.
        count: since the start of this process.
        last: when it was given last, ``HH:MM:SS`` UTC; empty if that is longer ago than the last requests.
        meaning: what has happened, in a few words.
        remedy: what to do about it; empty if nothing has to be done.
        is_harmless: whether the request called for no regions.
    """

    reason: str
    count: int
    last: str
    meaning: str
    remedy: str
    is_harmless: bool


@dataclass(frozen=True)
class ProjectRow:
    """A project that was opened or connected, or has a decoder of its own.

    Attributes:
        name: its number.
        problems: of its labeling config, and of its decoder.
        is_opened: whether it was opened or connected since the start.
        decoder: which decoder serves it; empty for the base's.
        training: the state of its last training; empty if there was none.
    """

    name: str
    problems: tuple[str, ...] = ()
    is_opened: bool = True
    decoder: str = ""
    training: str = ""


@dataclass(frozen=True)
class RequestRow:
    """One of the last requests.

    Attributes:
        at: when it was answered, ``HH:MM:SS`` UTC.
        kind: ``click``, ``opened``, or ``N tasks``.
        subject: project and task.
        regions: how many regions the answer held.
        took: time from the first byte to the answer, formatted.
        stages: the milliseconds of each stage, formatted.
        reasons: why it was empty or prompts were not used.
        is_failure: whether it expected a mask and got none.
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
class Status:
    """The state of one process.

    Attributes:
        headline: whether it can answer clicks, in a few words.
        is_ready: whether it can answer clicks.
        is_broken: whether it stays unable to until an operator acts.
        process: its process id and how long it has run.
        problems: what an operator should look at.
        speeds: the last times of clicks and encodes.
        outcomes: the last requests, counted by outcome.
        causes: why answers were empty, failures first, the most frequent first.
        model: name, device and state of the network.
        tiers: the tiers of the embedding cache.
        cache: further figures about the cache.
        work: how many images are being encoded.
        cluster: the workers; None without Redis.
        projects: the projects that were opened or connected.
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
    cluster: ClusterView | None = None
    projects: tuple[ProjectRow, ...] = ()
    requests: tuple[RequestRow, ...] = ()
