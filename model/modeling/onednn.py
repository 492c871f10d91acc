"""Single steps of the networks in oneDNN, the library of CPU kernels that Paddle's Linux wheels carry.

One call does what takes NumPy five. That is faster on one core, and more so on several: between any two calls a thread
needs the GIL, and threads that wait for it sleep. Paddle itself runs oneDNN for graphs only. Where the library is
missing or of another version, `is_available` is false and `model.modeling.kernels` does the steps with NumPy.
"""

import ctypes
import functools
import itertools
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from ctypes import c_float, c_int, c_int64, c_uint, c_void_p
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional

from model.modeling import onednn_library
from model.modeling.blas import BYTES, Floats
from model.modeling.onednn_library import Library

INFERENCE, FLOAT32, IN_ORDER, ANY_ORDER, DIRECT, SCALE_AND_SHIFT = 96, 3, 1, 1, 1, 6
GELU_ERF, LINEAR, SOFTMAX, ADD = 0x31, 0x26, 0x30000, 0x1FFF0
SRC, DST, WEIGHTS, BIAS, SCALE, SHIFT = 1, 17, 33, 41, 51, 52
SECOND, FIRST_POST_OP = 2, 32768
DIMS = c_int64 * 12
ALIGNMENT = 64
MOST_KEPT = 256
"""Compiled steps that a thread keeps: one for each shape."""

TOLERANCE = 1e-3
"""Largest difference from Paddle's attention, as a share of the largest value; rounding makes about 1e-6."""

logger = logging.getLogger(__name__)
_wrong: set[tuple[object, ...]] = set()
"""Shapes and strides that oneDNN computes wrongly, see `attention`."""


def is_available() -> bool:
    """Whether the functions below can be used in this process."""
    return onednn_library.library() is not None


class _Thread(threading.local):
    """What a thread has of its own, since a primitive works in scratch memory of the thread that made it.

    In another thread that memory may be smaller than the primitive needs, or missing, which no error reports (oneDNN's
    ``scratchpad.cpp``, built without ``ONEDNN_ENABLE_CONCURRENT_EXEC``).
    """

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
N = TypeVar("N", Tensor, Floats)


def _cached(key: tuple[object, ...], make: Callable[[Library], P]) -> P:
    """Return what this thread keeps under a key."""
    cached = _thread.kept.get(key)
    if cached is None:
        library = onednn_library.library()
        if library is None:
            raise RuntimeError("oneDNN: expected is_available(), got a Paddle without it")
        if len(_thread.kept) >= MOST_KEPT:
            _thread.kept.clear()
        cached = _thread.kept[key] = make(library)
    return cast(P, cached)


def _description(library: Library, shape: Sequence[int], strides: Sequence[int] | None = None) -> c_void_p:
    """Describe float32 memory; without strides its order is left to oneDNN."""
    dims = DIMS(*shape)
    if strides is None:
        return library.create("memory_desc_create_with_tag", len(shape), dims, FLOAT32, ANY_ORDER)
    return library.create("memory_desc_create_with_strides", len(shape), dims, FLOAT32, DIMS(*strides))


def _rows(library: Library, shape: Sequence[int]) -> c_void_p:
    """Describe float32 memory in row-major order."""
    return _description(library, shape, [math.prod(shape[axis + 1 :]) for axis in range(len(shape))])


def _address(x: Tensor | Floats) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else int(x.data_ptr())


