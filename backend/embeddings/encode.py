"""From an image file to its embedding, rounded as every cache stores it; every failure gets a `Reason`."""

import gc
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend.embeddings.serialization import rounded
from backend.embeddings.stores import EmbeddingKey
from backend.errors import BackendError, Reason, RetryLater
from backend.images import decode
from model.types import Embedding

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("out of memory", "resourceexhausted")


class Encoder(Protocol):
    """Turns an image into an embedding; see `model.encoder.Encoder`."""

    @property
    def model_version(self) -> str:
        """Name and digest of the weights."""
        ...

    def encode(self, image: npt.NDArray[np.uint8], /) -> Embedding:
        """Return the embedding of an (H, W, 3) uint8 RGB image."""
        ...


class Stopwatch(Protocol):
    """Times and counts the work; see `backend.metrics.Metrics`."""

    def record_lookup(self, tier: str, /) -> None:
        """Count a look-up by the cache that had the embedding; ``miss`` if it has to be encoded."""
        ...

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Time what happens inside."""
        ...


def encode(encoder: Encoder, data: bytes, key: EmbeddingKey, limits: decode.Limits, stopwatch: Stopwatch) -> Embedding:
    """Return the embedding of an image file.

    Args:
        encoder: encoder of the model that the key names.
        data: the file.
        key: the key under which the embedding will be stored; its ``dtype`` is the number format.
        limits: limits on the size of an image.
        stopwatch: times ``decode_image`` and ``encode``, and counts a ``miss``.

    Raises:
        ImageError: the file cannot be read.
        RetryLater: memory ran out, twice.
        BackendError: the encoder is of another model (``model_not_ready``), or has a defect (``encode_failed``).
    """
    if encoder.model_version != key.model_version:
        raise BackendError(
            f"expected an encoder of {key.model_version}, got {encoder.model_version}", Reason.MODEL_NOT_READY
        )
    stopwatch.record_lookup("miss")
    try:
        try:
            return _encode(encoder, data, key, limits, stopwatch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # try again, after the memory of the failed try is freed
        return _encode(encoder, data, key, limits, stopwatch)
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise RetryLater(f"not enough memory to encode the image: {error}", Reason.OUT_OF_MEMORY) from error
        logger.exception("event=encode_failed image=%s", key.digest[:12])
        raise BackendError(f"the image cannot be encoded: {error}", Reason.ENCODE_FAILED) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory; Paddle raises no specific type for that.

    >>> is_out_of_memory(RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0"))
    True
    """
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OUT_OF_MEMORY)


def _encode(encoder: Encoder, data: bytes, key: EmbeddingKey, limits: decode.Limits, stopwatch: Stopwatch) -> Embedding:
    with stopwatch.stage("decode_image"):
        image = decode.decode(data, limits)
    with stopwatch.stage("encode"):
        embedding = encoder.encode(image.pixels)
    embedding = replace(
        embedding, original_size=image.original_size, other_orientation=image.other_orientation
    )  # the image may have been decoded at a reduced size
    return rounded(embedding, key.dtype)
