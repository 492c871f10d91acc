"""Embeddings as bytes and back: one line of JSON that says everything, then the raw little-endian numbers.

The line is plain to read (``head -1``) and holds no code; a checksum over line and numbers tells a damaged value, and
the key in it tells one that is somebody else's. Anything that does not fit in every respect reads as nothing.
"""

import zlib
from dataclasses import replace
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from model.types import Embedding

Dtype: TypeAlias = Literal["float16", "float32"]

FORMAT = "paddle-sam-embedding/2"
_MAX_HEADER = 4096
_LITTLE_ENDIAN: dict[str, np.dtype[np.floating]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    key: str
    dtype: Dtype
    shape: tuple[int, int, int]
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    model_version: str
    other_orientation: int = 1
    crc32: int = 0


def rounded(embedding: Embedding, dtype: Dtype) -> Embedding:
    """Return the embedding with its numbers as ``dtype``; unchanged if some would become infinite.

    Every cache then holds the very same numbers, and an answer does not depend on which of them served it.
    """
    if embedding.image_embedding.dtype == dtype:
        return embedding
    with np.errstate(over="ignore"):
        array = embedding.image_embedding.astype(dtype)
    return replace(embedding, image_embedding=array) if np.isfinite(array).all() else embedding


def dump(embedding: Embedding, key: str, dtype: Dtype) -> bytes:
    """Return an embedding as bytes, its numbers as ``dtype`` where that can hold them."""
    embedding = rounded(embedding, dtype)
    array = embedding.image_embedding
    name: Dtype = "float16" if array.dtype == np.float16 else "float32"
    numbers = np.ascontiguousarray(array, dtype=_LITTLE_ENDIAN[name]).tobytes()
    channels, height, width = array.shape
    header = _Header(
        FORMAT,
        key,
        name,
        (channels, height, width),
        embedding.original_size,
        embedding.input_size,
        embedding.model_version,
        embedding.other_orientation,
    )
    header.crc32 = _checksum(header, numbers)
    return msgspec.json.encode(header) + b"\n" + numbers


def load(data: bytes, key: str) -> Embedding | None:
    """Return the embedding in ``data``, or None if it is damaged, of another format or not of this key."""
    end = data.find(b"\n", 0, _MAX_HEADER)
    if end < 0:
        return None
    try:
        header = msgspec.json.decode(data[:end], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    numbers = memoryview(data)[end + 1 :]
    dtype = _LITTLE_ENDIAN[header.dtype]
    if header.format != FORMAT or header.key != key or min(header.shape) < 1:
        return None
    if len(numbers) != header.shape[0] * header.shape[1] * header.shape[2] * dtype.itemsize:
        return None
    if header.crc32 != _checksum(header, numbers):
        return None
    array = np.frombuffer(numbers, dtype=dtype).astype(header.dtype, copy=False).reshape(header.shape)
    try:
        sizes = header.original_size, header.input_size
        return Embedding(array, *sizes, header.model_version, header.other_orientation)
    except ValueError:
        return None


def _checksum(header: _Header, numbers: bytes | memoryview) -> int:
    bare = msgspec.structs.replace(header, crc32=0)
    return zlib.crc32(numbers, zlib.crc32(msgspec.json.encode(bare)))
