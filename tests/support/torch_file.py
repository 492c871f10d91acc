"""What ``torch.save`` writes, without torch: a zip of one pickle and the raw numbers.

PyTorch's CPU build is not to be had everywhere, so the default tests do without; the tests of ``model/weights`` read
these files with torch itself where it is installed.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORAGES = {"int64": "LongStorage", "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage"}


class _Global(NamedTuple):
    """Something that the reader would import."""

    module: str
    name: str

    def __call__(self) -> None:
        """Never called; pickle only asks whether it could be."""


class _Storage(NamedTuple):
    key: str
    array: np.ndarray


class _Pickler(pickle._Pickler):  # the one in Python: only it lets a name be written that cannot be imported here
    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, stream, device, is_old=False):
        super().__init__(stream, protocol=2)
        self.storages: list[_Storage] = []
        self.device, self.is_old = device, is_old

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        kind = _Global("torch", STORAGES[obj.array.dtype.name])
        return ("storage", kind, obj.key, self.device, obj.array.size, *[None] * self.is_old)

    def save_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def save_array(self, obj):
        storage = _Storage(str(len(self.storages)), np.asarray(obj, order="C"))
        self.storages.append(storage)
        strides = tuple(stride // obj.itemsize for stride in storage.array.strides)
        arguments = storage, 0, obj.shape, strides, False, OrderedDict()
        self.save_reduce(_Global("torch._utils", "_rebuild_tensor_v2"), arguments, obj=obj)

    dispatch[_Global] = save_name
    dispatch[np.ndarray] = save_array


def save(state: object, path: Path, device: str = "cpu") -> Path:
    """Write ``state`` as ``torch.save`` does; its numpy arrays become tensors on ``device``."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, device)
    pickler.dump(state)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for storage in pickler.storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def save_old(state: object, path: Path) -> Path:
    """Write ``state`` as ``torch.save`` did before PyTorch 1.6: pickles, and the storages after them."""
    with path.open("wb") as stream:
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        for value in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(value, stream, protocol=2)
        pickler = _Pickler(stream, "cpu", is_old=True)
        pickler.dump(state)
        pickle.dump([storage.key for storage in pickler.storages], stream, protocol=2)
        for storage in pickler.storages:
            stream.write(storage.array.size.to_bytes(8, "little") + storage.array.tobytes())
    return path
