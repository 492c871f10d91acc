"""Paddle's combined parameter files: tensors one after the other, without names, in the order of their sorted names.

Each is a u32 version (0), a u64 number of LoD levels (0), a u32 version (0), an i32 length, a ``TensorDesc`` of that
length (framework.proto: data_type = 1, dims = 2) and the numbers. Source: Paddle's ``SerializeToStream``.
"""

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

from model.weights.errors import WeightsError
from model.weights.formats import protobuf
from model.weights.tensors import Shape, Stored, in_file

_HEADER = struct.Struct("<IQIi")
_LONGEST_DESCRIPTION = 1 << 10
_DTYPES = {4: "float16", 5: "float32", 6: "float64", 22: "bfloat16"}  # VarType.Type in framework.proto
_OTHER_SIZES = {0: 1, 1: 2, 2: 4, 3: 8, 20: 1, 21: 1}  # bool, int16, int32, int64, uint8, int8: constants, no weights


def read(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Stored]:
    """Return the floating point tensors of a file that holds these, unread.

    Raises:
        WeightsError: the file holds fewer, more or other tensors.
    """
    stored: dict[str, Stored] = {}
    with path.open("rb") as stream:
        for name in sorted(shapes):
            try:
                kind, shape = _description(stream)
            except (ValueError, struct.error) as error:
                raise WeightsError(f"{path}: expected {len(shapes)} parameters, got {error} at {name}") from error
            if shape != shapes[name]:
                raise WeightsError(f"{path}: expected {name} of shape {shapes[name]} as in the program, got {shape}")
            if kind in _DTYPES:
                stored[name] = in_file(path, stream.tell(), _DTYPES[kind], shape)
                stream.seek(prod(shape) * _item_size(kind), 1)
            elif kind in _OTHER_SIZES:
                end = stream.tell() + prod(shape) * _OTHER_SIZES[kind]
                if min(shape, default=0) < 0 or end > path.stat().st_size:
                    raise WeightsError(f"{path}: expected {name} to end at byte {end}, got a shorter file (truncated?)")
                stream.seek(end)
            else:
                raise WeightsError(f"{path}: expected {name} as floating point numbers, got Paddle's type {kind}")
        end, size = stream.tell(), path.stat().st_size
    if end != size:
        raise WeightsError(f"{path}: expected {len(shapes)} parameters in {end} bytes, got {size} bytes")
    return stored


def _item_size(kind: int) -> int:
    return {4: 2, 5: 4, 6: 8, 22: 2}[kind]


def _description(stream: BinaryIO) -> tuple[int, Shape]:
    version, levels, tensor_version, length = _HEADER.unpack(stream.read(_HEADER.size))
    if version or levels or tensor_version or not 0 < length < _LONGEST_DESCRIPTION:
        raise ValueError("something else than a tensor")
    description = memoryview(stream.read(length))
    kinds = protobuf.integers(description, 1)
    if len(description) < length or not kinds:
        raise ValueError("an unfinished description of a tensor")
    return kinds[-1], tuple(protobuf.integers(description, 2))
