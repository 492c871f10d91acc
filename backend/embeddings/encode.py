"""From an image file to its embedding, as every cache keeps it; whatever fails on the way gets a reason."""

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
        """Count where an embedding was found; ``miss`` is one that has to be made."""
        ...

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Time what happens inside."""
        ...


def encode(encoder: Encoder, data: bytes, key: EmbeddingKey, limits: decode.Limits, stopwatch: Stopwatch) -> Embedding:
    """Return the embedding of an image file.

    Args:
        encoder: of the model that the key names.
        data: the file.
        key: what the embedding will be kept as.
        limits: of the image.
        stopwatch: times ``decode_image`` and ``encode``, and counts a ``miss``.

    Raises:
        ImageError: the file cannot be read.
        RetryLater: memory ran out, twice.
        BackendError: anything else; a defect, or an encoder of another model.
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
        gc.collect()  # once more with what the failed try held given back
        return _encode(encoder, data, key, limits, stopwatch)
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise RetryLater(f"not enough memory to encode the image: {error}", Reason.OUT_OF_MEMORY) from error
        logger.exception("event=encode_failed image=%s", key.digest[:12])
        raise BackendError(f"the image cannot be encoded: {error}", Reason.ENCODE_FAILED) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, the device's or the machine's; Paddle has no type of its own for that."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OUT_OF_MEMORY)


def _encode(encoder: Encoder, data: bytes, key: EmbeddingKey, limits: decode.Limits, stopwatch: Stopwatch) -> Embedding:
    with stopwatch.stage("decode_image"):
        picture = decode.decode(data, limits)
    with stopwatch.stage("encode"):
        embedding = encoder.encode(picture.pixels)
    embedding = replace(
        embedding, original_size=picture.original_size, other_orientation=picture.other_orientation
    )  # it may have been decoded smaller
    return rounded(embedding, key.dtype)
