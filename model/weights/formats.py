"""Which format a file or directory has, told from what is inside, and the reader for it."""

from collections.abc import Callable
from pathlib import Path

from model.weights import huggingface, meta_pth, native, paddlex, pdparams, safetensors_file
from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError

_SUFFIXES = (".safetensors", ".pth", ".pdparams")
_KNOWN = "a PaddleX inference directory, a .pth of Meta's, .safetensors or .pdparams"
_OLD_PYTORCH = b"\x80\x02\x8a\x0a\x6c\xfc"  # the magic number that PyTorch wrote before 1.6

Reader = Callable[[Path, str | None], Checkpoint]


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read the weights in a file or directory; see `model.weights.read`."""
    try:
        if path.is_dir():
            return _read_directory(path, name)
        return _reader_of(path)(path, name)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: expected {_KNOWN}, got no such file or directory") from error
    except OSError as error:
        raise WeightsError(f"{path}: expected a readable file, got: {error}") from error


def _read_directory(path: Path, name: str | None) -> Checkpoint:
    if paddlex.is_inference_directory(path):
        return paddlex.read(path, name)
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(f"{path}: expected {_KNOWN} in this directory, once, got {found}")
    return _reader_of(files[0])(files[0], name)


def _reader_of(path: Path) -> Reader:
    if path.name in paddlex.FILES:
        return lambda file, name: paddlex.read(file.parent, name)
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK\3\4"):
        return meta_pth.read
    if head.startswith(_OLD_PYTORCH):
        raise WeightsError(f"{path}: expected a PyTorch file of version 1.6 or newer (zip), got an older one")
    if head[:1] == b"\x80":
        return pdparams.read
    if head[8:9] == b"{":
        metadata, _ = safetensors_file.read(path)
        return native.read if metadata.get("format") == native.FORMAT else huggingface.read
    raise WeightsError(f"{path}: expected {_KNOWN}, got a file that begins with {head!r}")
