"""PyTorch's files, Meta's ``sam_vit_*.pth`` and ``sam2.1_*.pt`` among them: a zip of a pickle, which names the tensors,
and their storages.

They are read and written without PyTorch.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import layouts, pickles, state_dicts, torch_tensors
from model.weights.tensors import FloatArray

_LOCAL_HEADER_BYTES = 30
_DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, MemoryError, struct.error, zlib.error)
"""What the standard library raises at damaged archives."""


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read what ``torch.save`` wrote of a state dict, or of a dict that holds one (PyTorch 1.6 and newer).

    Raises:
        WeightsError: the file is truncated, holds something else than tensors, or not a SAM network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            storages = _Storages(path, archive)
            with archive.open(storages.pickle) as stream:
                saved = pickles.read(stream, str(path))  # type: ignore[arg-type]  # an archive member reads as a BinaryIO
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(f"{path}: expected a whole PyTorch file (zip), got: {error} (truncated?)") from error
    stored = state_dicts.select(path, saved, partial(torch_tensors.tensor, path, storages.locate), "a tensor")
    return layouts.from_torch(path, stored, name)


def write(tensors: Mapping[str, FloatArray], path: Path) -> Path:
    """Write what ``torch.save`` writes of a state dict of float32 tensors, and return the path.

    Args:
        tensors: in PyTorch's layout, by the names that the file shall have.
        path: of the file.

    Raises:
        OSError: the file cannot be written.
    """
    shapes = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, name in enumerate(tensors):
            array = np.ascontiguousarray(tensors[name], "<f4")
            archive.writestr(f"archive/data/{number}", array.tobytes())
            shapes.append((name, array.shape))
        archive.writestr("archive/data.pkl", b"".join(_pickled(shapes)))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


def _pickled(shapes: list[tuple[str, tuple[int, ...]]]) -> Iterator[bytes]:
    """Yield the pickle (protocol 2) of a dict of tensors, each a call that rebuilds it from its storage."""
    yield b"\x80\x02}("  # an empty dict, and a mark before its items
    for number, (name, shape) in enumerate(shapes):
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        storage = b"ctorch\nFloatStorage\n", _text(str(number)), _text("cpu"), _whole(int(np.prod(shape)))
        yield _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n"
        yield b"((" + _text("storage") + b"".join(storage) + b"tQ" + _whole(0)  # the storage is a persistent id
        for numbers in (shape, strides):
            yield b"(" + b"".join(map(_whole, numbers)) + b"t"
        yield b"\x89ccollections\nOrderedDict\n)RtR"  # no gradient, no hooks
    yield b"u."


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _whole(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


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
        if f"{self._folder}constants.pkl" in entries:
            raise WeightsError(
                f"{path}: expected a state dict, got a TorchScript program, of which nothing is executed here; save "
                "the state_dict() of its module with torch.save instead"
            )
        self._entries = entries
        order = entries.get(f"{self._folder}byteorder")
        # PyTorch compresses nothing; what is compressed could become any length.
        if any(member.compress_type != zipfile.ZIP_STORED for member in (entries[self.pickle], order) if member):
            raise WeightsError(
                f"{path}: expected a PyTorch file, whose entries are not compressed, got a compressed one"
            )
        if order is not None and archive.read(order) != b"little":
            raise WeightsError(f"{path}: expected little-endian tensors, got {archive.read(order)!r:.20}")

    def locate(self, entry: str, needed: int) -> int:
        """Return at which byte of the file a storage begins.

        Raises:
            WeightsError: there is none, or it has fewer bytes than are needed.
        """
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
