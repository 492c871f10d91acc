"""Tensors that stay in their file until someone asks for one.

A checkpoint of ViT-H holds 2.4 GB. Each access maps the bytes of one tensor, converts them (float32, Paddle's layout)
and lets the mapping go with the array, so that loading a network needs its own size and one tensor more.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.weights.errors import WeightsError

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, ...]

BFLOAT16 = "bfloat16"
ITEM_SIZES = {"float32": 4, "float16": 2, BFLOAT16: 2, "float64": 8}


@dataclass(frozen=True)
class Stored:
    """One tensor that has not been read yet: its shape, and how to get it as numbers of that shape."""

    shape: Shape
    load: Callable[[], npt.NDArray[np.generic]]

    def transposed(self) -> "Stored":
        """Return the same tensor with its two axes swapped (PyTorch keeps a Linear weight as [out, in])."""
        return Stored(self.shape[::-1], lambda: self.load().T)

    def row(self, index: int) -> "Stored":
        """Return one row of it, still with two axes."""
        return Stored((1, *self.shape[1:]), lambda: self.load()[index : index + 1])


class LazyTensors(Mapping[str, FloatArray]):
    """Names to float32 arrays, each read from its file at every access.

    The arrays are C-contiguous, aligned and read-only.

    Raises:
        WeightsError: on access, when the file is gone or no longer holds the tensor.
    """

    def __init__(self, stored: Mapping[str, Stored], path: Path) -> None:
        self._stored = dict(stored)
        self._path = path

    def __getitem__(self, name: str) -> FloatArray:
        stored = self._stored[name]
        try:
            array = np.require(stored.load(), np.float32, ["C", "A"]).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{self._path}: expected to read {name} of shape {stored.shape}, got: {error}"
            ) from error
        if array.shape != stored.shape:
            raise WeightsError(f"{self._path}: expected {name} of shape {stored.shape}, got {array.shape}")
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shapes(self) -> dict[str, Shape]:
        """Return every name with its shape, reading nothing."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def stored(self) -> dict[str, Stored]:
        """Return the unread tensors, to arrange them differently."""
        return dict(self._stored)


class Joined(Mapping[str, FloatArray]):
    """Two mappings as one; both are read lazily, and the first one counts where both have a name."""

    def __init__(self, first: Mapping[str, FloatArray], second: Mapping[str, FloatArray]) -> None:
        self._first, self._second = first, second
        self._names = list(dict.fromkeys([*first, *second]))

    def __getitem__(self, key: str) -> FloatArray:
        return self._first[key] if key in self._first else self._second[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shapes(self) -> dict[str, Shape]:
        """Return every name with its shape, reading nothing."""
        return {**shapes_of(self._second), **shapes_of(self._first)}


def shapes_of(tensors: Mapping[str, FloatArray]) -> dict[str, Shape]:
    """Return every name with its shape, without reading lazy tensors."""
    if isinstance(tensors, LazyTensors | Joined):
        return tensors.shapes()
    return {name: array.shape for name, array in tensors.items()}


def in_file(path: Path, offset: int, dtype: str, shape: Shape) -> Stored:
    """Return the little-endian tensor that starts at byte ``offset`` of the file.

    Raises:
        WeightsError: the dtype is none of `ITEM_SIZES`, or the file ends before the tensor does.
    """
    if dtype not in ITEM_SIZES:
        raise WeightsError(f"{path}: expected tensors of {', '.join(ITEM_SIZES)}, got {dtype}")
    end, size = offset + prod(shape) * ITEM_SIZES[dtype], path.stat().st_size
    if min(shape, default=1) < 1 or end > size:
        raise WeightsError(
            f"{path}: expected a tensor of shape {shape} up to byte {end}, got a file of {size} bytes (truncated?)"
        )
    return Stored(shape, lambda: read_span(path, offset, dtype, shape))


def read_span(path: Path, offset: int, dtype: str, shape: Shape) -> npt.NDArray[np.generic]:
    """Map the tensor at byte ``offset`` of the file; bfloat16 comes as float32."""
    stored_as = np.dtype(np.uint16 if dtype == BFLOAT16 else dtype).newbyteorder("<")
    array: npt.NDArray[np.generic] = np.memmap(path, stored_as, "r", offset, shape)
    if dtype == BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
