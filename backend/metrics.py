"""Counters and timers for Prometheus, and a record of the last requests for the status page.

The registry is never the library's global one, so that several services in one process stay separate.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from cachetools import FIFOCache
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backend.errors import Kind, Reason
from backend.types import Prediction, PredictRequest

STAGES = ("receive", "fetch", "decode_image", "detect", "encode", "embedding", "decoder", "postprocess", "rle", "total")
"""The stages of an answer that are timed: ``fetch``, ``decode_image``, ``detect`` and ``encode`` happen in the
background, and ``embedding`` is how long a request waits for them."""

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 100.0)
_RECENT = 300
_PROJECTS = 100


@dataclass(frozen=True)
class AnsweredRequest:
    """One answered request, for the status page."""

    at: float  # seconds since 1970
    tasks: int
    regions: int
    reasons: tuple[Reason, ...]  # why the answer has no regions, or fewer than requested
    total_ms: float  # from the first byte read to the answer
    body_bytes: int
    stages_ms: Mapping[str, float] = field(default_factory=dict)  # in the request's own thread
    is_click: bool = False
    project_id: int | None = None
    task_id: int | None = None  # of its first task
    tier: str = ""  # where its embedding was found; empty where the request waited or needed none

    @property
    def is_warm(self) -> bool:
        """Whether it was answered without waiting for an embedding."""
        return "embedding" not in self.stages_ms

    @property
    def is_failure(self) -> bool:
        """Whether it expected a mask and got none."""
        return not self.regions and any(reason.kind is not Kind.HARMLESS for reason in self.reasons)


class StageTimes:
    """Times the stages of answers: all of them in a histogram, and those of each thread since its last answer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "paddle_sam_stage_seconds",
            "Time that each stage of an answer takes.",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        for stage in STAGES:
            self._seconds.labels(stage)
        self._encodes_ms: deque[float] = deque(maxlen=_RECENT)
        self._lock, self._own = threading.Lock(), threading.local()

    def add(self, stage: str, seconds: float) -> None:
        """Record how long a stage took in this thread."""
        self._seconds.labels(stage).observe(seconds)
        if stage == "encode":
            with self._lock:
                self._encodes_ms.appendleft(seconds * 1000)
        stages: dict[str, float] = self._own.__dict__.setdefault("stages", {})
        stages[stage] = stages.get(stage, 0.0) + seconds

    def take(self) -> Mapping[str, float]:
        """Return the milliseconds of each stage that this thread has recorded, and forget them."""
        stages: dict[str, float] = self._own.__dict__.pop("stages", {})
        return MappingProxyType({stage: round(seconds * 1000, 3) for stage, seconds in stages.items()})

    def encodes_ms(self) -> tuple[float, ...]:
        """Return how long the last encodes of this process took, newest first."""
        with self._lock:
            return tuple(self._encodes_ms)


class ConfigProblems:
    """The problems of the labeling config of each project that was opened; of the last hundred projects."""

    def __init__(self) -> None:
        self._problems: FIFOCache[int | None, tuple[str, ...]] = FIFOCache(_PROJECTS)
        self._lock = threading.Lock()

    def record(self, project_id: int | None, problems: Sequence[str]) -> None:
        """Record the problems of a project; an empty sequence clears them."""
        with self._lock:
            self._problems.pop(project_id, None)
            self._problems[project_id] = tuple(problems)

    def by_project(self) -> Mapping[int | None, tuple[str, ...]]:
        """Return the problems of each project, of the one that was opened last at the end."""
        with self._lock:
            return dict(self._problems)


