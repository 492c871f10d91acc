"""What the status page says: a snapshot of one process, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A name and what is to be said of it."""

    name: str
    text: str
    is_problem: bool = False


@dataclass(frozen=True)
class Request:
    """One of the last requests.

    Attributes:
        at: when it was answered, ``HH:MM:SS`` UTC.
        tasks: how many tasks it was about.
        regions: how many regions the answer held.
        total_ms: from the first byte to the answer.
        stages: where the time went.
        reasons: why it was empty or prompts went unused.
    """

    at: str
    tasks: int
    regions: int
    total_ms: float
    stages: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """What one process knows of itself.

    Attributes:
        headline: whether it can answer clicks, in a few words.
        is_ready: whether it can.
        model: name, device and state of the network.
        cache: where embeddings are and how often they were found.
        queue: what waits to be encoded.
        problems: what an operator should look at, newest first.
        requests: the last requests, newest first.
    """

    headline: str
    is_ready: bool
    model: tuple[Row, ...]
    cache: tuple[Row, ...]
    queue: tuple[Row, ...]
    problems: tuple[Row, ...]
    requests: tuple[Request, ...]
