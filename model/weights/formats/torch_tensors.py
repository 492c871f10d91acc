"""Tensors as PyTorch pickles them, calls that would rebuild them from their storages, as spans of the file."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.weights.errors import WeightsError
from model.weights.formats import pickles
from model.weights.formats.pickles import Call, Name, Reference
from model.weights.tensors import ITEM_SIZES, Shape, Stored, in_file

Locate = Callable[[str, int], int]
"""Says at which byte of the file a storage begins; refuses one of fewer bytes than are needed."""

_MOST_AXES = 8
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
}
_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = {Name("torch._utils", f"_rebuild_parameter{ending}") for ending in ("", "_with_state")}
_SUBCLASS = Name("torch._tensor", "_rebuild_from_type_v2")


def tensor(path: Path, locate: Locate, key: str, value: object) -> Stored:
    """Return the tensor that a pickled call of PyTorch's describes, on whichever device it was.

    Raises:
        WeightsError: it is no tensor of floating point numbers, or its storage is too small.
    """
    match _unwrapped(value):
        case Call(
            function=function,
            arguments=(
                Reference(("storage", Name(name=kind), str(entry), _, int(), *views)),
                int(offset),
                tuple(size),
                tuple(stride),
                *_,
            ),
        ) if function == _TENSOR and kind in _STORAGES and not any(views):
            numbers = (offset, *size, *stride)
            if len(size) == len(stride) <= _MOST_AXES and all(isinstance(n, int) and n >= 0 for n in numbers):
                return _strided(path, locate, entry, _STORAGES[kind], offset, size, stride)
    raise WeightsError(
        f"{path}: expected {key:.80} to be a tensor of floating point numbers, got {pickles.describe(value)}"
    )


def _unwrapped(value: object) -> object:
    """Return the call that makes the plain tensor of a parameter, or of a subclass of ``Tensor``."""
    match value:
        case Call(function=Name() as function, arguments=(inner, *_)) if function in _PARAMETERS:
            return inner
        case Call(function=function, arguments=(Name() as rebuild, _, tuple(arguments), _)) if function == _SUBCLASS:
            return Call(rebuild, arguments)
    return value


def _strided(path: Path, locate: Locate, entry: str, dtype: str, offset: int, size: Shape, stride: Shape) -> Stored:
    if min(size, default=1) < 1:
        raise WeightsError(f"{path}: expected tensors with elements, got one of shape {size}")
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    needed = max(offset + last + 1, prod(size))  # a stride of 0 would make many numbers of one
    start = locate(entry, needed * ITEM_SIZES[dtype])
    flat = in_file(path, start + offset * ITEM_SIZES[dtype], dtype, (last + 1,))

    def load() -> npt.NDArray[np.generic]:
        values = np.ascontiguousarray(flat.load())
        steps = tuple(step * values.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)

    return Stored(size, load)
