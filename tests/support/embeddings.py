"""Embeddings and their keys for tests, and a source of images without a network."""

import threading

import numpy as np

from backend.embeddings.stores import EmbeddingKey
from backend.errors import ImageError, Reason
from backend.images import decode
from backend.images.fetch import Fetched, Validators


def key(number=0, **fields):
    """The key of an embedding of the image with this number."""
    return EmbeddingKey(f"{number:064x}", **{"model_version": "SAM@1a2b3c4d", "dtype": "float32", **fields})


def same(one, other):
    """Whether two embeddings hold the same numbers, of the same types, and the same sizes."""
    return (
        list(one.maps) == list(other.maps)
        and all(np.array_equal(one.maps[name], other.maps[name]) for name in one.maps)
        and all(one.maps[name].dtype == other.maps[name].dtype for name in one.maps)
        and (one.original_size, one.input_size, one.model_version, one.other_orientation, one.family)
        == (other.original_size, other.input_size, other.model_version, other.other_orientation, other.family)
    )


class FakeSource:
    """Images by address; counts what it is asked, waits at a gate, fails when told.

    Attributes:
        contents: image files by address, or errors to raise.
        versioned: whether contents carry a version, by which an unchanged one is told.
        immutable: whether contents are said never to change.
    """

    def __init__(self):
        self.contents, self.asked, self.cached = {}, [], []
        self.versioned, self.immutable = False, False
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, ref, cached=None, /):
        self.asked.append(ref.uri)
        self.cached.append(cached)
        assert self.gate.wait(20)
        found = self.contents.get(ref.uri, ImageError("not there", Reason.IMAGE_NOT_FOUND))
        if isinstance(found, Exception):
            raise found
        version = Validators(etag=decode.digest(found)) if self.versioned else Validators()
        if cached is not None and cached.is_known and cached == version:
            return None
        return Fetched(found, version, self.immutable)
