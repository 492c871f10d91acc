"""What the service counts and times: for Prometheus, and the last requests for the status page.

The registry is given, never the library's global one, so that tests and several services in one process stay apart.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backend.errors import Reason
from backend.types import Prediction, PredictRequest

STAGES = ("receive", "fetch", "decode_image", "encode", "embedding", "decoder", "postprocess", "rle", "total")
"""The parts of an answer that are timed: ``fetch``, ``decode_image`` and ``encode`` happen in the background, and
``embedding`` is what a request waits for them."""

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 100.0)
_RECENT = 300
_PROJECTS = 100


@dataclass(frozen=True)
class AnsweredRequest:
    """One answered request, for the status page.

    Attributes:
        at: seconds since 1970.
        tasks: how many tasks it was about.
        regions: how many regions the answer holds.
        reasons: why it holds none, or fewer than asked for.
        total_ms: from the first byte read to the answer.
        body_bytes: size of the request.
        stages_ms: how long each stage of it took in the request's own thread.
        is_click: whether it had prompts.
        project_id: the project it was about, None where it did not say.
        task_id: its first task, None where it did not say.
        tier: where its embedding was found at once (``memory``, ``disk``); empty where it was waited for or not needed.
    """

    at: float
    tasks: int
    regions: int
    reasons: tuple[Reason, ...]
    total_ms: float
    body_bytes: int
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    is_click: bool = False
    project_id: int | None = None
    task_id: int | None = None
    tier: str = ""

    @property
    def is_warm(self) -> bool:
        """Whether it was answered without waiting for an embedding."""
        return "embedding" not in self.stages_ms


class Metrics:
    """Counters, timers and the last requests of one service; safe from many threads."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.time,
        on_answer: Callable[[Sequence[Prediction]], None] | None = None,
    ) -> None:
        """Count nothing yet.

        Args:
            registry: where to register; a new one if None.
            clock: seconds since 1970.
            on_answer: is shown every answer.
        """
        self.registry = CollectorRegistry() if registry is None else registry
        self._clock, self._started_at, self._witness = clock, clock(), on_answer
        self._stage = Histogram(
            "paddle_sam_stage_seconds",
            "Time that each stage of an answer takes.",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._cache = self._counter("cache_lookups", "Where embeddings were found, or miss.", "tier")
        self._reasons = self._counter("reasons", "Why answers were empty or requests refused.", "reason")
        self._background = self._counter("background_failures", "Why images could not be encoded ahead.", "reason")
        self._tasks = self._counter("tasks", "Tasks answered, with regions or without.", "outcome")
        self._dropped = self._counter("embeddings_dropped", "Embeddings that could not be used, and where.", "tier")
        self._shared = self._counter("encodes_shared", "Requests that joined an encode already on its way.")
        self._waiting = Gauge(
            "paddle_sam_waiting", "Requests waiting for an embedding at the moment.", registry=self.registry
        )
        self._recent: deque[AnsweredRequest] = deque(maxlen=_RECENT)
        self._encodes_ms: deque[float] = deque(maxlen=_RECENT)
        self._projects: OrderedDict[int | None, tuple[str, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self._own = threading.local()
        for stage in STAGES:
            self._stage.labels(stage)
        for tier in ("disk", "redis"):
            self._dropped.labels(tier)
        for reason in Reason:  # from 0 on, else a rate over time does not see the first of its kind
            self._reasons.labels(reason.value)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, whether it succeeds or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._took(name, time.perf_counter() - start)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request as waiting for its embedding, and time how long it does."""
        with self._waiting.track_inprogress(), self.stage("embedding"):
            yield

    def record_lookup(self, tier: str) -> None:
        """Count where an embedding was found, or that it was not (``miss``)."""
        self._cache.labels(tier).inc()
        self._own.tier = tier

    def dropped(self, tier: str) -> None:
        """Count an embedding that was found and could not be used: damaged, or of another shape than the network's."""
        self._dropped.labels(tier).inc()

    def shared(self) -> None:
        """Count a request that joined an encode already on its way."""
        self._shared.inc()

    def background_failure(self, reason: Reason) -> None:
        """Count an image that could not be encoded ahead."""
        self._background.labels(reason.value).inc()

    def answered(
        self,
        asked: PredictRequest,
        predictions: Sequence[Prediction],
        *,
        received_s: float,
        total_s: float,
        body_bytes: int,
    ) -> AnsweredRequest:
        """Note an answer, and return the note; its stages are those that this thread timed since its last one.

        Args:
            asked: the request.
            predictions: one per task.
            received_s: how long reading the request took.
            total_s: how long everything took.
            body_bytes: size of the request.
        """
        self._took("receive", received_s)
        self._took("total", total_s)
        reasons = tuple(dict.fromkeys(reason for one in predictions for reason in one.reasons))
        for one in predictions:
            self._tasks.labels("regions" if one.result else "empty").inc()
        for reason in reasons:
            self._reasons.labels(reason.value).inc()
        tier: str = self._own.__dict__.get("tier", "")
        stages_ms = {name: round(seconds * 1000, 3) for name, seconds in self._forget().items()}
        note = AnsweredRequest(
            self._clock(),
            len(predictions),
            sum(len(one.result) for one in predictions),
            reasons,
            round(total_s * 1000, 3),
            body_bytes,
            MappingProxyType(stages_ms),
            bool(asked.context),
            asked.project_id,
            asked.tasks[0].id if asked.tasks else None,
            tier,
        )
        with self._lock:
            self._recent.appendleft(note)
        if self._witness is not None:
            self._witness(predictions)
        return note

    def refused(self, reason: Reason) -> None:
        """Count a request that got an error for an answer."""
        self._reasons.labels(reason.value).inc()
        self._forget()

    def configured(self, project_id: int | None, problems: Sequence[str]) -> None:
        """Note what a project's labeling config lacks; nothing, if it is fine."""
        with self._lock:
            self._projects[project_id] = tuple(problems)
            self._projects.move_to_end(project_id)
            while len(self._projects) > _PROJECTS:
                self._projects.popitem(last=False)

    def recent(self) -> tuple[AnsweredRequest, ...]:
        """Return the last requests, newest first."""
        with self._lock:
            return tuple(self._recent)

    def encodes_ms(self) -> tuple[float, ...]:
        """Return how long the last encodes of this process took, newest first."""
        with self._lock:
            return tuple(self._encodes_ms)

    @property
    def up_s(self) -> float:
        """For how many seconds it has counted."""
        return self._clock() - self._started_at

    def reason_counts(self) -> Mapping[Reason, int]:
        """Return how often each reason was given since the start, for an answer or for an image to be encoded ahead."""
        found: dict[Reason, int] = {}
        for word, count in (*_counts(self._reasons), *_counts(self._background)):
            found[Reason(word)] = found.get(Reason(word), 0) + count
        return found

    def lookups(self) -> Mapping[str, int]:
        """Return how often embeddings were found in each tier, and how often they were not (``miss``)."""
        return dict(_counts(self._cache))

    def config_problems(self) -> Mapping[int | None, tuple[str, ...]]:
        """Return what the labeling config of each project that was opened lacks."""
        with self._lock:
            return dict(self._projects)

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Expose ``paddle_sam_<name>``, a number that is read whenever somebody asks."""
        Gauge(f"paddle_sam_{name}", description, registry=self.registry).set_function(read)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"paddle_sam_{name}", description, labels, registry=self.registry)

    def _took(self, name: str, seconds: float) -> None:
        self._stage.labels(name).observe(seconds)
        if name == "encode":
            with self._lock:
                self._encodes_ms.appendleft(seconds * 1000)
        stages: dict[str, float] = self._own.__dict__.setdefault("stages", {})
        stages[name] = stages.get(name, 0.0) + seconds

    def _forget(self) -> dict[str, float]:
        """Return the stages this thread has timed and begin anew."""
        self._own.__dict__.pop("tier", None)
        stages: dict[str, float] = self._own.__dict__.pop("stages", {})
        return stages


def _counts(counter: Counter) -> Iterator[tuple[str, int]]:
    """Yield the value of a counter's only label, and how often it was counted."""
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                [label] = sample.labels.values()
                if sample.value:
                    yield label, int(sample.value)
