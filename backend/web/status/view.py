"""The content of the status page: a snapshot of one process, as plain values that the template formats."""

from dataclasses import dataclass, field

from backend.cluster.monitor import ClusterState
from backend.embeddings.stores import StoreStats
from backend.errors import Reason
from backend.metrics import AnsweredRequest
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
class ClusterView:
    """Redis and its workers."""

    state: ClusterState = field(default_factory=ClusterState)  # not known during an outage of Redis
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

    reason: Reason
    count: int
    last: float | None = None  # when it was given last, in s since 1970; None if that is before the last requests


@dataclass(frozen=True)
class ProjectRow:
    """A project that was opened or connected, or has a decoder of its own."""

    name: str  # its number
    problems: tuple[str, ...] = ()  # of its labeling config, and of its decoder
    is_opened: bool = True  # whether it was opened or connected since the start
    decoder: str = ""  # which decoder serves it; empty for the base's
    training: str = ""  # the state of its last training; empty if there was none


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
    tiers: tuple[StoreStats, ...] = ()  # of the embedding cache, the fastest first
    cache: tuple[Field, ...] = ()
    work: tuple[Field, ...] = ()
    cluster: ClusterView | None = None
    projects: tuple[ProjectRow, ...] = ()
    requests: tuple[AnsweredRequest, ...] = ()  # the last requests, newest first
