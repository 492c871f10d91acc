"""PaddleX inference directories: a program, its parameters without names, and a small description."""

from pathlib import Path

from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError

FILES = ("inference.json", "inference.pdmodel", "inference.pdiparams")


def is_inference_directory(path: Path) -> bool:
    """Whether the directory holds parameters of PaddleX."""
    return (path / "inference.pdiparams").exists()


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read an inference directory."""
    raise WeightsError(f"{path}: expected another format, got {name or 'PaddleX'}")
