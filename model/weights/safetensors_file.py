"""The container ``.safetensors``: names, shapes and raw numbers, nothing that could run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from model.weights.errors import WeightsError
from model.weights.tensors import Stored

_DTYPES = ("F32", "F16")


def read(path: Path) -> tuple[dict[str, str], dict[str, Stored]]:
    """Return the metadata of a safetensors file and its tensors, unread, as they lie in it.

    Raises:
        WeightsError: the file is not a whole safetensors file of float32 or float16.
    """
    stored: dict[str, Stored] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118  # not a mapping: it cannot be iterated
                part = file.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise WeightsError(f"{path}: expected {name} as {' or '.join(_DTYPES)}, got {part.get_dtype()}")
                stored[name] = Stored(tuple(part.get_shape()), _loader(path, name))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: expected a whole safetensors file, got: {error} (truncated?)") from error
    return metadata, stored


def _loader(path: Path, name: str) -> Callable[[], npt.NDArray[np.generic]]:
    def load() -> npt.NDArray[np.generic]:
        # Opened for each tensor, so that the mapping of the file does not stay in memory beside the network.
        try:
            with safe_open(path, framework="numpy") as file:
                array: npt.NDArray[np.generic] = file.get_tensor(name)
                return array
        except SafetensorError as error:
            raise ValueError(str(error)) from error

    return load
