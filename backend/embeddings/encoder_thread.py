"""One thread that owns a device's encoder: images go in by priority, embeddings come out, once per content."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from backend.concurrency.byte_budget import Share
from backend.embeddings import encode
from backend.embeddings.encode import Encoder, Stopwatch
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.errors import BackendError, Reason, RetryLater
from backend.images import decode
from backend.types import Priority
from model.types import Embedding

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    key: EmbeddingKey
    data: bytes
    priority: Priority
    share: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)
    is_taken: bool = False

    def drop_file(self) -> None:
        """Forget the file; the heap may still hold the job's earlier places."""
        self.data = b""
        if self.share is not None:
            self.share.release()


class EncoderThread:
    """Encodes images one at a time, the urgent ones first, each content once however often it is asked for.

    Attributes:
        failure: why the encoder could not be loaded; empty when it could, or has not been tried.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        store: EmbeddingStore,
        limits: decode.Limits,
        stopwatch: Stopwatch,
    ) -> None:
        """Load nothing yet.

        Args:
            load: returns the encoder; called on the queue's own thread, so that nobody waits who need not.
            store: where embeddings go.
            limits: of the images.
            stopwatch: times ``decode_image`` and ``encode``.
        """
        self._load, self._store, self._limits, self._stopwatch = load, store, limits, stopwatch
        self._encoder: Encoder | None = None
        self.failure = ""
        self._heap: list[tuple[Priority, int, _Job]] = []
        self._jobs: dict[EmbeddingKey, _Job] = {}
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder is not None

    def __len__(self) -> int:
        """How many images wait or are being encoded."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin loading the encoder, in the background; the second call does nothing."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
                self._thread.start()

    def submit(
        self, key: EmbeddingKey, data: bytes, priority: Priority, share: Share | None = None
    ) -> "Future[Embedding]":
        """Return the embedding to come of an image file; the one already on its way, if there is one.

        The future fails with a `BackendError` and nothing else. ``share``, of the memory for files, is released as soon
        as the file is no longer needed.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is None:
                job = _Job(key, data, priority, share)
                if self._is_closed:
                    job.drop_file()
                    job.future.set_exception(_stopping())
                    return job.future
                self._jobs[key] = job
                self._push(job)
            else:
                if share is not None:
                    share.release()
                self._promote(job, priority)
            return job.future

    def promote(self, key: EmbeddingKey, priority: Priority) -> None:
        """Move an image forward if it still waits."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                self._promote(job, priority)

    def close(self) -> None:
        """Finish the image in hand, fail the others, and let the thread end; nobody waits for an encoder to load."""
        with self._changed:
            self._is_closed = True
            waiting = [job for job in self._jobs.values() if not job.is_taken]
            for job in waiting:
                job.is_taken = True
                del self._jobs[job.key]
            has_image_in_hand = bool(self._jobs)
            self._changed.notify_all()
        for job in waiting:
            job.drop_file()
            _settle(job.future, _stopping())
        if self._thread is not None and (has_image_in_hand or self.is_ready):
            self._thread.join()

    def _promote(self, job: _Job, priority: Priority) -> None:
        if priority < job.priority and not job.is_taken:
            job.priority = priority
            self._push(job)  # its old place in the heap is passed over when it comes up

    def _push(self, job: _Job) -> None:
        heapq.heappush(self._heap, (job.priority, next(self._order), job))
        self._changed.notify()

    def _next(self) -> _Job | None:
        """Return the most urgent image, waiting for one; None when closed."""
        with self._changed:
            while True:
                while self._heap:
                    job = heapq.heappop(self._heap)[2]
                    if not job.is_taken:
                        job.is_taken = True
                        return job
                if self._is_closed:
                    return None
                self._changed.wait()

    def _work(self) -> None:
        self._try_to_load()
        while (job := self._next()) is not None:
            outcome = self._outcome(job)
            with self._changed:
                del self._jobs[job.key]
            job.drop_file()
            _settle(job.future, outcome)

    def _try_to_load(self) -> BackendError | None:
        """Load the encoder; return why it cannot be, None if it is there."""
        try:
            self._encoder = self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, clicks get a reason and the next one tries again
            self.failure = str(error) or type(error).__name__
            logger.error("event=encoder_not_loaded detail=%r", self.failure)
            return BackendError(f"the encoder cannot be loaded: {error}", Reason.MODEL_NOT_READY)
        self.failure = ""
        return None

    def _outcome(self, job: _Job) -> Embedding | BackendError:
        if self._encoder is None:
            failure = self._try_to_load()
            if failure is not None:
                return failure
        try:
            return self._encode(job)
        except BackendError as error:
            return error
        except Exception as error:  # the thread outlives any defect, and its waiters learn the reason
            logger.exception("event=encode_defect image=%s", job.key.digest[:12])
            return BackendError(f"internal error: {error}")

    def _encode(self, job: _Job) -> Embedding:
        assert self._encoder is not None
        held = self._store.get(job.key)
        if held is not None:  # made since it was asked for, here or by another process
            return held
        start = time.perf_counter()
        embedding = encode.encode(self._encoder, job.data, job.key, self._limits, self._stopwatch)
        self._store.put(job.key, embedding)
        took = round((time.perf_counter() - start) * 1000)
        logger.info(
            "image encoded: image=%s priority=%s ms=%d event=encoded",
            job.key.digest[:12],
            job.priority.name.lower(),
            took,
        )
        return embedding


def _settle(future: "Future[Embedding]", outcome: Embedding | BackendError) -> None:
    try:
        if isinstance(outcome, BackendError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass  # somebody cancelled it


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
