"""Fetches, decodes and encodes images: several are fetched and decoded while one is in the encoder.

A thread takes one image through all steps, and waits while it is encoded. So the encoder does not wait for a download
while there is work, and at most `THREADS` images are in memory, each as its file or as the network's input.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from backend.concurrency.byte_budget import ByteBudget
from backend.concurrency.priority_executor import PriorityExecutor, QueuedTask
from backend.concurrency.single_flight import SingleFlight
from backend.embeddings.content_index import ContentIndex, SourceKey, source_key
from backend.embeddings.encode import Encoder, EncodeSpec, Preprocessor, find_words
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.embeddings.word_boxes import Boxes, BoxKey
from backend.errors import BackendError, internal
from backend.images.decode import Picture
from backend.images.fetch import Fetched, Validators
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from backend.words import WordQuery
from model.types import Embedding, ModelInput

logger = logging.getLogger(__name__)

THREADS = 12
RESERVED = 4  # number of the threads that are reserved for images that an annotator waits for


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, cached: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is unchanged since the ``cached`` validators."""


@dataclass(frozen=True)
class Result:
    """The outcome for an image; ``embedding`` is None if it lies in the store and was not read."""

    key: EmbeddingKey
    embedding: Embedding | None = None  # the embedding; None if it lies in the store and was not read
    is_new: bool = False
    boxes: Boxes | None = None


class EmbeddingPipeline:
    """Makes embeddings, each image once however many requests wait for it; safe from many threads."""

    def __init__(
        self,
        source: Source,
        load_encoder: Callable[[], Encoder],
        spec: EncodeSpec,
        store: EmbeddingStore,
        metrics: Metrics,
        contents: ContentIndex,
        budget: ByteBudget,
    ) -> None:
        self._source, self._spec, self._store, self._metrics = source, spec, store, metrics
        self._contents, self._budget = contents, budget
        self._preprocessor = Preprocessor(spec, metrics)
        self._threads = PriorityExecutor(THREADS, RESERVED, name="image")
        self._flights = SingleFlight[SourceKey, Result](self._threads, on_join=metrics.record_join)
        self.encoder = EncoderThread(load_encoder, store, metrics)

    def __contains__(self, address_key: object) -> bool:
        return address_key in self._flights

    def close(self, *, wait: bool) -> None:
        """Fail all requests except the current encode, and end the threads; ``wait`` for them."""
        self.encoder.close(wait=wait)
        self._threads.close(wait=wait)

    def submit(self, ref: ImageRef, priority: Priority, *, reads: bool = True) -> "Future[Result]":
        """Return the future of an image's embedding, which fails only with a `BackendError`.

        An embedding in the store is read only if ``reads``. For words of the image, a detector looks on the same
        download.

        Raises:
            BackendError: the image failed a short time ago.
            RetryLater: there is no room for its address, which holds the image itself (``overloaded``).
        """
        address_key = source_key(ref)
        failure = self._contents.failure(address_key)
        if failure is not None:
            raise failure
        share = None if address_key in self._flights else self._budget.take_address(ref.uri)
        look_up = self._read if reads else self._look_up
        if ref.words is not None:
            look_up = partial(self._look_up_boxes, ref.words)

        def work(task: QueuedTask[Result]) -> Result:
            try:
                return self._make(ref, look_up, task)
            except Exception as error:  # noqa: BLE001 - a defect must not leave clicks waiting
                failure = _with_reason(error, ref)
                self._contents.fail(address_key, failure)
                raise failure from error.__cause__
            finally:
                if share is not None:
                    share.release()

        return self._flights.run(address_key, work, priority)

    def _make(
        self, ref: ImageRef, look_up: Callable[[EmbeddingKey], Result | None], task: QueuedTask[Result]
    ) -> Result:
        content_key = source_key(replace(ref, words=None))
        record = self._contents.get(content_key)
        cached = look_up(self._spec.key(record.digest)) if record is not None else None
        if record is not None and cached is not None and self._contents.is_fresh(record):
            return cached
        with self._metrics.stage("fetch"):
            fetched = self._source.fetch(ref, record.version if record is not None and cached is not None else None)
        if fetched is None:
            assert record is not None
            assert cached is not None
            self._contents.note_file(ref.project_id, record.digest)  # it may be of before `erase`
            self._contents.mark_fresh(content_key)
            return cached
        share = fetched.share
        try:
            key = self._spec.key_of(fetched.data)
            self._contents.note_file(ref.project_id, key.digest)
            self._contents.put(content_key, key.digest, fetched.version, immutable=fetched.immutable)
            cached = look_up(key)
            if cached is not None:
                return cached
            picture = model_input = None
            if ref.words is not None:
                picture = self._preprocessor.picture(fetched.data, key, task.priority)
            if ref.words is None or not self._store.holds(key):
                model_input = self._preprocessor.prepare(fetched.data, key, task.priority)
            del fetched  # the file is not needed while its image waits for the encoder
            if share is not None:
                share.resize(sum(part.pixels.nbytes for part in (picture, model_input) if part is not None))
            boxes = None
            if picture is not None and ref.words is not None:
                boxes = self._detect(BoxKey(key.digest, ref.words), picture, key, task)
            if model_input is None or boxes == ():
                return Result(key, boxes=boxes)
            return Result(key, self._encode(key, model_input, task), is_new=True, boxes=boxes)
        finally:
            if share is not None:
                share.release()

    def _detect(self, box_key: BoxKey, picture: Picture, key: EmbeddingKey, task: QueuedTask[Result]) -> Boxes:
        find = partial(find_words, self._spec, picture, box_key.words, key, self._metrics)
        task.on_promote = partial(self.encoder.promote, box_key)
        future = self.encoder.submit_detection(box_key, find, task.priority)
        self.encoder.promote(box_key, task.priority)  # it may have been raised meanwhile
        boxes = future.result()
        self._spec.require_detector().memory.put(box_key, boxes)
        return boxes

    def _encode(self, key: EmbeddingKey, model_input: ModelInput, task: QueuedTask[Result]) -> Embedding:
        task.on_promote = partial(self.encoder.promote, key)
        future = self.encoder.submit(key, model_input, task.priority)
        self.encoder.promote(key, task.priority)  # it may have been raised meanwhile
        return future.result()

    def _read(self, key: EmbeddingKey) -> Result | None:
        embedding = self._store.get(key)
        return None if embedding is None else Result(key, embedding)

    def _look_up(self, key: EmbeddingKey) -> Result | None:
        return Result(key) if self._store.holds(key) else None

    def _look_up_boxes(self, words: WordQuery, key: EmbeddingKey) -> Result | None:
        boxes = self._spec.require_detector().memory.get(BoxKey(key.digest, words))
        return None if boxes is None else Result(key, boxes=boxes)


def _with_reason(error: Exception, ref: ImageRef) -> BackendError:
    if isinstance(error, BackendError):
        return error
    logger.error("event=fetch_defect project=%s task=%s", ref.project_id, ref.task_id, exc_info=error)
    return internal(error)
