"""Meta's ``sam_vit_*.pth``: a zip of one pickle, which names the tensors, and their storages; read without PyTorch."""

import struct
import zipfile
import zlib
from collections.abc import Iterable
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.weights import names, pickles
from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.errors import WeightsError
from model.weights.pickles import Call, Name, Reference
from model.weights.tensors import ITEM_SIZES, Shape, Stored, in_file

_LOCAL_HEADER_BYTES = 30
_MOST_AXES = 8
_DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, MemoryError, struct.error, zlib.error)
"""What the standard library raises at damaged archives."""
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
}
_ORDERED_DICT = Name("collections", "OrderedDict")
_REBUILD_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = Name("torch._utils", "_rebuild_parameter")


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a checkpoint of Meta's code (``torch.save`` of a state dict, PyTorch 1.6 and newer).

    Raises:
        WeightsError: the file is truncated, holds something else than tensors, or not a SAM network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            storages = _Storages(path, archive)
            with archive.open(storages.pickle) as stream:
                state = pickles.read(stream, str(path))  # type: ignore[arg-type]  # an archive member reads as a BinaryIO
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(f"{path}: expected a whole PyTorch file (zip), got: {error} (truncated?)") from error
    tensors = {key: storages.tensor(key, value) for key, value in _entries(path, state)}
    stored = {key: value.transposed() if _transposes(key, value) else value for key, value in tensors.items()}
    return assemble(path, stored, name=name, digest=digest_of([path]), file_format="meta")


def _transposes(name: str, stored: Stored) -> bool:
    return names.is_linear_weight(name) and len(stored.shape) == 2


def _entries(path: Path, state: object) -> Iterable[tuple[str, object]]:
    if isinstance(state, Call) and state.function == _ORDERED_DICT:
        state = state.items
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: expected a state dict of tensors, got {pickles.told(state)}")
    for key in state:
        if not isinstance(key, str):
            raise WeightsError(f"{path}: expected a state dict with names of parameters, got the key {key!r:.60}")
    return state.items()


class _Storages:
    """The storages of one archive, found in the file but not read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        entries = {info.filename: info for info in archive.infolist()}
        pickled = [entry for entry in entries if entry == "data.pkl" or entry.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise WeightsError(f"{path}: expected a PyTorch file with one data.pkl inside, got {len(pickled)}")
        self.pickle = pickled[0]
        self._folder = self.pickle.removesuffix("data.pkl")
        self._entries = entries
        order = entries.get(f"{self._folder}byteorder")
        # PyTorch compresses nothing; what is compressed could become any length.
        if any(member.compress_type != zipfile.ZIP_STORED for member in (entries[self.pickle], order) if member):
            raise WeightsError(
                f"{path}: expected a PyTorch file, whose entries are not compressed, got a compressed one"
            )
        if order is not None and archive.read(order) != b"little":
            raise WeightsError(f"{path}: expected little-endian tensors, got {archive.read(order)!r:.20}")

    def tensor(self, key: str, value: object) -> Stored:
        """Return the tensor that a pickled call of PyTorch's describes."""
        if isinstance(value, Call) and value.function == _REBUILD_PARAMETER and isinstance(value.arguments, tuple):
            value = next(iter(value.arguments), None)
        match value:
            case Call(
                function=function,
                arguments=(
                    Reference(("storage", Name(module="torch", name=kind), str(entry), _, int())),
                    int(offset),
                    tuple(size),
                    tuple(stride),
                    *_,
                ),
            ) if function == _REBUILD_TENSOR and kind in _STORAGES:
                numbers = (offset, *size, *stride)
                if len(size) == len(stride) <= _MOST_AXES and all(isinstance(n, int) and n >= 0 for n in numbers):
                    return self._strided(entry, _STORAGES[kind], offset, size, stride)
        raise WeightsError(
            f"{self._path}: expected {key} to be a tensor of floating point numbers, got {pickles.told(value)}"
        )

    def _strided(self, entry: str, dtype: str, offset: int, size: Shape, stride: Shape) -> Stored:
        last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        needed = max(offset + last + 1, prod(size))  # a stride of 0 would make many numbers of one
        start = self._data_offset(entry, needed * ITEM_SIZES[dtype])
        flat = in_file(self._path, start + offset * ITEM_SIZES[dtype], dtype, (last + 1,))
        if min(size, default=1) < 1:
            raise WeightsError(f"{self._path}: expected tensors with elements, got one of shape {size}")

        def load() -> npt.NDArray[np.generic]:
            values = np.ascontiguousarray(flat.load())
            steps = tuple(step * values.itemsize for step in stride)
            return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)

        return Stored(size, load)

    def _data_offset(self, entry: str, needed: int) -> int:
        info = self._entries.get(f"{self._folder}data/{entry}")
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size < needed:
            raise WeightsError(f"{self._path}: expected storage {entry!r:.20} uncompressed, of {needed} bytes")
        with self._path.open("rb") as stream:
            stream.seek(info.header_offset)
            header = stream.read(_LOCAL_HEADER_BYTES)
        if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(b"PK\3\4"):
            raise WeightsError(f"{self._path}: expected a zip entry for storage {entry!r:.20}, got other bytes")
        # The lengths of name and extra field may differ from those in the zip's directory: only the entry's own count.
        name_length, extra_length = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return info.header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length
