"""One thread that owns a device's encoder: it encodes images by priority, each content once."""

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
from backend.types import Priority
from model.types import Embedding, ModelInput

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    key: EmbeddingKey
    model_input: ModelInput | None
    priority: Priority
    share: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)
    has_started: bool = False

    def drop_input(self) -> None:
        """Free the image; the heap may hold older entries of this job."""
        self.model_input = None
        if self.share is not None:
            self.share.release()


class EncoderThread:
    """Encodes images one at a time, the most urgent first; concurrent requests for one content share one encode.

    Attributes:
        failure: why the encoder could not be loaded; empty if it was loaded, or if loading has not been tried.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        store: EmbeddingStore,
        stopwatch: Stopwatch,
    ) -> None:
        """Encode with the encoder that ``load`` returns, on a thread that `start` begins.

        Args:
            load: returns the encoder; called on the encoder's own thread, so that requests for cached images do not
                wait for it.
            store: receives the embeddings.
            stopwatch: times ``encode``.
        """
        self._load, self._store, self._stopwatch = load, store, stopwatch
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
        """Number of images that wait or are being encoded."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin loading the encoder in the background; a second call does nothing."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
                self._thread.start()

    def submit(
        self, key: EmbeddingKey, model_input: ModelInput, priority: Priority, share: Share | None = None
    ) -> "Future[Embedding]":
        """Return a future of an image's embedding; the existing one if the content is already queued.

        The future fails only with a `BackendError`. ``share``, a part of the memory budget for images, is
        released as soon as the input is no longer needed.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is None:
                job = _Job(key, model_input, priority, share)
                if self._is_closed:
                    job.drop_input()
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
        """Raise the priority of an image that is not being encoded yet."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                self._promote(job, priority)

    def close(self) -> None:
        """Finish the current image, fail the waiting ones, and end the thread; do not wait for an encoder to load."""
        with self._changed:
            self._is_closed = True
            waiting = [job for job in self._jobs.values() if not job.has_started]
            for job in waiting:
                job.has_started = True
                del self._jobs[job.key]
            is_encoding = bool(self._jobs)
            self._changed.notify_all()
        for job in waiting:
            job.drop_input()
            _resolve(job.future, _stopping())
        if self._thread is not None and (is_encoding or self.is_ready):
            self._thread.join()

    def _promote(self, job: _Job, priority: Priority) -> None:
        if priority < job.priority and not job.has_started:
            job.priority = priority
            self._push(job)  # the older heap entry is skipped when it is popped

    def _push(self, job: _Job) -> None:
        heapq.heappush(self._heap, (job.priority, next(self._order), job))
        self._changed.notify()

    def _next(self) -> _Job | None:
        """Return the most urgent image, waiting for one; None when closed."""
        with self._changed:
            while True:
                while self._heap:
                    job = heapq.heappop(self._heap)[2]
                    if not job.has_started:
                        job.has_started = True
                        return job
                if self._is_closed:
                    return None
                self._changed.wait()

    def _work(self) -> None:
        self._try_to_load()
        while (job := self._next()) is not None:
            outcome = self._run(job)
            with self._changed:
                del self._jobs[job.key]
            job.drop_input()
            _resolve(job.future, outcome)

    def _try_to_load(self) -> BackendError | None:
        """Load the encoder; return the error if that fails, None if it succeeds."""
        try:
            self._encoder = self._load()
        except Exception as error:  # noqa: BLE001 - any error becomes a reason, and the next image tries again
            self.failure = str(error) or type(error).__name__
            logger.error("event=encoder_not_loaded detail=%r", self.failure)
            return BackendError(f"the encoder cannot be loaded: {error}", Reason.MODEL_NOT_READY)
        self.failure = ""
        return None

    def _run(self, job: _Job) -> Embedding | BackendError:
        if self._encoder is None:
            failure = self._try_to_load()
            if failure is not None:
                return failure
        try:
            return self._encode(job)
        except BackendError as error:
            return error
        except Exception as error:  # a defect must not end the thread; the waiting requests get its text
            logger.exception("event=encode_defect image=%s", job.key.digest[:12])
            return BackendError(f"internal error: {error}")

    def _encode(self, job: _Job) -> Embedding:
        assert self._encoder is not None
        assert job.model_input is not None
        cached = self._store.get(job.key)
        if cached is not None:  # encoded since it was submitted, here or by another process
            return cached
        start = time.perf_counter()
        embedding = encode.encode(self._encoder, job.model_input, job.key, self._stopwatch)
        self._store.put(job.key, embedding)
        took_ms = round((time.perf_counter() - start) * 1000)
        logger.info(
            "image encoded: image=%s priority=%s ms=%d event=encoded",
            job.key.digest[:12],
            job.priority.name.lower(),
            took_ms,
        )
        return embedding


def _resolve(future: "Future[Embedding]", outcome: Embedding | BackendError) -> None:
    try:
        if isinstance(outcome, BackendError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass  # it was cancelled


def _stopping() -> RetryLater:
    return RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
