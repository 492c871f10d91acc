"""Single steps of the networks in oneDNN, the library of CPU kernels that Paddle's Linux wheels carry.

One call does what takes NumPy five. That is faster on one core, and more so on several: between any two calls a thread
needs the GIL, and threads that wait for it sleep. Paddle itself runs oneDNN for graphs only. The functions are those of
oneDNN's C API (https://uxlfoundation.github.io/oneDNN, version 3); where the library is missing or of another version,
`is_available` is false and `model.modeling.kernels` does the steps with NumPy.
"""

import ctypes
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

import paddle
from paddle import Tensor

MAJOR = 3
CPU, INFERENCE, FLOAT32, IN_ORDER, ANY_ORDER = 1, 96, 3, 1, 1
GELU_ERF, SOFTMAX, DIRECT, WEIGHTS_DESCRIPTION = 0x31, 0x30000, 1, 131
SRC, DST, WEIGHTS, BIAS = 1, 17, 33, 41
DIMS = c_int64 * 12
ALIGNMENT = 64
MOST_KEPT = 256
"""Compiled steps that a thread keeps: one for each shape."""
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
        for step in ("eltwise_forward", "softmax_forward", "matmul", "convolution_forward", "reorder")
    ),
}
"""Kinds of objects, and the functions that create them; ``<kind>_destroy`` destroys one."""
FURTHER = "memory_set_data_handle", "post_ops_append_eltwise", "primitive_attr_set_post_ops", "primitive_execute"
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


def _library() -> Library | None:
    with _loading:
        return _loaded()


def is_available() -> bool:
    """Whether the functions below can be used in this process."""
    return _library() is not None


class _Thread(threading.local):
    """What a thread has of its own, since a stream and a primitive are for one thread at a time."""

    def __init__(self) -> None:
        self.kept: dict[object, object] = {}
        self.stream: c_void_p | None = None


_thread = _Thread()


class _Primitive:
    """A compiled step, and the memory of known shapes that it gets in a call."""

    def __init__(self, library: Library, step: c_void_p, descriptions: dict[int, c_void_p]) -> None:
        """Compile a step; it and its descriptions, by their argument numbers, are not needed afterwards."""
        self._library = library
        if _thread.stream is None:
            _thread.stream = library.create("stream_create", library.engine, c_uint(IN_ORDER))
        self._stream = _thread.stream
        self._handle = library.create("primitive_create", step)
        self._memories = [
            (index, library.create("memory_create", description, library.engine, c_void_p()))
            for index, description in descriptions.items()
        ]

    def run(self, *addresses: int) -> None:
        """Run on memory at these addresses, in the order of the descriptions."""
        for (_, memory), address in zip(self._memories, addresses, strict=True):
            self._library.call("memory_set_data_handle", memory, c_void_p(address))
        self._library.execute(self._handle, self._stream, self._memories)


P = TypeVar("P")


def _cached(key: tuple[object, ...], make: Callable[[Library], P]) -> P:
    """Return what this thread keeps under a key."""
    found = _thread.kept.get(key)
    if found is None:
        library = _library()
        if library is None:
            raise RuntimeError("oneDNN: expected is_available(), got a Paddle without it")
        if len(_thread.kept) >= MOST_KEPT:
            _thread.kept.clear()
        found = _thread.kept[key] = make(library)
    return cast(P, found)


def _description(library: Library, shape: Sequence[int], strides: Sequence[int] | None = None) -> c_void_p:
    """Describe float32 memory; without strides its order is left to oneDNN."""
    dims = DIMS(*shape)
    if strides is None:
        return library.create("memory_desc_create_with_tag", len(shape), dims, FLOAT32, ANY_ORDER)
    return library.create("memory_desc_create_with_strides", len(shape), dims, FLOAT32, DIMS(*strides))


def gelu_(x: Tensor) -> None:
    """Replace a contiguous float32 tensor on the CPU by its exact GELU."""
    size, address = x.size, x.data_ptr()

    def make(library: Library) -> _Primitive:
        seen = _description(library, [size], [1])
        options = INFERENCE, GELU_ERF, seen, seen, c_float(0), c_float(0), None
        step = library.create("eltwise_forward_primitive_desc_create", library.engine, *options)
        return _Primitive(library, step, {SRC: seen, DST: seen})

    _cached(("gelu", size), make).run(address, address)


