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
    """A problem that needs an operator's attention."""

    subject: str
    text: str
    fix: str = ""  # what to do about it, empty if the text says so


@dataclass(frozen=True)
class Tier:
    """One tier of the embedding cache."""

    name: str  # e.g. ``memory``
    entries: int
    used: str  # its size in bytes, formatted
    share: float | None  # of its capacity that is used, in [0, 1]; None if it has no limit
    found: int = 0  # how many look-ups found an embedding there
    trouble: str = ""  # why it is not used, empty if it works


@dataclass(frozen=True)
class Queue:
    """A queue of images that wait for a worker: its name, length, and the age of its first image, formatted."""

    name: str
    depth: int
    age: str = ""


@dataclass(frozen=True)
class ClusterView:
    """Redis and its workers."""

    rows: tuple[Field, ...] = ()  # figures about Redis and about the workers' work
    workers: tuple[str, ...] = ()  # host and process of each worker that is alive
    queues: tuple[Queue, ...] = ()  # the most urgent first
    problems: tuple[Problem, ...] = ()
    headline: str = ""  # why no new image can be encoded, in a few words; empty if it can


@dataclass(frozen=True)
class Outcomes:
    """The last requests, counted by outcome."""

    answered: int = 0  # requests that got regions
    empty: int = 0  # requests that called for no regions, such as that of a task that was only opened
    failed: int = 0  # requests that expected regions and got none

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
    """A reason of empty answers, and how often it was given."""

    reason: str
    count: int
    last: str  # when it was given last, ``HH:MM:SS`` UTC; empty if that is longer ago than the last requests
    meaning: str
    remedy: str  # what to do about it; empty if nothing has to be done
    is_harmless: bool  # whether the request called for no regions


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
    """One of the last requests."""

    at: str  # when it was answered, ``HH:MM:SS`` UTC
    kind: str  # ``click``, ``opened``, or ``N tasks``
    subject: str
    regions: int
    took: str  # time from the first byte to the answer, formatted
    stages: str = ""  # the milliseconds of each stage, formatted
    reasons: tuple[str, ...] = ()  # why it was empty or prompts were not used
    is_failure: bool = False  # whether it expected a mask and got none


@dataclass(frozen=True)
class Status:
    """The state of one process."""

    headline: str  # whether it can answer clicks, in a few words
    is_ready: bool
    is_broken: bool = False  # whether it stays unable to until an operator acts
    process: str = ""  # its process id and how long it has run
    problems: tuple[Problem, ...] = ()
    speeds: tuple[Speed, ...] = ()  # the last times of clicks and encodes
    outcomes: Outcomes = field(default_factory=Outcomes)  # the last requests, counted by outcome
    causes: tuple[Cause, ...] = ()  # why answers were empty, failures first, the most frequent first
    model: tuple[Field, ...] = ()
    tiers: tuple[Tier, ...] = ()
    cache: tuple[Field, ...] = ()
    work: tuple[Field, ...] = ()
    cluster: ClusterView | None = None
    projects: tuple[ProjectRow, ...] = ()
    requests: tuple[RequestRow, ...] = ()  # the last requests, newest first
