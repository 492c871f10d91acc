"""Our own safetensors: Meta's names, Paddle's layout, the configuration in the metadata; float32 or float16."""

import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save_file

from model.config import SamConfig
from model.weights.checkpoint import Checkpoint, digest_of, name_of
from model.weights.errors import WeightsError
from model.weights.formats import safetensors_file
from model.weights.tensors import LazyTensors

FORMAT = "paddle-sam"
"""What ``format`` in the metadata says; any other safetensors file is not ours."""


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a file that `write` made.

    Raises:
        WeightsError: the file is truncated, not ours, or its tensors are not those of its configuration.
    """
    metadata, stored = safetensors_file.read(path)
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(f"{path}: expected metadata with format {FORMAT} and a config, got {sorted(metadata)}")
    try:
        config = SamConfig.from_json(metadata["config"])
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    tensors = {key: safetensors_file.tensor(path, key, value) for key, value in stored.items()}
    return Checkpoint(name or name_of(path), config, LazyTensors(tensors, path), digest_of([path]), "native", path)


def write(checkpoint: Checkpoint, path: Path, dtype: Literal["float32", "float16"] = "float32") -> Path:
    """Write the checkpoint to ``path``, whole or not at all, and return the path.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(checkpoint.tensors[key], dtype) for key in checkpoint.tensors}
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, unfinished, {"format": FORMAT, "config": checkpoint.config.to_json()})
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return path
