"""What ``torch.save`` writes, without torch: a zip of one pickle and the raw numbers.

PyTorch's CPU build is not to be had everywhere, so the default tests do without; ``test_weights_formats`` reads these
files with torch itself where it is installed.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage"}


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

    def __init__(self, stream):
        super().__init__(stream, protocol=2)
        self.storages: list[_Storage] = []

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        return "storage", _Global("torch", STORAGES[obj.array.dtype.name]), obj.key, "cpu", obj.array.size

    def save_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def save_array(self, obj):
        storage = _Storage(str(len(self.storages)), np.ascontiguousarray(obj))
        self.storages.append(storage)
        strides = tuple(stride // obj.itemsize for stride in storage.array.strides)
        arguments = storage, 0, obj.shape, strides, False, OrderedDict()
        self.save_reduce(_Global("torch._utils", "_rebuild_tensor_v2"), arguments, obj=obj)

    dispatch[_Global] = save_name
    dispatch[np.ndarray] = save_array


def save(state: object, path: Path) -> Path:
    """Write ``state`` as ``torch.save`` does; its numpy arrays become tensors."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(state)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for storage in pickler.storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path
