"""Paddle's combined parameter files: tensors one after the other, without names, in the order of their sorted names.

Each is a u32 version (0), a u64 number of LoD levels (0), a u32 version (0), an i32 length, a ``TensorDesc`` of that
length (framework.proto: data_type = 1, dims = 2) and the numbers. Source: Paddle's ``SerializeToStream``.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
_SIZES = {4: 2, 5: 4, 6: 8, 22: 2, **_OTHER_SIZES}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        kind: its type, ``VarType.Type`` in framework.proto.
        shape: its sides.
        start: of its description, in bytes.
        numbers: where its numbers begin.
        end: where they end.
    """

    kind: int
    shape: Shape
    start: int
    numbers: int
    end: int

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return self.end - self.start


def read(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Stored]:
    """Return the floating point tensors of a file that holds these, unread.

    Raises:
        WeightsError: the file holds fewer, more or other tensors.
    """
    return {
        name: in_file(path, entry.numbers, _DTYPES[entry.kind], entry.shape)
        for name, entry in entries(path, shapes).items()
        if entry.kind in _DTYPES
    }


def entries(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Entry]:
    """Return where each tensor lies in a file that holds these, in the order of the file.

    Raises:
        WeightsError: the file holds fewer, more or other tensors.
    """
    found: dict[str, Entry] = {}
    size = path.stat().st_size
    with path.open("rb") as stream:
        for name in sorted(shapes):
            start = stream.tell()
            try:
                kind, shape = _description(stream)
            except (ValueError, struct.error) as error:
                raise WeightsError(f"{path}: expected {len(shapes)} parameters, got {error} at {name}") from error
            if shape != shapes[name]:
                raise WeightsError(f"{path}: expected {name} of shape {shapes[name]} as in the program, got {shape}")
            if kind not in _SIZES:
                raise WeightsError(f"{path}: expected {name} as floating point numbers, got Paddle's type {kind}")
            end = stream.tell() + prod(shape) * _SIZES[kind]
            if min(shape, default=0) < 0 or end > size:
                raise WeightsError(f"{path}: expected {name} to end at byte {end}, got a shorter file (truncated?)")
            found[name] = Entry(kind, shape, start, stream.tell(), end)
            stream.seek(end)
        end = stream.tell()
    if end != size:
        raise WeightsError(f"{path}: expected {len(shapes)} parameters in {end} bytes, got {size} bytes")
    return found


def copy_some(path: Path, chosen: Iterable[Entry], copy: BinaryIO) -> None:
    """Write some of the tensors of a file, which `entries` returned, into another one, in this order."""
    with path.open("rb") as stream:
        for entry in chosen:
            stream.seek(entry.start)
            copy.write(stream.read(entry.nbytes))


def _description(stream: BinaryIO) -> tuple[int, Shape]:
    version, levels, tensor_version, length = _HEADER.unpack(stream.read(_HEADER.size))
    if version or levels or tensor_version or not 0 < length < _LONGEST_DESCRIPTION:
        raise ValueError("something else than a tensor")
    description = memoryview(stream.read(length))
    kinds = protobuf.integers(description, 1)
    if len(description) < length or not kinds:
        raise ValueError("an unfinished description of a tensor")
    return kinds[-1], tuple(protobuf.integers(description, 2))
