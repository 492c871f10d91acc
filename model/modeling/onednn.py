"""Single steps of the networks in oneDNN, the library of CPU kernels that Paddle's Linux wheels carry.

One call does what takes NumPy five. That is faster on one core, and more so on several: between any two calls a thread
needs the GIL, and threads that wait for it sleep. Paddle itself runs oneDNN for graphs only. The functions are those of
oneDNN's C API (https://uxlfoundation.github.io/oneDNN, version 3); where the library is missing or of another version,
`is_available` is false and `model.modeling.kernels` does the steps with NumPy.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import lru_cache
from pathlib import Path

import paddle
from paddle import Tensor

MAJOR = 3
CPU, INFERENCE, FLOAT32, IN_ORDER = 1, 96, 3, 1
GELU_ERF = 0x31
SRC, DST = 1, 17
MOST_PRIMITIVES = 256
"""Compiled steps that a thread keeps: one for each shape."""


class _Argument(ctypes.Structure):
    _fields_ = (("index", c_int), ("memory", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_int), ("minor", c_int), ("patch", c_int))


class _Library:
    """The C functions: `call` keeps the GIL, for what takes a microsecond, and `execute` releases it."""

    def __init__(self, path: Path) -> None:
        self._functions, waiting = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        self._functions.dnnl_version.restype = POINTER(_Version)
        if (major := self._functions.dnnl_version().contents.major) != MAJOR:
            raise OSError(f"{path}: expected version {MAJOR} of oneDNN, got {major}")
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
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        return handle

    def execute(self, primitive: c_void_p, stream: c_void_p, memories: Sequence[tuple[int, c_void_p]]) -> None:
        """Run a primitive on memory."""
        arguments = (_Argument * len(memories))(*(_Argument(*each) for each in memories))
        self._check("primitive_execute", self._execute(primitive, stream, len(memories), arguments))

    @staticmethod
    def _check(name: str, status: int) -> None:
        if status:
            raise RuntimeError(f"oneDNN: dnnl_{name} failed with status {status}")


@lru_cache
def _library() -> _Library | None:
    for path in sorted(Path(paddle.__file__).parent.glob("libs/libdnnl.so*")):
        try:
            return _Library(path)
        except (OSError, RuntimeError, AttributeError):
            continue
    return None


def is_available() -> bool:
    """Whether the functions below can be used in this process."""
    return _library() is not None


class _Thread(threading.local):
    """What a thread has of its own, since a stream and a primitive are for one thread at a time."""

    def __init__(self) -> None:
        self.primitives: dict[object, _Primitive] = {}
        self.stream: c_void_p | None = None


_thread = _Thread()


class _Primitive:
    """A compiled step for memory of certain shapes, and the memory that it gets in a call."""

    def __init__(
        self,
        library: _Library,
        descriptions: dict[int, c_void_p],
        describe: Callable[[_Library, dict[int, c_void_p]], c_void_p],
    ) -> None:
        self._library = library
        if _thread.stream is None:
            _thread.stream = library.create("stream_create", library.engine, c_uint(IN_ORDER))
        self._stream = _thread.stream
        step = describe(library, descriptions)
        self._handle = library.create("primitive_create", step)
        self._memories = [
            (index, library.create("memory_create", description, library.engine, c_void_p()))
            for index, description in descriptions.items()
        ]
        for description in descriptions.values():
            library.call("memory_desc_destroy", description)
        library.call("primitive_desc_destroy", step)

    def run(self, *addresses: int) -> None:
        """Run on memory at these addresses, in the order of the descriptions."""
        for (_, memory), address in zip(self._memories, addresses, strict=True):
            self._library.call("memory_set_data_handle", memory, c_void_p(address))
        self._library.execute(self._handle, self._stream, self._memories)

    def __del__(self) -> None:
        for _, memory in getattr(self, "_memories", ()):
            self._library.call("memory_destroy", memory)
        if hasattr(self, "_handle"):
            self._library.call("primitive_destroy", self._handle)


def _primitive(key: tuple[object, ...], make: Callable[[_Library], _Primitive]) -> _Primitive:
    """Return this thread's primitive of a key."""
    found = _thread.primitives.get(key)
    if found is None:
        library = _library()
        if library is None:
            raise RuntimeError("oneDNN: expected is_available(), got a Paddle without it")
        if len(_thread.primitives) >= MOST_PRIMITIVES:
            _thread.primitives.clear()
        found = _thread.primitives[key] = make(library)
    return found


def _description(library: _Library, shape: Sequence[int], strides: Sequence[int]) -> c_void_p:
    dims = c_int64 * 12
    return library.create("memory_desc_create_with_strides", len(shape), dims(*shape), FLOAT32, dims(*strides))


def gelu_(x: Tensor) -> None:
    """Replace a contiguous float32 tensor on the CPU by its exact GELU."""
    size = x.size

    def make(library: _Library) -> _Primitive:
        def describe(library: _Library, seen: dict[int, c_void_p]) -> c_void_p:
            step = library.engine, INFERENCE, GELU_ERF, seen[SRC], seen[DST], c_float(0), c_float(0), None
            return library.create("eltwise_forward_primitive_desc_create", *step)

        descriptions = {index: _description(library, [size], [1]) for index in (SRC, DST)}
        return _Primitive(library, descriptions, describe)

    address = x.data_ptr()
    _primitive(("gelu", size), make).run(address, address)
