"""One thread that owns a device's encoder and detector: it works on images by priority, on each content once."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from backend.concurrency.priority_executor import PriorityExecutor, QueuedTask
from backend.concurrency.single_flight import SingleFlight
from backend.embeddings import encode
from backend.embeddings.encode import Encoder
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.embeddings.word_boxes import Boxes, BoxKey
from backend.errors import BackendError, Reason, internal
from backend.metrics import Metrics
from backend.types import Priority
from model.types import Embedding, ModelInput

logger = logging.getLogger(__name__)


class EncoderThread:
    """Encodes images one at a time, the most urgent first; concurrent requests for one content share one encode.

    ``failure`` says why the encoder could not be loaded; empty if it was loaded, or if loading has not been tried.
    """

    def __init__(self, load: Callable[[], Encoder], store: EmbeddingStore, metrics: Metrics) -> None:
        """Encode with what ``load`` returns; `start` begins the thread, which calls it, and again after a failure."""
        self._load, self._store, self._metrics = load, store, metrics
        self._encoder: Encoder | None = None
        self.failure = ""
        self._executor = PriorityExecutor(threads=1, name="encode")
        self._flights = SingleFlight[EmbeddingKey | BoxKey, Any](self._executor)  # Any: embeddings, and boxes
        self._lock, self._is_started, self._is_encoding = threading.Lock(), False, False

    @property
    def is_ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder is not None

    def __len__(self) -> int:
        return len(self._flights)

    def start(self) -> None:
        """Begin loading the encoder in the background; a second call does nothing."""
        with self._lock:
            if not self._is_started:
                self._is_started = True
                self._executor.submit(lambda task: self._try_to_load(), Priority.INTERACTIVE)

    def submit(self, key: EmbeddingKey, model_input: ModelInput, priority: Priority) -> "Future[Embedding]":
        """Return a future of an image's embedding; the existing one if the content is already queued.

        The future fails only with a `BackendError`.
        """
        return self._flights.run(key, lambda task: self._run(key, model_input, task), priority)

    def submit_detection(self, key: BoxKey, find: Callable[[], Boxes], priority: Priority) -> "Future[Boxes]":
        """Return the future of ``find``, which uses the device; of the one for the same key that is queued already."""
        return self._flights.run(key, lambda task: find(), priority)

    def promote(self, key: EmbeddingKey | BoxKey, priority: Priority) -> None:
        """Raise the priority of an image that is not being worked on yet."""
        self._flights.promote(key, priority)

    def close(self, *, wait: bool = True) -> None:
        """Fail the waiting images, and end the thread; ``wait`` for the current image, never for an encoder to load."""
        self._executor.close(wait=wait and (self._is_encoding or self.is_ready))

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

    def _run(self, key: EmbeddingKey, model_input: ModelInput, task: QueuedTask[Embedding]) -> Embedding:
        self._is_encoding = True
        try:
            if self._encoder is None and (failure := self._try_to_load()) is not None:
                raise failure
            return self._encode(key, model_input, task.priority)
        except BackendError:
            raise
        except Exception as error:  # a defect; the waiting requests get its text
            logger.exception("event=encode_defect image=%s", key.digest[:12])
            raise internal(error) from error
        finally:
            self._is_encoding = False

    def _encode(self, key: EmbeddingKey, model_input: ModelInput, priority: Priority) -> Embedding:
        assert self._encoder is not None
        cached = self._store.get(key)
        if cached is not None:  # encoded since it was submitted, here or by another process
            return cached
        start = time.perf_counter()
        embedding = encode.encode(self._encoder, model_input, key, self._metrics)
        self._store.put(key, embedding)
        took_ms = round((time.perf_counter() - start) * 1000)
        logger.info(
            "image encoded: image=%s priority=%s ms=%d event=encoded", key.digest[:12], priority.name.lower(), took_ms
        )
        return embedding
