"""Steps of SAM 2's image encoder that Paddle's own kernels do slowly on a CPU.

There NumPy does them on the tensors' own memory: it releases the GIL, uses the processor's vector instructions and
writes in place. Elsewhere Paddle does the same. Nothing changes a number but for the order in which a sum is taken.
"""

import math

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor
from paddle.nn import functional

from model.modeling.image_encoder import fused_attention

Floats = npt.NDArray[np.float32]

SCORES_AT_ONCE = 1 << 20
"""Scores of an attention that exist at a time: 4 MiB."""
TAME = 60.0
"""Scores of which none is further from zero have exponentials that float32 holds, and so does their sum."""


def is_on_cpu(x: Tensor) -> bool:
    """Whether NumPy can work on this tensor's memory."""
    return bool(x.place.is_cpu_place()) and x.dtype == paddle.float32


def memory(x: Tensor) -> Floats:
    """Return the memory of a float32 tensor on the CPU, to read and to write."""
    return np.asarray(np.from_dlpack(x), np.float32)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x @ weight + bias`` over the last axis."""
    y = paddle.matmul(x, weight)
    return add(y, bias)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x + y``, which may be ``x`` itself; ``y`` may have fewer axes."""
    if not is_on_cpu(x):
        return x + y
    values = memory(x)
    np.add(values, memory(y), out=values)
    return x


def pool(x: Tensor, rows: int, columns: int, width: int) -> Tensor:
    """Return the largest of every two by two tokens: (n, rows*columns, >= width) to (n, rows*columns/4, width)."""
    n = x.shape[0]
    cells = [n, rows // 2, 2, columns // 2, 2, width]
    if not is_on_cpu(x):
        pairs = x[:, :, :width].reshape(cells).max(axis=2)
        return pairs.max(axis=3).reshape([n, -1, width])
    values = memory(x)[:, :, :width].reshape(cells)  # splits axes: no copy
    upper = np.maximum(values[:, :, 0], values[:, :, 1])
    return paddle.from_dlpack(np.maximum(upper[:, :, :, 0], upper[:, :, :, 1]).reshape(n, -1, width))


def by_head(x: Tensor, num_heads: int, part: slice, scale: float = 1.0) -> Tensor:
    """Return ``scale`` times a part of the channels, the heads apart: (n, l, C) to (n, heads, l, d)."""
    n, length, _ = x.shape
    apart = [n, length, num_heads, (part.stop - part.start) // num_heads]
    if not is_on_cpu(x):
        x = x[:, :, part].reshape(apart).transpose([0, 2, 1, 3])
        return x if scale == 1 else x * scale
    values = memory(x)[:, :, part].reshape(apart).transpose(0, 2, 1, 3)
    if scale == 1:
        return paddle.from_dlpack(np.ascontiguousarray(values))
    return paddle.from_dlpack(np.multiply(values, np.float32(scale), order="C"))


def longest(x: Tensor) -> float:
    """Return the length of the longest of the vectors along the last axis; infinity where it is not cheap to tell."""
    if not is_on_cpu(x):
        return math.inf
    values = memory(x)
    return math.sqrt(float(np.einsum("...d,...d->...", values, values).max()))


def windows(x: Tensor, where: tuple[slice, ...], cells: list[int]) -> Tensor:
    """Return windows of a part of (B, h, w, C), given as (B, down, rows, across, columns, C): (n, rows*columns, C)."""
    rows, columns, channels = cells[2], cells[4], cells[5]
    order = [0, 1, 3, 2, 4, 5]
    if not is_on_cpu(x):
        return x[where].reshape(cells).transpose(order).reshape([-1, rows * columns, channels])
    values = memory(x)[where].reshape(cells).transpose(order)  # splits axes: no copy until here
    return paddle.from_dlpack(np.ascontiguousarray(values).reshape(-1, rows * columns, channels))


def together(x: Tensor) -> Tensor:
    """Undo `by_head`: (n, heads, l, d) to (n, l, heads*d)."""
    n, heads, length, width = x.shape
    if not is_on_cpu(x):
        return x.transpose([0, 2, 1, 3]).reshape([n, length, heads * width])
    return paddle.from_dlpack(np.ascontiguousarray(memory(x).transpose(0, 2, 1, 3)).reshape(n, length, heads * width))


def attend(query: Tensor, key: Tensor, value: Tensor, fused: bool, largest: float = math.inf) -> Tensor:
    """Return softmax(query keyᵀ) value.

    Args:
        query: (n, heads, q, d), scaled.
        key: (n, heads, l, d).
        value: (n, heads, l, d).
        fused: use Paddle's fused attention kernel, which pays on a GPU in 16 bits only.
        largest: no score is further from zero.

    Returns:
        (n, heads, q, d).
    """
    n, heads, count, width = query.shape
    length = key.shape[2]
    query, key, value = (x.reshape([n * heads, -1, width]) for x in (query, key, value))
    if fused:
        return fused_attention(query, key, value).reshape([n, heads, count, width])
    if not is_on_cpu(query):
        scores = paddle.matmul(query, key, transpose_y=True)
        return paddle.matmul(functional.softmax(scores, axis=-1), value).reshape([n, heads, count, width])
    if n * heads * count * length <= SCORES_AT_ONCE:
        return _softmax_values(query, key, value, largest).reshape([n, heads, count, width])
    out = np.empty((n * heads, count, width), np.float32)
    step = max(1, SCORES_AT_ONCE // length)
    for index in range(n * heads):
        for start in range(0, count, step):
            part = query[index, start : start + step]
            out[index, start : start + step] = memory(_softmax_values(part, key[index], value[index], largest))
    return paddle.from_dlpack(out.reshape(n, heads, count, width))


def _softmax_values(query: Tensor, key: Tensor, value: Tensor, largest: float) -> Tensor:
    """Attend with all scores at once; they are divided by their sums after they have met the values."""
    scores = paddle.matmul(query, key, transpose_y=True)
    weights = memory(scores)
    if largest > TAME:
        np.subtract(weights, weights.max(axis=-1, keepdims=True), out=weights)
    np.exp(weights, out=weights)
    out = paddle.matmul(scores, value)
    values = memory(out)
    np.divide(values, weights.sum(axis=-1, keepdims=True), out=values)
    return out


class Canvas:
    """A map (B, ...) that is put together from parts, which threads may write at the same time.

    Attributes:
        tensor: the map; what no part has covered is not defined.
    """

    def __init__(self, shape: list[int], like: Tensor) -> None:
        self.tensor = paddle.empty(shape, dtype=like.dtype)
        self._memory = memory(self.tensor) if is_on_cpu(like) else None

    def put(self, where: tuple[slice, ...], values: Tensor, shape: list[int], order: list[int]) -> None:
        """Write ``values``, seen as ``shape`` with its axes in ``order``, to a part of the map."""
        if self._memory is None:
            placed = values.reshape(shape).transpose(order)
            self.tensor[where] = placed.reshape(self.tensor[where].shape)
            return
        target = self._memory[where]
        source = memory(values).reshape(shape).transpose(order)
        target.reshape(source.shape)[...] = source  # splits axes: what is written to is the map itself
