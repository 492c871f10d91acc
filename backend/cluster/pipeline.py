"""From a job to its published result: take the lease, check the cache, fetch, encode, publish; several jobs at a time.

A job may run twice, on two workers at once, or again after a worker died in the middle of it: a worker holds a lease on
the address and on the content it works on, and the lease expires when the worker dies. A click on an image that is
being processed for a background job raises the priority of that job, also if another worker has it.

An image in whose work a worker died may be what killed it. Such images are decoded and encoded one at a time, so that
only the one that does it again is given up, and none of those that were in work beside it.
"""

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from backend.cluster.content_index import SharedRecord
from backend.cluster.lease import Lease
from backend.cluster.parts import ClusterParts
from backend.cluster.queues import TakenJob
from backend.cluster.store import RedisStore
from backend.embeddings.content_index import SourceKey, source_key
from backend.embeddings.encode import EncodeSpec, Preprocessor, find_words
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.pipeline import Source
from backend.embeddings.stores import EmbeddingKey
from backend.embeddings.word_boxes import Boxes, BoxKey
from backend.errors import BackendError, ImageError, Reason, RetryLater, internal
from backend.images.decode import Picture
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from model.types import ModelInput

logger = logging.getLogger(__name__)

R = TypeVar("R")

MAX_ATTEMPTS = 3  # how many workers may die on an image before it fails for a while
ENCODE_TIMEOUT_S = 900.0  # seconds without a finished image after which the encoder is considered to hang
POLL_EVERY_S = 0.1


@dataclass(eq=False)
class _Work:
    """A job in progress: its priority, which clicks raise, and the key of what is being made of the fetched image."""

    priority: Priority
    key: EmbeddingKey | BoxKey | None = None


class EncoderHangsError(BackendError):
    """The encoder has finished no image for `ENCODE_TIMEOUT_S`."""

    default_reason = Reason.ENCODE_FAILED


