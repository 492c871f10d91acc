"""From an image file to its embedding in two steps, each of whose failures has a `Reason`.

`Preprocessor` turns a file into the network's input, `encode` the input into an embedding, rounded as every cache
stores it. The first needs no weights, so images are made ready while another one is encoded.
"""

import gc
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.embeddings.serialization import Dtype, rounded
from backend.embeddings.stores import EmbeddingKey
from backend.embeddings.word_boxes import Boxes, WordDetector
from backend.errors import BackendError, Reason, RetryLater
from backend.images import decode
from backend.images.decode import Picture
from backend.metrics import Metrics
from backend.types import Priority
from backend.words import WordQuery
from model import machine
from model.types import Embedding, ModelInput

logger = logging.getLogger(__name__)

T = TypeVar("T")

DECODED_AT_ONCE = 2  # how many files are decoded at a time; each may take hundreds of megabytes
LARGE_PIXELS = 16_000_000  # the decoder's memory is returned to the system after a larger image
_OUT_OF_MEMORY = ("out of memory", "resourceexhausted")


class Encoder(Protocol):
    """Turns an image into an embedding; see `model.encoder.Encoder`."""

    @property
    def model_version(self) -> str:
        """Name and digest of the weights."""

    def encode(self, image: ModelInput, /) -> Embedding:
        """Return the embedding of a photo that was resized for this encoder's network."""


@dataclass(frozen=True)
class EncodeSpec:
    """How image files become embeddings of one model."""

    model_version: str
    # resizes the pixels of an image, (H, W, 3) uint8 RGB, for the network; see `model.transforms.preprocess`
    preprocess: Callable[[npt.NDArray[np.uint8]], ModelInput]
    limits: decode.PixelLimits = field(default_factory=decode.PixelLimits)
    dtype: Dtype = "float16"
    detector: WordDetector | None = None

    def key(self, digest: str) -> EmbeddingKey:
        """Return the key of the embedding of an image file by the sha256 of the file, in hex."""
        return EmbeddingKey(digest, self.model_version, self.dtype)

    def key_of(self, data: bytes) -> EmbeddingKey:
        """Check an image file by its headers, see `backend.images.decode.check`, and return its embedding's key."""
        decode.check(data, self.limits)
        return self.key(decode.digest(data))

    def require_detector(self) -> WordDetector:
        """Return the detector.

        Raises:
            BackendError: there is none (``no_detector``).
        """
        if self.detector is None:
            raise BackendError("expected a detector where images are encoded, got none", Reason.NO_DETECTOR)
        return self.detector


class Preprocessor:
    """Decodes image files and resizes them for the network, a few at a time; safe from many threads."""

    def __init__(self, spec: EncodeSpec, metrics: Metrics) -> None:
        self._spec, self._metrics = spec, metrics
        self._limiter = FifoLimiter(DECODED_AT_ONCE)
        self._background_gate = FifoLimiter(DECODED_AT_ONCE)  # no other background image queues before a click's

    def prepare(self, data: bytes, key: EmbeddingKey, priority: Priority) -> ModelInput:
        """Return the network's input for an image file, after those of clicks unless ``priority`` is a click's.

        Raises:
            ImageError: the file cannot be read.
            RetryLater: memory ran out, twice.
            BackendError: a defect (``encode_failed``).
        """
        return self._in_turn(lambda: self._prepare(data), key, priority)

    def picture(self, data: bytes, key: EmbeddingKey, priority: Priority) -> Picture:
        """Return the pixels in which a detector looks for words; arguments and errors are those of `prepare`."""
        detector = self._spec.require_detector()
        return self._in_turn(lambda: detector.picture(data), key, priority)

    def _in_turn(self, work: Callable[[], T], key: EmbeddingKey, priority: Priority) -> T:
        gate = nullcontext() if priority is Priority.INTERACTIVE else self._background_gate
        with gate, self._limiter:
            return _with_reasons(work, key)

    def _prepare(self, data: bytes) -> ModelInput:
        with self._metrics.stage("decode_image"):
            image = decode.decode(data, self._spec.limits)
            if image.original_size[0] * image.original_size[1] > LARGE_PIXELS:
                machine.release_memory()
            return replace(
                self._spec.preprocess(image.pixels),
                original_size=image.original_size,  # the image may have been decoded at a reduced size
                other_orientation=image.other_orientation,
            )


def encode(encoder: Encoder, model_input: ModelInput, key: EmbeddingKey, metrics: Metrics) -> Embedding:
    """Return the embedding of an image in the number format of ``key``; time ``encode``, and count a ``miss``.

    Raises:
        RetryLater: memory ran out, twice.
        BackendError: the encoder is of another model (``model_not_ready``), or has a defect (``encode_failed``).
    """
    if encoder.model_version != key.model_version:
        text = f"expected an encoder of {key.model_version}, got {encoder.model_version}"
        raise BackendError(text, Reason.MODEL_NOT_READY)
    metrics.record_lookup("miss")

    def work() -> Embedding:
        with metrics.stage("encode"):
            return rounded(encoder.encode(model_input), key.dtype)

    return _with_reasons(work, key)


def find_words(spec: EncodeSpec, picture: Picture, words: WordQuery, key: EmbeddingKey, metrics: Metrics) -> Boxes:
    """Return what a detector finds on a picture; ``metrics`` times ``detect``.

    Raises:
        RetryLater: memory ran out, twice.
        BackendError: see `backend.embeddings.word_boxes.WordDetector.find`.
    """
    detector = spec.require_detector()

    def work() -> Boxes:
        with metrics.stage("detect"):
            return detector.find(picture, words)

    return _with_reasons(work, key)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory; Paddle raises no specific type for that.

    >>> is_out_of_memory(RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0"))
    True
    """
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OUT_OF_MEMORY)


def _with_reasons(work: Callable[[], T], key: EmbeddingKey) -> T:
    """Return what ``work`` returns; try again if memory runs out, and give every other error a reason."""
    try:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # try again, after the memory of the failed try is freed
        return work()
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise RetryLater(f"not enough memory to encode the image: {error}", Reason.OUT_OF_MEMORY) from error
        logger.exception("event=encode_failed image=%s", key.digest[:12])
        raise BackendError(f"the image cannot be encoded: {error}", Reason.ENCODE_FAILED) from error
