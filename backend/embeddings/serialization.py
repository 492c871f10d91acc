"""Embeddings as bytes and back: one line of JSON as the header, then the raw little-endian numbers.

The header can be read with ``head -1`` and holds no code. A checksum over header and numbers detects damaged values;
the key in the header detects a value stored under another key's name. Bytes that fail any of these checks load as None.
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
    """Return the embedding with its numbers converted to ``dtype``; unchanged if some would become infinite.

    All caches then hold the same numbers, and a mask does not depend on the cache that returned the embedding.
    """
    if embedding.image_embedding.dtype == dtype:
        return embedding
    with np.errstate(over="ignore"):
        array = embedding.image_embedding.astype(dtype)
    return replace(embedding, image_embedding=array) if np.isfinite(array).all() else embedding


def dump(embedding: Embedding, key: str, dtype: Dtype) -> bytes:
    """Return an embedding as bytes, with its numbers as ``dtype`` if that can represent them, as float32 otherwise."""
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
    """Return the embedding in ``data``; None if the bytes are damaged, of another format or of another key.

    >>> load(b"damaged", "a key") is None
    True
    """
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
    without_checksum = msgspec.structs.replace(header, crc32=0)
    return zlib.crc32(numbers, zlib.crc32(msgspec.json.encode(without_checksum)))