class EncodePipeline:
    """Processes jobs on the threads of its callers, and publishes the result of each, also after a defect.

    If ``encoder_hangs``, an image failed with `EncoderHangsError`, and the process must end.
    """

    def __init__(
        self,
        parts: ClusterParts,
        spec: EncodeSpec,
        source: Source,
        click_source: Source,
        encoder: EncoderThread,
        store: RedisStore,
        metrics: Metrics,
    ) -> None:
        """Combine fetcher, encoder and the shared state in Redis; ``spec`` says how files become embeddings.

        ``click_source`` fetches the images that annotators wait for, in memory of its own.
        """
        self._parts, self._spec, self._encoder, self._store = parts, spec, encoder, store
        self._source, self._click_source = source, click_source
        self._metrics, self._preprocessor = metrics, Preprocessor(spec, metrics)
        self._in_progress: set[_Work] = set()
        self._suspect = threading.Lock()  # held for an image in whose work a worker died before
        self._is_stopping = self.encoder_hangs = False
        self._encoded_at = 0.0

    def run(self, job: TakenJob) -> None:
        """Encode an image unless it is cached or being processed; an urgent job raises the priority of that work.

        If Redis does not answer, the job is lost, and the waiting web processes enqueue the image again.
        """
        address_key, leases, keys = source_key(job.ref), self._parts.leases, self._parts.keys
        lease_key, marker_key = keys.lease(address_key), keys.enqueued(address_key, job.priority)
        lease = leases.acquire(lease_key, marker_key=marker_key, job_id=job.job_id)
        if lease is None:  # its holder publishes the result; if its lease expires, the web processes enqueue it again
            if job.priority is Priority.INTERACTIVE:
                leases.expedite(lease_key)
            return
        work = _Work(job.priority)
        lease.on_urgent = lambda: self._expedite(work)
        self._in_progress.add(work)
        try:
            with lease:
                is_done = self._publish(job.ref, address_key, work, lease)
            if not is_done:  # after the release of the lease; otherwise a worker that takes it at once would skip it
                self._parts.queues.enqueue(job.ref, address_key, work.priority)
        finally:
            self._in_progress.remove(work)

    def stop(self) -> None:
        """Finish the clicks' images and the running encode, give the other jobs back to the queues, and end."""
        while any(work.priority is Priority.INTERACTIVE for work in list(self._in_progress)):
            time.sleep(POLL_EVERY_S)
        self._is_stopping = True
        self._encoder.close()

    def _expedite(self, work: _Work) -> None:
        work.priority = Priority.INTERACTIVE
        if work.key is not None:
            self._encoder.promote(work.key, Priority.INTERACTIVE)

    def _publish(self, ref: ImageRef, address_key: SourceKey, work: _Work, lease: Lease) -> bool:
        """Publish the embedding or the failure of an image; return False if neither can be made before the stop."""
        try:
            record = self._ensure_made(ref, address_key, work, lease)
            self._parts.contents.put(address_key, record, lease)
            if ref.words is not None:  # clicks on the image are warm too
                self._parts.contents.put(source_key(replace(ref, words=None)), record, lease)
            return True
        except BackendError as caught:
            if self._is_stopping and caught.reason is Reason.MODEL_NOT_READY:
                return False
            error = caught
        except Exception as defect:  # a defect must not leave clicks waiting
            logger.exception("event=job_defect project=%s task=%s", ref.project_id, ref.task_id)
            error = internal(defect)
        self._parts.monitor.count("failure")
        logger.info("event=job_failed project=%s task=%s reason=%s", ref.project_id, ref.task_id, error.reason)
        self._parts.contents.fail(address_key, error, lease)
        if isinstance(error, EncoderHangsError):
            lease.resets_attempts, self.encoder_hangs = False, True
        return True

    def _ensure_made(self, ref: ImageRef, address_key: SourceKey, work: _Work, lease: Lease) -> SharedRecord:
        if lease.attempt > MAX_ATTEMPTS:
            lease.resets_attempts = False
            raise ImageError(
                f"{lease.attempt - 1} workers in a row died or hung while encoding this image", Reason.ENCODE_FAILED
            )
        cached = self._parts.contents.get(address_key)
        if cached.failure is not None:
            raise cached.failure
        record = cached.record
        if record is not None and not self._is_made(ref, record.digest):
            record = None
        if record is not None and record.is_fresh:
            return record
        with ExitStack() as alone:
            begin = partial(self._begin, lease, alone)
            is_click = work.priority is Priority.INTERACTIVE
            record, picture, model_input = self._fetch(ref, record, begin, is_click=is_click)
            if picture is not None and not self._detect(work, ref, record.digest, picture):
                return record  # nothing is found, so nothing is segmented
            if model_input is not None:
                work.key = key = self._spec.key(record.digest)
                self._encode(work, key, model_input)
        return record

    def _begin(self, lease: Lease, alone: ExitStack) -> None:
        """Count the attempt to decode and encode an image; keep others away that may end the process, too."""
        if lease.attempt > 1:
            alone.enter_context(self._suspect)
        self._parts.leases.count_attempt(lease)

    def _is_made(self, ref: ImageRef, digest: str) -> bool:
        if ref.words is not None:
            return self._store.fetch_boxes(BoxKey(digest, ref.words)) is not None
        return self._store.holds(self._spec.key(digest))

    def _fetch(
        self, ref: ImageRef, known: SharedRecord | None, begin: Callable[[], None], *, is_click: bool
    ) -> tuple[SharedRecord, Picture | None, ModelInput | None]:
        """Return the image's content, the picture for a detector, and the network's input; None for what is made.

        The file is freed on return, so that only the few megabytes of pixels wait for the encoder. ``begin`` is called
        before it is decoded.
        """
        source = self._click_source if is_click else self._source
        with self._metrics.stage("fetch"):
            fetched = source.fetch(ref, None if known is None else known.version)
        self._parts.monitor.count("fetch")
        if fetched is None:
            assert known is not None
            self._store.note_file(ref.project_id, known.digest)  # it may be of before `erase`
            return SharedRecord(known.digest, known.version, known.immutable), None, None
        try:
            key = self._spec.key_of(fetched.data)
            self._store.note_file(ref.project_id, key.digest)
            record = SharedRecord(key.digest, fetched.version, fetched.immutable)
            if self._is_made(ref, key.digest):
                return record, None, None
            begin()
            priority = Priority.INTERACTIVE if is_click else Priority.BULK
            picture = None if ref.words is None else self._preprocessor.picture(fetched.data, key, priority)
            if ref.words is not None and self._store.holds(key):
                return record, picture, None
            return record, picture, self._preprocessor.prepare(fetched.data, key, priority)
        finally:
            fetched.release()

    def _detect(self, work: _Work, ref: ImageRef, digest: str, picture: Picture) -> Boxes:
        """Put what the detector finds into the store, and return it."""
        assert ref.words is not None
        work.key = key = BoxKey(digest, ref.words)
        find = partial(find_words, self._spec, picture, ref.words, self._spec.key(digest), self._metrics)
        future = self._encoder.submit_detection(key, find, work.priority)
        self._encoder.promote(key, work.priority)  # it may have become urgent in between
        boxes = self._wait_for(future)
        self._store.put_boxes(key, boxes)
        return boxes

    def _encode(self, work: _Work, key: EmbeddingKey, model_input: ModelInput) -> None:
        """Put the embedding into the store; if the content is being encoded for another address, wait for that."""
        leases, lease_key = self._parts.leases, self._parts.keys.lease(key)
        while (lease := leases.acquire(lease_key)) is None:
            if work.priority is Priority.INTERACTIVE:
                leases.expedite(lease_key)
            if self._is_stopping:
                raise RetryLater("the worker is stopping", Reason.MODEL_NOT_READY)
            time.sleep(POLL_EVERY_S)
            if self._store.holds(key):
                return
        lease.on_urgent = lambda: self._expedite(work)
        with lease:
            if self._store.holds(key):
                return
            self._parts.monitor.count("encode")
            future = self._encoder.submit(key, model_input, work.priority)
            self._encoder.promote(key, work.priority)  # it may have become urgent in between
            self._store.put(key, self._wait_for(future))
            if not self._store.holds(key):
                raise RetryLater(
                    f"the embedding cannot be stored: {self._store.last_error or 'Redis does not keep it'}",
                    Reason.STORE_UNAVAILABLE,
                )

    def _wait_for(self, future: "Future[R]") -> R:
        while True:
            try:
                result = future.result(ENCODE_TIMEOUT_S)
            except concurrent.futures.TimeoutError:
                if time.monotonic() - self._encoded_at >= ENCODE_TIMEOUT_S:
                    raise EncoderHangsError(f"the encoder has finished no image for {ENCODE_TIMEOUT_S:.0f} s") from None
            else:
                self._encoded_at = time.monotonic()
                return result
