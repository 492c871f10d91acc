"""Recognises the format of a file or directory by its contents, and reads it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from model.weights.catalogue import DETECTORS
from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import (
    layouts,
    meta_pth,
    native,
    paddlex,
    pdparams,
    safetensors_file,
    state_dicts,
    torch_legacy,
)

_SUFFIXES = (".safetensors", ".pth", ".pdparams")
_OTHER_SUFFIXES = (".pt", ".bin", ".ckpt")
"""What else PyTorch's files end in; looked for only where there is none of the above, beside which they may lie."""
_KNOWN = "a PaddleX inference directory, a .pth of PyTorch's, .safetensors or .pdparams"

Reader = Callable[[Path, str | None], Checkpoint]


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read the weights in a file or directory; see `model.weights.read`."""
    try:
        if path.is_dir():
            return _read_directory(path, name)
        return _reader_of(path)(path, name)
    except FileNotFoundError as error:
        if path.name in DETECTORS:
            raise WeightsError(
                f"{path}: expected weights of SAM, got a detector's name; --detector and PADDLE_SAM_DETECTOR take it"
            ) from error
        raise WeightsError(f"{path}: expected {_KNOWN}, got no such file or directory") from error
    except OSError as error:
        raise WeightsError(f"{path}: expected a readable file, got: {error}") from error


def _read_directory(path: Path, name: str | None) -> Checkpoint:
    if paddlex.is_inference_directory(path):
        return paddlex.read(path, name)
    files = _files(path, _SUFFIXES) or _files(path, _OTHER_SUFFIXES)
    if len(files) != 1:
        listed = ", ".join(file.name for file in files) or "none"
        raise WeightsError(f"{path}: expected {_KNOWN} in this directory, once, got {listed}")
    return _reader_of(files[0])(files[0], name)


def _reader_of(path: Path) -> Reader:
    if path.name in paddlex.FILES:
        return lambda file, name: paddlex.read(file.parent, name)
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK\3\4"):
        return meta_pth.read
    if head.startswith(torch_legacy.MAGIC):
        return torch_legacy.read
    if head[:1] == b"\x80":
        return pdparams.read
    if head[8:9] == b"{":
        metadata, _ = safetensors_file.read(path)
        return native.read if metadata.get("format") == native.FORMAT else _read_safetensors
    raise WeightsError(f"{path}: expected {_KNOWN}, got a file that begins with {head!r}")


def _files(directory: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(file for file in directory.iterdir() if file.suffix in suffixes)


def _read_safetensors(path: Path, name: str | None) -> Checkpoint:
    """Read a safetensors file of PyTorch's libraries: Meta's names or those of ``transformers``, under any prefix."""
    _, entries = safetensors_file.read(path)
    stored = state_dicts.select(path, entries, partial(safetensors_file.tensor, path), "a tensor")
    return layouts.from_torch(path, stored, name)
