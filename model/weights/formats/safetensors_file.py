"""The container ``.safetensors``: names, shapes and raw numbers, nothing that could run."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from model.weights.errors import WeightsError
from model.weights.tensors import Stored, in_file

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_LENGTH_BYTES = 8


def read(path: Path) -> tuple[dict[str, str], dict[str, Stored | str]]:
    """Return the metadata of a safetensors file and its tensors, unread, as they lie in it.

    Of a tensor that holds no floating point numbers its type is returned, such as ``I64``.

    Raises:
        WeightsError: the file is not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # it also checks the file, to its last byte
            metadata = dict(file.metadata() or {})
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: expected a whole safetensors file, got: {error} (truncated?)") from error
    tensors: dict[str, Stored | str] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape, (start, _) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        is_float = kind in _DTYPES and min(shape, default=1) > 0
        offset = _LENGTH_BYTES + length + start
        tensors[name] = in_file(path, offset, _DTYPES[kind], shape) if is_float else f"{kind} of shape {shape}"
    return metadata, tensors


def tensor(path: Path, name: str, value: object) -> Stored:
    """Return one of the tensors that `read` found.

    Raises:
        WeightsError: it holds no floating point numbers.
    """
    if not isinstance(value, Stored):
        raise WeightsError(f"{path}: {name:.80}: expected a parameter with elements, all floating point, got {value}")
    return value
