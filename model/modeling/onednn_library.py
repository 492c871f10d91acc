"""The shared library oneDNN that Paddle's Linux wheels carry, and the functions of its C API that are used here.

The functions are those of https://uxlfoundation.github.io/oneDNN, version 3.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_int, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path

import paddle

MAJOR = 3
CPU = 1
WEIGHTS_DESCRIPTION = 131
CREATED = {
    "engine": ("engine_create",),
    "stream": ("stream_create",),
    "memory": ("memory_create",),
    "memory_desc": ("memory_desc_create_with_tag", "memory_desc_create_with_strides"),
    "primitive": ("primitive_create",),
    "primitive_attr": ("primitive_attr_create",),
    "post_ops": ("post_ops_create",),
    "primitive_desc": tuple(
        f"{step}_primitive_desc_create"
        for step in (
            "eltwise_forward",
            "softmax_forward",
            "layer_normalization_forward",
            "matmul",
            "convolution_forward",
            "reorder",
        )
    ),
}
"""Kinds of objects, and the functions that create them; ``<kind>_destroy`` destroys one."""
FURTHER = (
    "memory_set_data_handle",
    "post_ops_append_binary",
    "post_ops_append_eltwise",
    "primitive_attr_set_post_ops",
    "primitive_execute",
)
"""Further functions that return a status."""


class _Argument(ctypes.Structure):
    _fields_ = (("index", c_int), ("memory", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_int), ("minor", c_int), ("patch", c_int))


class _Handle(c_void_p):
    """An object of oneDNN, which is destroyed when nothing refers to it."""

    destroy: Callable[[c_void_p], object] | None = None

    def __del__(self) -> None:
        if self.value and self.destroy is not None:
            self.destroy(self)


class Library:
    """The C functions: `call` keeps the GIL, for what takes a microsecond, and `execute` releases it."""

    def __init__(self, path: Path) -> None:
        """Load a shared library.

        Raises:
            OSError: it cannot be loaded, or is another version of oneDNN.
            AttributeError: it lacks a function.
            RuntimeError: it has no engine for the CPU.
        """
        self._functions, waiting = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        self._functions.dnnl_version.restype = POINTER(_Version)
        self._functions.dnnl_primitive_desc_query_md.restype = c_void_p
        self._functions.dnnl_memory_desc_get_size.restype = c_size_t
        if (major := self._functions.dnnl_version().contents.major) != MAJOR:
            raise OSError(f"{path}: expected version {MAJOR} of oneDNN, got {major}")
        for name in (*itertools.chain(*CREATED.values()), *(f"{kind}_destroy" for kind in CREATED), *FURTHER):
            getattr(self._functions, f"dnnl_{name}")
        kinds = {name: kind for kind, names in CREATED.items() for name in names}
        self._destroy = {name: getattr(self._functions, f"dnnl_{kind}_destroy") for name, kind in kinds.items()}
        self._execute = waiting.dnnl_primitive_execute
        self.engine = self.create("engine_create", CPU, c_size_t(0))

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status.

        Raises:
            RuntimeError: the status says that it failed.
        """
        self._check(name, getattr(self._functions, f"dnnl_{name}")(*arguments))

    def create(self, name: str, *arguments: object) -> c_void_p:
        """Return the handle that a function writes to its first argument."""
        handle = _Handle()
        handle.destroy = self._destroy[name]
        self.call(name, byref(handle), *arguments)
        return handle

    def execute(self, primitive: c_void_p, stream: c_void_p, memories: Sequence[tuple[int, c_void_p]]) -> None:
        """Run a primitive on memory."""
        arguments = (_Argument * len(memories))(*(_Argument(*each) for each in memories))
        self._check("primitive_execute", self._execute(primitive, stream, len(memories), arguments))

    def weights_of(self, step: c_void_p) -> c_void_p:
        """Return the description of the weights that a step wants, which belongs to it."""
        return c_void_p(self._functions.dnnl_primitive_desc_query_md(step, WEIGHTS_DESCRIPTION, 0))

    def size(self, description: c_void_p) -> int:
        """Return the bytes of memory."""
        return int(self._functions.dnnl_memory_desc_get_size(description))

    @staticmethod
    def _check(name: str, status: int) -> None:
        if status:
            raise RuntimeError(f"oneDNN: dnnl_{name} failed with status {status}")


def find(folder: Path) -> Library | None:
    """Return the library in a folder; None where there is none, or none that has all that is called here."""
    for path in sorted(folder.glob("libdnnl.so*")):
        try:
            return Library(path)
        except (OSError, RuntimeError, AttributeError):
            continue
    return None


_loading = threading.Lock()  # a stream runs only steps of its own engine, so all threads need the same library


@lru_cache
def _loaded() -> Library | None:
    return find(Path(paddle.__file__).parent / "libs")


def library() -> Library | None:
    """Return Paddle's, the same for all threads; None where it carries none that can be used."""
    with _loading:
        return _loaded()
