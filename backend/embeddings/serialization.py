"""Embeddings as bytes and back: one line of JSON as the header, then the raw little-endian numbers of each map.

The header can be read with ``head -1`` and holds no code. A checksum over header and numbers detects damaged values;
the key in the header detects a value stored under another key's name. Bytes that fail any of these checks load as None.

The checksum is a CRC-32 of the header and of the numbers' sums in `LANES` columns of 64 bits: adding takes a tenth of
the time of a CRC over all bytes. Values of format 3 have that CRC and are still read.
"""

import zlib
from dataclasses import replace
from math import prod
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from model.types import MAIN_MAP, Embedding

Dtype: TypeAlias = Literal["float16", "float32"]

FORMAT, FORMAT_OF_CRC = "paddle-sam-embedding/4", "paddle-sam-embedding/3"
LANES = 1021
"""A prime, so that blocks of any usual size that were moved or swapped change the sums."""

_MAX_HEADER = 4096
_ALIGNMENT = 64  # of the numbers, by spaces at the end of the header; reading unaligned ones takes longer
_LITTLE_ENDIAN: dict[str, np.dtype[np.floating]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


class _Map(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: tuple[int, int, int]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    key: str
    dtype: Dtype
    maps: tuple[_Map, ...]
    family: str
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
        maps = {name: array.astype(dtype) for name, array in embedding.maps.items()}
    if not all(np.isfinite(array).all() for array in maps.values()):
        return embedding
    return replace(embedding, image_embedding=maps.pop(MAIN_MAP), further_maps=maps)


def dump(embedding: Embedding, key: str, dtype: Dtype) -> bytes:
    """Return an embedding as bytes, with its numbers as ``dtype`` if that can represent them, as float32 otherwise."""
    embedding = rounded(embedding, dtype)
    name: Dtype = "float16" if embedding.image_embedding.dtype == np.float16 else "float32"
    arrays = [np.ascontiguousarray(array, dtype=_LITTLE_ENDIAN[name]) for array in embedding.maps.values()]
    numbers = b"".join(array.data.cast("B") for array in arrays)
    header = _Header(
        FORMAT,
        key,
        name,
        tuple(_Map(each, _shape(array)) for each, array in embedding.maps.items()),
        embedding.family,
        embedding.original_size,
        embedding.input_size,
        embedding.model_version,
        embedding.other_orientation,
    )
    header.crc32 = _checksum(header, numbers)
    return _line(header) + numbers


def load(data: bytes | memoryview, key: str) -> Embedding | None:
    """Return the embedding in ``data``; None if the bytes are damaged, of another format or of another key.

    >>> load(b"damaged", "a key") is None
    True
    """
    end = bytes(data[:_MAX_HEADER]).find(b"\n")
    if end < 0:
        return None
    try:
        header = msgspec.json.decode(data[:end], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    numbers = memoryview(data)[end + 1 :]
    dtype = _LITTLE_ENDIAN[header.dtype]
    smallest = min((side for each in header.maps for side in each.shape), default=0)
    if header.format not in (FORMAT, FORMAT_OF_CRC) or header.key != key or smallest < 1:
        return None
    if len(numbers) != sum(prod(each.shape) for each in header.maps) * dtype.itemsize:
        return None
    if data[: end + 1] != _line(header) or header.crc32 != _checksum(header, numbers):
        return None
    every = np.frombuffer(numbers, dtype=dtype).astype(header.dtype, copy=False)
    maps, start = {}, 0
    for each in header.maps:
        end = start + prod(each.shape)
        maps[each.name], start = every[start:end].reshape(each.shape), end
    try:
        return Embedding(
            maps.pop(MAIN_MAP),
            header.original_size,
            header.input_size,
            header.model_version,
            header.other_orientation,
            further_maps=maps,
            family=header.family,
        )
    except (ValueError, KeyError):
        return None


def _shape(array: npt.NDArray[np.floating]) -> tuple[int, int, int]:
    channels, height, width = array.shape
    return channels, height, width


def _line(header: _Header) -> bytes:
    line = msgspec.json.encode(header)
    return line + (b"" if header.format == FORMAT_OF_CRC else b" " * (-(len(line) + 1) % _ALIGNMENT)) + b"\n"


def _checksum(header: _Header, numbers: bytes | memoryview) -> int:
    start = zlib.crc32(msgspec.json.encode(msgspec.structs.replace(header, crc32=0)))
    if header.format == FORMAT_OF_CRC:
        return zlib.crc32(numbers, start)
    words = np.frombuffer(numbers, "<u8", len(numbers) // 8)
    rows = len(words) // LANES
    sums = np.add.reduce(words[: rows * LANES].reshape(rows, LANES), axis=0, dtype="<u8")
    return zlib.crc32(numbers[8 * rows * LANES :], zlib.crc32(sums.data, start))
