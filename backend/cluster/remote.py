"""Embeddings made by workers elsewhere: asked for over a queue, waited for without asking again and again.

A warm click costs what it costs in one process alone: two look-ups in memory. Otherwise the image is *on its way*: one
look into Redis, one job if nobody has queued it yet, and then silence until a worker says on the notice channel that it
is done or why it is not. Without a worker the image is queued for the next one, and the click is told at once. One
thread per process listens; every two seconds it also looks at everything that is on its
way at once, in one question, since a notice may be missed, a worker may die and Redis may restart empty.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import LookupResult, SharedContentIndex, parse_notice
from backend.cluster.listener import Listener, ListenerCallbacks
from backend.cluster.lookup import SharedEmbeddings
from backend.cluster.monitor import ClusterMonitor, ClusterState
from backend.cluster.queues import JobQueues
from backend.cluster.store import RedisStore
from backend.concurrency.byte_budget import ADDRESSES_BYTES, ByteBudget, Share
from backend.embeddings.content_index import SourceKey, source_key
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingStore
from backend.embeddings.waiting import Observer, wait_for
from backend.errors import BackendError, Reason, RetryLater
from backend.types import ImageRef, Priority
from model.types import Embedding

logger = logging.getLogger(__name__)

ERRANDS = 16
OUTAGE_S = 3.0
"""For how long a click that is already waiting outlasts a Redis that is away."""

HEARD_AGAIN_S = 7.0
"""So long after an outage of Redis, which may have forgotten them, every worker has been heard of again."""

LINGER_S = 60.0
"""For how long an image stays on its way after the last click on it has left."""

RECHECK_AGAIN_S = 30.0


@dataclass
class _Flight:
    """One image on its way, with everybody in this process who waits for it."""

    ref: ImageRef
    place: SourceKey
    priority: Priority
    until: float
    asked: Priority | None = None
    maybe_lost: bool = False
    address: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)


class QueuedEmbeddings:
    """Embeddings made by workers; safe from many threads, and without an encoder of its own."""

    def __init__(
        self,
        link: RedisConnection,
        cluster: ClusterMonitor,
        memory: EmbeddingStore,
        store: RedisStore,
        contents: SharedContentIndex,
        queues: JobQueues,
        model_version: str,
        observer: Observer,
        *,
        dtype: Dtype = "float16",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet, connect to nothing.

        Args:
            link: to Redis.
            cluster: knows the workers and the queues.
            memory: this process' own embeddings.
            store: everybody's.
            contents: what everybody knows of the addresses.
            queues: where images are asked for.
            model_version: of the workers' encoders and this process' decoder.
            observer: is told what happens.
            dtype: what embeddings are stored as.
            clock: seconds, monotonic.
        """
        self._link, self._cluster, self._queues, self._observer, self._clock = link, cluster, queues, observer, clock
        self._made = SharedEmbeddings(link, memory, store, contents, model_version, dtype, clock)
        self._flights: dict[SourceKey, _Flight] = {}
        self._asking: dict[SourceKey, float] = {}
        self._errands = ThreadPoolExecutor(ERRANDS, thread_name_prefix="redis")
        self._ahead = Prefetcher(self._ask_ahead)
        ears = ListenerCallbacks(
            self._heard, self._look_at_all, lambda: self._submit(self._cluster.refresh), self._fail_all
        )
        self._listener = Listener(link, cluster.channel, ears, clock)
        self._addresses = ByteBudget(ADDRESSES_BYTES)
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether cold images can be had: Redis answers and a worker is alive."""
        return not self._link.is_down and self.cluster.workers > 0

    @property
    def failure(self) -> str:
        """Nothing: the workers have the encoders, and tell of them in their logs."""
        return ""

    @property
    def encoding(self) -> int:
        """How many images this process waits for."""
        return len(self._flights)

    @property
    def ahead(self) -> int:
        """How many images this process has yet to queue to be encoded ahead."""
        return len(self._ahead)

    @property
    def cluster(self) -> ClusterState:
        """The workers and the queues, as they were a few seconds ago."""
        return self._cluster.state

    def start(self) -> None:
        """Begin listening; after a fork, not before. Done by the first request otherwise."""
        self._listener.start()
        self._ahead.start()

    def close(self) -> None:
        """Let everybody go and end the threads."""
        with self._lock:
            self._stopped.set()
        for flight in list(self._flights.values()):
            self._settle(flight, _stopping())
        self._errands.shutdown(wait=True, cancel_futures=True)
        for flight in list(self._flights.values()):  # that came between
            self._settle(flight, _stopping())
        self._listener.close()
        self._ahead.close()
        self._link.close()

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get`."""
        place = source_key(ref)
        found = self._warm(ref, place)
        if found is not None:
            self._observer.record_lookup("memory")
            return found
        future = self._join(ref, place, priority, deadline_s)
        return wait_for(future, deadline_s, self._observer, self._late)

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if somebody has made it; see `backend.embeddings.local.Embeddings.peek`."""
        place = source_key(ref)
        found = self._warm(ref, place)
        if found is None:
            with suppress(BackendError):
                held = self._made.held(place, self._made.known(place))
                found = held.embedding if held is not None else None
        return found

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Have images encoded when nothing more urgent is to do; the team's prefetches of one image are one."""
        self.start()
        self._ahead.add(refs)

    def _warm(self, ref: ImageRef, place: SourceKey) -> Embedding | None:
        """Return the embedding if this process holds it."""
        held = self._made.warm(place)
        if held is None:
            return None
        if not held.is_fresh:
            self._ask_whether_changed(ref, place)
        return held.embedding

    def _join(self, ref: ImageRef, place: SourceKey, priority: Priority, deadline_s: float) -> "Future[Embedding]":
        """Return the embedding on its way; set it on its way if this process has not."""
        self.start()
        until = self._clock() + deadline_s + LINGER_S
        with self._lock:
            if self._stopped.is_set():
                raise _stopping()
            flight = self._flights.get(place)
            if flight is not None:
                self._observer.shared()
                flight.until = max(flight.until, until)
                if priority < flight.priority:
                    flight.priority = priority
                    self._errands.submit(self._guarded, flight, self._ask)
                return flight.future
            address = self._addresses.take_address(ref.uri)
            flight = self._flights[place] = _Flight(ref, place, priority, until, address=address)
            self._errands.submit(self._guarded, flight, self._start)
            return flight.future

    def _late(self) -> RetryLater | None:
        """Return what to say to a click that has waited in vain, None where there is nothing special."""
        state = self.cluster
        if state.is_known and not state.workers and not self._link.is_down:
            return _no_worker(state.other_models)
        return None

    def _without_worker(self) -> RetryLater | None:
        """Return what to say to those who wait where no worker is alive, busy or loading its model; None where one is.

        None also where that cannot be told: while Redis is away, and so soon after that it may have forgotten them.
        """
        try:
            other_models = self._cluster.strangers_alone()
        except RetryLater:
            return None
        if other_models is None or self._link.up_s < HEARD_AGAIN_S:
            return None
        return _no_worker(other_models)

    # What happens to an image on its way, on the errands' threads

    def _guarded(self, flight: _Flight, step: Callable[[_Flight], None]) -> None:
        """Take a step; whatever happens, the flight goes on or gets its end."""
        try:
            step(flight)
        except BackendError as error:
            self._settle(flight, error)
        except Exception as error:  # a defect must not leave clicks waiting
            logger.exception("event=flight_defect project=%s task=%s", flight.ref.project_id, flight.ref.task_id)
            self._settle(flight, BackendError(f"internal error: {error}"))

    def _start(self, flight: _Flight) -> None:
        """Look whether the image is there already; ask for it if it is not."""
        if not self._finish_if_known(flight, self._made.known(flight.place)):
            self._observer.record_lookup("miss")
            self._ask(flight)  # also without a worker: the next one begins with it
            if (nobody := self._without_worker()) is not None:
                self._settle(flight, nobody)

    def _finish_if_known(self, flight: _Flight, known: LookupResult) -> bool:
        """Give a flight its end, if what is known of its address is one."""
        if known.failure is not None:
            self._settle(flight, known.failure)
            return True
        held = self._made.held(flight.place, known)
        if held is None:
            return False
        self._observer.record_lookup(held.tier)
        self._settle(flight, held.embedding)
        if not held.is_fresh:
            self._ask_whether_changed(flight.ref, flight.place)
        return True

    def _ask(self, flight: _Flight) -> None:
        """Queue the image, unless somebody has."""
        priority = flight.priority
        if not self._queues.ask(flight.ref, flight.place, priority):
            self._observer.shared()
        flight.asked, flight.maybe_lost = priority, False

    def _look(self, flight: _Flight) -> None:
        """See how an image fares: there, being worked on, waiting for its turn, or lost on the way."""
        if self._finish_if_known(flight, self._made.known(flight.place)):
            return
        if (
            flight.asked is None
            or self._cluster.is_worked_on(flight.place)
            or self._queues.is_queued(flight.place, flight.asked)
        ):
            flight.maybe_lost = False
        elif not flight.maybe_lost and self._cluster.is_announced(flight.place, flight.asked):
            flight.maybe_lost = True  # a worker may just be about to begin
        else:
            logger.warning("event=job_lost task=%s", flight.ref.task_id)
            self._queues.forget(flight.place, flight.asked)
            self._ask(flight)

    def _settle(self, flight: _Flight, outcome: "Embedding | BackendError") -> None:
        with self._lock:
            if self._flights.get(flight.place) is not flight:
                return
            del self._flights[flight.place]
        if flight.address is not None:
            flight.address.release()
        if isinstance(outcome, BackendError):
            flight.future.set_exception(outcome)
        else:
            flight.future.set_result(outcome)

    def _submit(self, errand: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the errands end before the listener does
            self._errands.submit(errand, *arguments)

    # What the listener's thread does

    def _heard(self, data: bytes) -> None:
        notice = parse_notice(data)
        if notice is None:
            return
        if notice.known.note is not None:
            self._made.refresh(notice.place, notice.known.note)
        with self._lock:
            flight = self._flights.get(notice.place)
        if flight is not None:
            self._submit(self._guarded, flight, lambda flight: self._on_event(flight, notice.known))

    def _on_event(self, flight: _Flight, known: LookupResult) -> None:
        if not self._finish_if_known(flight, known):
            self._look(flight)

    def _look_at_all(self) -> None:
        """See how everything on its way fares; most of it waits for its turn, which one question tells of all."""
        now = self._clock()
        with self._lock:
            flights = list(self._flights.values())
        for flight in flights:
            if now > flight.until:
                self._settle(flight, RetryLater("nobody waits any more", Reason.BUDGET_EXCEEDED))
        if flights and (nobody := self._without_worker()) is not None:
            for flight in flights:
                self._settle(flight, copy.copy(nobody))
            return
        under_way = self._cluster.under_way([(flight.place, flight.asked) for flight in flights])
        for flight, is_waiting in zip(flights, under_way, strict=True):
            if is_waiting:
                flight.maybe_lost = False
            elif not flight.future.done():
                self._submit(self._guarded, flight, self._look)

    def _fail_all(self, error: RetryLater) -> None:
        """Let everybody go once Redis has been away for too long."""
        if self._link.down_s < OUTAGE_S:
            return
        for flight in list(self._flights.values()):
            self._settle(flight, copy.copy(error))

    # Ahead of time

    def _ask_ahead(self, ref: ImageRef) -> None:
        place = source_key(ref)
        try:
            if self._warm(ref, place) is None and not self._made.is_done(place):
                self._queues.ask(ref, place, Priority.PREFETCH)
        except BackendError as error:
            self._observer.background_failure(error.reason)
            logger.info("event=prefetch_failed task=%s reason=%s", ref.task_id, error.reason)
        except Exception:
            logger.exception("event=prefetch_defect task=%s", ref.task_id)

    def _ask_whether_changed(self, ref: ImageRef, place: SourceKey) -> None:
        """Have a worker look whether an image has changed, while clicks on it go on being answered."""
        now = self._clock()
        with self._lock:
            if self._asking.get(place, 0.0) > now or self._stopped.is_set():
                return
            self._asking = {one: until for one, until in self._asking.items() if until > now}
            self._asking[place] = now + RECHECK_AGAIN_S
            self._errands.submit(self._recheck, ref, place)

    def _recheck(self, ref: ImageRef, place: SourceKey) -> None:
        try:
            known = self._made.known(place)
            if known.note is not None and known.note.is_fresh:
                self._made.learn(place, known.note)
            else:
                self._queues.ask(ref, place, Priority.PREFETCH)
        except BackendError as error:
            logger.info("event=recheck_failed project=%s reason=%s", ref.project_id, error.reason)
        except Exception:
            logger.exception("event=recheck_defect project=%s task=%s", ref.project_id, ref.task_id)


def _no_worker(other_models: Sequence[str]) -> RetryLater:
    others = f"; those that run encode with other weights: {', '.join(other_models)}" if other_models else ""
    return RetryLater(f"no worker is alive that could encode the image{others}", Reason.NO_WORKER)


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