def softmax_(x: Tensor) -> None:
    """Replace a contiguous float32 tensor on the CPU by its softmax over the last axis."""
    length, address = x.shape[-1], x.data_ptr()
    rows = x.size // length

    def make(library: Library) -> _Primitive:
        seen = _description(library, [rows, length], [length, 1])
        options = INFERENCE, SOFTMAX, seen, seen, c_int(1), None
        step = library.create("softmax_forward_primitive_desc_create", library.engine, *options)
        return _Primitive(library, step, {SRC: seen, DST: seen})

    _cached(("softmax", rows, length), make).run(address, address)


def linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """Return ``x @ weight + bias``, and its exact GELU if asked for: (n, C), (C, C') and (C',) to (n, C')."""
    (rows, inputs), outputs = x.shape, weight.shape[1]

    def make(library: Library) -> _Primitive:
        shapes = ([rows, inputs], [inputs, outputs], [1, outputs], [rows, outputs])
        seen, factors, shift, made = (_description(library, shape, [shape[1], 1]) for shape in shapes)
        attributes = _attributes(library, gelu)
        step = library.create("matmul_primitive_desc_create", library.engine, seen, factors, shift, made, attributes)
        return _Primitive(library, step, {SRC: seen, WEIGHTS: factors, BIAS: shift, DST: made})

    out = paddle.empty([rows, outputs])
    addresses = x.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr()
    _cached(("linear", rows, inputs, outputs, gelu), make).run(*addresses)
    return out


def _attributes(library: Library, gelu: bool) -> c_void_p:
    """Return what a step is asked to do with its results."""
    attributes = library.create("primitive_attr_create")
    if gelu:
        after = library.create("post_ops_create")
        library.call("post_ops_append_eltwise", after, GELU_ERF, c_float(0), c_float(0))
        library.call("primitive_attr_set_post_ops", attributes, after)
    return attributes


@dataclass(frozen=True)
class _Convolution:
    """A convolution and what puts its weights into the order that it wants."""

    order: _Primitive
    ordered: ctypes.Array[ctypes.c_char]
    convolution: _Primitive


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: tuple[int, int, int, int], groups: int, gelu: bool
) -> Tensor:
    """Return a convolution of maps with channels last, and its exact GELU if asked for.

    Args:
        x: (B, H, W, C) float32 on the CPU, contiguous.
        weight: (C', C/groups, k, k).
        bias: (C',).
        stride: of both axes.
        padding: zeros above, below, at the left and at the right.
        groups: 1, or C.
        gelu: apply GELU.

    Returns:
        (B, H', W', C').
    """
    batch, height, width, channels = x.shape
    outputs, inner, side, _ = weight.shape
    above, below, left, right = padding
    rows = (height + above + below - side) // stride + 1
    columns = (width + left + right - side) // stride + 1

    def make(library: Library) -> _Convolution:
        kernel = [groups, outputs // groups, inner, side, side] if groups > 1 else [outputs, inner, side, side]
        plain = [math.prod(kernel[axis + 1 :]) for axis in range(len(kernel))]
        seen = _description(library, *_channels_last(batch, channels, height, width))
        made = _description(library, *_channels_last(batch, outputs, rows, columns))
        shift, given = _description(library, [outputs], [1]), _description(library, kernel, plain)
        attributes = _attributes(library, gelu)
        shapes = DIMS(stride, stride), DIMS(0, 0), DIMS(above, left), DIMS(below, right)
        options = INFERENCE, DIRECT, seen, _description(library, kernel), shift, made, *shapes, attributes
        step = library.create("convolution_forward_primitive_desc_create", library.engine, *options)
        wanted = library.weights_of(step)
        reorder = library.create("reorder_primitive_desc_create", given, library.engine, wanted, library.engine, None)
        ordered = ctypes.create_string_buffer(library.size(wanted) + ALIGNMENT)
        order = _Primitive(library, reorder, {SRC: given, DST: wanted})
        return _Convolution(
            order, ordered, _Primitive(library, step, {SRC: seen, WEIGHTS: wanted, BIAS: shift, DST: made})
        )

    key = ("convolution", *x.shape, *weight.shape, stride, *padding, groups, gelu)
    found = _cached(key, make)
    out = paddle.empty([batch, rows, columns, outputs])
    ordered = -(-ctypes.addressof(found.ordered) // ALIGNMENT) * ALIGNMENT
    found.order.run(weight.data_ptr(), ordered)
    found.convolution.run(x.data_ptr(), ordered, bias.data_ptr(), out.data_ptr())
    return out


def _channels_last(batch: int, channels: int, height: int, width: int) -> tuple[list[int], list[int]]:
    """Return oneDNN's shape, whose channels are always second, and the strides."""
    return [batch, channels, height, width], [height * width * channels, 1, width * channels, channels]