def _steps(x: Tensor | Floats) -> list[int]:
    """Return how far apart numbers are along each axis, in numbers."""
    return [step // BYTES for step in x.strides] if isinstance(x, np.ndarray) else list(x.strides)


def _empty(shape: Sequence[int], like: N) -> N:
    return cast(N, np.empty(shape, np.float32) if isinstance(like, np.ndarray) else paddle.empty(shape))


def gelu_(x: Tensor | Floats) -> None:
    """Replace a contiguous float32 tensor on the CPU, or an array, by its exact GELU."""
    size, address = x.size, _address(x)

    def make(library: Library) -> _Primitive:
        src = _rows(library, [size])
        options = INFERENCE, GELU_ERF, src, src, c_float(0), c_float(0), None
        step = library.create("eltwise_forward_primitive_desc_create", library.engine, *options)
        return _Primitive(library, step, {SRC: src, DST: src})

    _cached(("gelu", size), make).run(address, address)


def softmax_(x: Tensor) -> None:
    """Replace a contiguous float32 tensor on the CPU by its softmax over the last axis."""
    length, address = x.shape[-1], x.data_ptr()
    _softmax(x.size // length, length).run(address, address)


def _softmax(rows: int, length: int) -> _Primitive:
    def make(library: Library) -> _Primitive:
        src = _rows(library, [rows, length])
        options = INFERENCE, SOFTMAX, src, src, c_int(1), None
        step = library.create("softmax_forward_primitive_desc_create", library.engine, *options)
        return _Primitive(library, step, {SRC: src, DST: src})

    return _cached(("softmax", rows, length), make)


def layer_norm(x: N, weight: N, bias: N, epsilon: float) -> N:
    """Return the layer norm of a contiguous float32 tensor on the CPU, or an array, over its last axis."""
    length = x.shape[-1]
    rows = x.size // length

    def make(library: Library) -> _Primitive:
        src, each = _rows(library, [rows, length]), _rows(library, [length])
        options = INFERENCE, src, src, None, c_float(epsilon), c_uint(SCALE_AND_SHIFT), None
        step = library.create("layer_normalization_forward_primitive_desc_create", library.engine, *options)
        return _Primitive(library, step, {SRC: src, SCALE: each, SHIFT: each, DST: src})

    out = _empty(x.shape, x)
    addresses = _address(x), _address(weight), _address(bias), _address(out)
    _cached(("layer norm", rows, length, epsilon), make).run(*addresses)
    return out


def linear(x: N, weight: N, bias: N, gelu: bool, shortcut: N | None = None) -> N:
    """Return ``x @ weight + bias + shortcut``, and its exact GELU if asked for.

    Args:
        x: (n, C) float32, a tensor on the CPU or an array, contiguous, like all others but ``weight``.
        weight: (C, C'), in any order of memory.
        bias: (C',).
        gelu: apply GELU.
        shortcut: (n, C').

    Returns:
        (n, C').
    """
    (rows, inputs), outputs = x.shape, weight.shape[1]
    more: list[int] = [] if shortcut is None else [_address(shortcut)]
    strides: list[int] = _steps(weight)

    def make(library: Library) -> _Primitive:
        src, shift, dst = (_rows(library, shape) for shape in ([rows, inputs], [1, outputs], [rows, outputs]))
        factors = _description(library, [inputs, outputs], strides)
        attributes = _attributes(library, added=dst if more else None, gelu=gelu)
        step = library.create("matmul_primitive_desc_create", library.engine, src, factors, shift, dst, attributes)
        added = {_post_op(0): dst} if more else {}
        return _Primitive(library, step, {SRC: src, WEIGHTS: factors, BIAS: shift, DST: dst, **added})

    out = _empty([rows, outputs], x)
    addresses = _address(x), _address(weight), _address(bias), _address(out)
    _cached(("linear", rows, inputs, outputs, *strides, gelu, bool(more)), make).run(*addresses, *more)
    return out


def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, scores_at_once: int
) -> Tensor | None:
    """Return softmax(scale query keyᵀ + bias) value, the heads side by side; None where oneDNN computes it wrongly.

    oneDNN 3.6 takes memory of some strides for another without an error. `_groups` avoids what is known of that, and
    the first result of every shape and order of memory is compared with Paddle's.

    Args:
        query: (n, heads, q, d) float32 on the CPU, in any order of memory that keeps the last axis together.
        key: (n, heads, l, d), likewise.
        value: (n, heads, l, e), likewise.
        scale: of the products.
        bias: (heads, q, l), contiguous, or None.
        scores_at_once: how many may exist at a time, unless one of the n has more.

    Returns:
        (n, q, heads*e), or None.
    """
    n, heads, count, _ = query.shape
    length, width = value.shape[2:]
    out = paddle.empty([n, count, heads * width])
    some = max(1, scores_at_once // (heads * count * length))
    scores = paddle.empty([min(some, n) * heads * count * length])
    addresses = [x.data_ptr() for x in (query, key, value, out)]
    strides = [list(x.strides) for x in (query, key, value)]
    for start, each in _groups(n, some, {stride[0] // (heads * query.shape[3]) for stride in strides}):
        shapes = [each, *query.shape[1:]], [each, *key.shape[1:]], [each, *value.shape[1:]]
        name = "attention", *itertools.chain(*shapes, *strides), scale, bias is None
        if name in _wrong:
            return None
        is_new = name not in _thread.kept
        products, sums = _cached(
            name,
            functools.partial(_attention, shapes=shapes, strides=strides, scale=scale, has_bias=bias is not None),
        )
        src, keys, values, dst = (
            address + 4 * start * stride
            for address, stride in zip(addresses, (*(s[0] for s in strides), out.strides[0]), strict=True)
        )
        products.run(src, keys, scores.data_ptr(), *([] if bias is None else [bias.data_ptr()]))
        _softmax(each * heads * count, length).run(scores.data_ptr(), scores.data_ptr())
        sums.run(scores.data_ptr(), values, dst)
        group = slice(start, start + each)
        if is_new and not _is_right(out[group], query[group], key[group], value[group], scale, bias):
            _wrong.add(name)
            logger.warning("event=onednn_wrong step=attention shapes=%s strides=%s", shapes, strides)
            return None
    return out


def _is_right(out: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None) -> bool:
    """Whether Paddle computes the same attention, but for rounding."""
    scores = paddle.matmul(query * scale, key, transpose_y=True)
    sums = paddle.matmul(functional.softmax(scores if bias is None else scores + bias, axis=-1), value)
    expected = sums.transpose([0, 2, 1, 3]).reshape(out.shape)
    return bool((out - expected).abs().max() <= TOLERANCE * value.abs().max())


def _groups(count: int, most: int, refused: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield start and length of groups of at most ``most`` of a batch.

    Refused are the lengths at which oneDNN 3.6 takes strided memory for memory whose batch is not its first axis.
    """
    start = 0
    while start < count:
        length = min(most, count - start)
        while length > 1 and length in refused:
            length -= 1
        yield start, length
        start += length


def _attention(
    library: Library,
    shapes: tuple[list[int], list[int], list[int]],
    strides: Sequence[list[int]],
    scale: float,
    has_bias: bool,
) -> tuple[_Primitive, _Primitive]:
    """Compile the two matrix products of attention, for shapes and strides of query, key and value."""
    n, heads, length, width = shapes[2]
    count, depth = shapes[0][2:]
    src, values = _description(library, shapes[0], strides[0]), _description(library, shapes[2], strides[2])
    keys = _description(library, [n, heads, depth, length], [*strides[1][:2], strides[1][3], strides[1][2]])
    scores = _rows(library, [n, heads, count, length])
    added = _rows(library, [1, heads, count, length]) if has_bias else None
    attributes = _attributes(library, scale=scale, added=added)
    step = library.create("matmul_primitive_desc_create", library.engine, src, keys, None, scores, attributes)
    more = {} if added is None else {_post_op(1): added}
    products = _Primitive(library, step, {SRC: src, WEIGHTS: keys, DST: scores, **more})
    dst = _description(library, [n, heads, count, width], [count * heads * width, width, heads * width, 1])
    step = library.create("matmul_primitive_desc_create", library.engine, scores, values, None, dst, None)
    return products, _Primitive(library, step, {SRC: scores, WEIGHTS: values, DST: dst})


def _attributes(
    library: Library, *, scale: float | None = None, added: c_void_p | None = None, gelu: bool = False
) -> c_void_p:
    """Return what a step is asked to do with its results: scale them, add memory of this description, apply GELU."""
    attributes, after = library.create("primitive_attr_create"), library.create("post_ops_create")
    if scale is not None:
        library.call("post_ops_append_eltwise", after, LINEAR, c_float(scale), c_float(0))
    if added is not None:
        library.call("post_ops_append_binary", after, ADD, added)
    if gelu:
        library.call("post_ops_append_eltwise", after, GELU_ERF, c_float(0), c_float(0))
    library.call("primitive_attr_set_post_ops", attributes, after)
    return attributes


def _post_op(position: int) -> int:
    """Return the argument number of what the post-op at a position adds."""
    return FIRST_POST_OP * (position + 1) | SECOND


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
        src = _description(library, *_channels_last(batch, channels, height, width))
        dst = _description(library, *_channels_last(batch, outputs, rows, columns))
        shift, given = _rows(library, [outputs]), _rows(library, kernel)
        attributes = _attributes(library, gelu=gelu)
        shapes = DIMS(stride, stride), DIMS(0, 0), DIMS(above, left), DIMS(below, right)
        options = INFERENCE, DIRECT, src, _description(library, kernel), shift, dst, *shapes, attributes
        step = library.create("convolution_forward_primitive_desc_create", library.engine, *options)
        wanted = library.weights_of(step)
        reorder = library.create("reorder_primitive_desc_create", given, library.engine, wanted, library.engine, None)
        ordered = ctypes.create_string_buffer(library.size(wanted) + ALIGNMENT)
        order = _Primitive(library, reorder, {SRC: given, DST: wanted})
        return _Convolution(
            order, ordered, _Primitive(library, step, {SRC: src, WEIGHTS: wanted, BIAS: shift, DST: dst})
        )

    key = ("convolution", *x.shape, *weight.shape, stride, *padding, groups, gelu)
    cached = _cached(key, make)
    out = paddle.empty([batch, rows, columns, outputs])
    ordered = -(-ctypes.addressof(cached.ordered) // ALIGNMENT) * ALIGNMENT
    cached.order.run(weight.data_ptr(), ordered)
    cached.convolution.run(x.data_ptr(), ordered, bias.data_ptr(), out.data_ptr())
    return out


def _channels_last(batch: int, channels: int, height: int, width: int) -> tuple[list[int], list[int]]:
    """Return oneDNN's shape, whose channels are always second, and the strides."""
    return [batch, channels, height, width], [height * width * channels, 1, width * channels, channels]