class Metrics:
    """Counters, times of stages, problems of configs and the last requests of one service; safe from many threads.

    >>> metrics = Metrics()
    >>> metrics.record_lookup("memory")
    >>> metrics.lookups()
    {'memory': 1}
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Register all counters; ``clock`` returns seconds since 1970."""
        self.registry = CollectorRegistry()
        self.times, self.configs = StageTimes(self.registry), ConfigProblems()
        self._clock, self._started_at = clock, clock()
        counter = partial(_counter, self.registry)
        self._cache = counter("cache_lookups", "Where embeddings were found, or miss.", "tier")
        self._reasons = counter("reasons", "Why answers were empty or requests refused.", "reason")
        self._background = counter("background_failures", "Why images could not be encoded ahead.", "reason")
        self._tasks = counter("tasks", "Tasks answered, with regions or without.", "outcome")
        self._dropped = counter("embeddings_dropped", "Embeddings that could not be used, and where.", "tier")
        self._shared = counter("encodes_shared", "Requests that joined an encode already on its way.")
        self._waiting = Gauge(
            "paddle_sam_waiting", "Requests waiting for an embedding at the moment.", registry=self.registry
        )
        self._recent: deque[AnsweredRequest] = deque(maxlen=_RECENT)
        self._lock, self._own = threading.Lock(), threading.local()
        for tier in ("disk", "redis"):
            self._dropped.labels(tier)
        for reason in Reason:  # starts each at 0, else a rate over time misses the first event of its kind
            self._reasons.labels(reason.value)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of a stage, whether it succeeds or fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times.add(name, time.perf_counter() - start)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request as waiting for its embedding, and measure how long it waits."""
        with self._waiting.track_inprogress(), self.stage("embedding"):
            yield

    def record_lookup(self, tier: str) -> None:
        """Count the tier in which an embedding was found, or ``miss``."""
        self._cache.labels(tier).inc()
        self._own.tier = tier

    def record_drop(self, tier: str) -> None:
        """Count a cached embedding that cannot be used: damaged, or not of the network's shape."""
        self._dropped.labels(tier).inc()

    def record_join(self) -> None:
        """Count a request that joined a running encode."""
        self._shared.inc()

    def background_failure(self, reason: Reason) -> None:
        """Count an image that could not be encoded ahead of its click."""
        self._background.labels(reason.value).inc()

    def record_answer(
        self,
        request: PredictRequest,
        predictions: Sequence[Prediction],
        *,
        received_s: float,
        total_s: float,
        body_bytes: int,
    ) -> AnsweredRequest:
        """Record an answer and return the record, with the stages that this thread measured since its last answer."""
        self.times.add("receive", received_s)
        self.times.add("total", total_s)
        reasons = tuple(dict.fromkeys(reason for prediction in predictions for reason in prediction.reasons))
        for prediction in predictions:
            self._tasks.labels("regions" if prediction.result else "empty").inc()
        for reason in reasons:
            self._reasons.labels(reason.value).inc()
        record = AnsweredRequest(
            self._clock(),
            len(predictions),
            sum(len(prediction.result) for prediction in predictions),
            reasons,
            round(total_s * 1000, 3),
            body_bytes,
            self.times.take(),
            bool(request.context or request.texts),
            request.project_id,
            request.tasks[0].id if request.tasks else None,
            self._own.__dict__.pop("tier", ""),
        )
        with self._lock:
            self._recent.appendleft(record)
        return record

    def record_refusal(self, reason: Reason) -> None:
        """Count a request that was answered with an error."""
        self._reasons.labels(reason.value).inc()
        self.times.take()
        self._own.__dict__.clear()

    def recent(self) -> tuple[AnsweredRequest, ...]:
        """Return the last requests, newest first."""
        with self._lock:
            return tuple(self._recent)

    @property
    def up_s(self) -> float:
        """Seconds since these metrics were created."""
        return self._clock() - self._started_at

    def reason_counts(self) -> Mapping[Reason, int]:
        """Return how often each reason was given since the start, for answers and for images encoded ahead."""
        counts: dict[Reason, int] = {}
        for code, count in (*_counts(self._reasons), *_counts(self._background)):
            counts[Reason(code)] = counts.get(Reason(code), 0) + count
        return counts

    def lookups(self) -> Mapping[str, int]:
        """Return how often embeddings were found in each tier, and how often in none (``miss``)."""
        return dict(_counts(self._cache))

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Expose ``paddle_sam_<name>``, a gauge whose value is read at every scrape."""
        Gauge(f"paddle_sam_{name}", description, registry=self.registry).set_function(read)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _counter(registry: CollectorRegistry, name: str, description: str, *labels: str) -> Counter:
    return Counter(f"paddle_sam_{name}", description, labels, registry=registry)


def _counts(counter: Counter) -> Iterator[tuple[str, int]]:
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                [label] = sample.labels.values()
                if sample.value:
                    yield label, int(sample.value)
