"""What the decoder learns from: images' embeddings with the masks of their objects."""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cachetools import LRUCache

from model.coco import rle as coco_rle
from model.coco.rle import Rle
from model.config import SamConfig
from model.transforms import ROUGH_LOGIT, mask_to_model
from model.types import Embedding, FloatArray

HELD_OUT_SHARE = 0.2
"""Share of the images that is kept aside to judge the decoder."""
EMBEDDING_CACHE_BYTES = 512 << 20
_OBJECT_BYTES = 1000  # what Python takes for an object, beside its numbers


@dataclass(frozen=True, eq=False)
class TrainingObject:
    """One annotated object.

    Attributes:
        label: its label, which figures are shown by; the network does not see it.
        rle: its mask in original pixels, with at least one pixel.
        low_res_size: side of the network's low-resolution grid.
        packed: the share of each cell of that grid that it covers, compressed; see `cover`.
    """

    label: str
    rle: Rle
    low_res_size: int
    packed: bytes

    @staticmethod
    def of(label: str, rle: Rle, input_size: tuple[int, int], config: SamConfig) -> "TrainingObject":
        """Return the object of a mask of a photo that has ``input_size`` inside the network's square."""
        logits = mask_to_model(coco_rle.decode(rle).to_array(), input_size, config.image_size, config.low_res_size)
        cover = np.round((logits / ROUGH_LOGIT + 1) * 127.5).astype(np.uint8)
        return TrainingObject(label, rle, config.low_res_size, zlib.compress(cover.tobytes(), 1))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.rle.counts.nbytes + len(self.packed) + _OBJECT_BYTES

    def cover(self) -> FloatArray:
        """Return the share of each low-res cell that it covers, (low_res_size, low_res_size) float32."""
        cells = np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.low_res_size, -1)
        return cells.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One annotated image.

    Attributes:
        key: names its contents; images of one key are kept aside together.
        load: returns its embedding; called again when it is no longer in memory.
        objects: its objects, at least one.
    """

    key: str
    load: Callable[[], Embedding]
    objects: tuple[TrainingObject, ...]

    @cached_property
    def digest(self) -> str:
        """Digest of the key and the masks."""
        digest = hashlib.sha256(self.key.encode("utf-8", "surrogatepass"))
        for each in self.objects:
            digest.update(each.label.encode("utf-8", "surrogatepass") + b"\0" + each.packed)
        return digest.hexdigest()


def split(images: Sequence[TrainingImage], seed: int) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Return the images to learn from and those to be kept aside, each in the order of their keys.

    An image stays where it is when others are added: a hash of its key and the seed decides, but for the last few,
    so that a fifth is kept aside.
    """

    def rank(image: TrainingImage) -> bytes:
        return hashlib.sha256(f"{seed}:{image.key}".encode("utf-8", "surrogatepass")).digest()

    keys = sorted({image.key: rank(image) for image in images}.items(), key=lambda item: item[1])
    aside = {key for key, _ in keys[: max(1, round(HELD_OUT_SHARE * len(keys)))]}
    ordered = sorted(images, key=lambda image: (image.key, image.digest))
    return [image for image in ordered if image.key not in aside], [image for image in ordered if image.key in aside]


class EmbeddingCache:
    """Embeddings of the images that are learned from, the last used ones in memory up to a number of bytes."""

    def __init__(self, max_bytes: int = EMBEDDING_CACHE_BYTES) -> None:
        self._cache: LRUCache[int, Embedding] = LRUCache(max_bytes, getsizeof=_bytes_of)

    def get(self, image: TrainingImage) -> Embedding:
        """Return the embedding of an image."""
        embedding = self._cache.get(id(image))
        if embedding is None:
            embedding = image.load()
            if _bytes_of(embedding) <= self._cache.maxsize:
                self._cache[id(image)] = embedding
        return embedding


def _bytes_of(embedding: Embedding) -> int:
    """Return what an embedding takes with what a decoder keeps beside it, in float32."""
    return 3 * embedding.nbytes
