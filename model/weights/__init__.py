"""Weights of SAM from every format they are published in; see `read`."""

from pathlib import Path

from model.weights.checkpoint import Checkpoint, merge, merge_order
from model.weights.errors import WeightsError

__all__ = ["Checkpoint", "WeightsError", "merge", "merge_order", "read"]


def read(path: str | Path, name: str | None = None) -> Checkpoint:
    """Read the weights in a file or directory, whichever of the known formats they have.

    No code that the files name is imported or called, and large tensors stay in the files until they are read.

    Args:
        path: a PaddleX inference directory, a file of another format, or a directory with one such file.
        name: what to call the model; by default derived from the path.

    Raises:
        WeightsError: the path does not exist, has an unknown format, or its contents are not those of a SAM network.
    """
    from model.weights import formats  # the readers are needed only here

    return formats.read(Path(path), name)
