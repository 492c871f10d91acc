"""Attention of image encoders on a CPU, and how windows and heads lie in memory.

Where gradients, a GPU or an exported graph need Paddle's own steps, the functions take these.
"""

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional

from model.modeling import blas, onednn
from model.modeling.blas import Floats
from model.modeling.kernels import add, exponentials_, is_on_cpu, memory, tensor

SCORES_AT_ONCE = 1 << 20
"""Attention scores that exist at a time: 4 MiB."""
GRID_SCORES_AT_ONCE = 1 << 21
"""The same of a whole grid's, 8 MiB: fewer products are faster, though they leave the second cache."""
MOST_KEYS = 256
"""Keys up to which oneDNN's products of strided memory are as fast as MKL's of memory in order. Those of a single query
are wrong in version 3.6 for some strides."""
LEAST_ROW = 100
"""Scores of a query from which on oneDNN's softmax is faster than NumPy's exponentials."""


def cut_windows(x: Tensor, where: tuple[slice, ...], cells: list[int]) -> Tensor:
    """Return windows of a part of (B, h, w, C), given as (B, down, rows, across, columns, C): (n, rows*columns, C)."""
    rows, columns, channels = cells[2], cells[4], cells[5]
    order = [0, 1, 3, 2, 4, 5]
    if not is_on_cpu(x):
        return x[where].reshape(cells).transpose(order).reshape([-1, rows * columns, channels])
    values = memory(x)[where].reshape(cells).transpose(order)  # splits axes: no copy until here
    return tensor(np.ascontiguousarray(values).reshape(-1, rows * columns, channels))


def cut_padded_windows(x: Floats, padding: Floats, side: int) -> Tensor:
    """Return a row of windows with padding at the right and below.

    Args:
        x: (rows, columns, kinds, heads, d), at most ``side`` rows.
        padding: (kinds, heads, d), what a token beyond the grid holds.
        side: of a window.

    Returns:
        (kinds, windows*heads, side*side, d).
    """
    rows, columns, kinds, heads, d = x.shape
    whole = columns // side
    count, split = -(-columns // side), whole * side
    windows = np.empty((kinds, count, heads, side, side, d), np.float32)
    cells = windows.transpose(3, 1, 4, 0, 2, 5)  # (side, windows, side, kinds, heads, d), the order of x
    cells[:rows, :whole] = x[:, :split].reshape(rows, whole, side, kinds, heads, d)
    if whole < count:
        cells[:rows, whole, : columns - split] = x[:, split:]
        cells[:rows, whole, columns - split :] = padding
    cells[rows:] = padding
    return tensor(windows.reshape(kinds, count * heads, side * side, d))


def put_windows(windows: Tensor, to: Floats, side: int) -> None:
    """Put a row of windows (windows*heads, side*side, d) in its place (rows, columns, heads, d), without padding."""
    rows, columns, heads, d = to.shape
    whole = columns // side
    split = whole * side
    cells = memory(windows).reshape(-1, heads, side, side, d).transpose(2, 0, 3, 1, 4)[:rows]
    to[:, :split].reshape(rows, whole, side, heads, d)[:] = cells[:, :whole]  # splits an axis: no copy
    to[:, split:] = cells[:, -1, : columns - split]


def split_heads(x: Tensor, num_heads: int, part: slice) -> Tensor:
    """Return a part of the channels by head, in the same memory: (n, l, C) to (n, heads, l, d)."""
    n, length, _ = x.shape
    width = (part.stop - part.start) // num_heads
    apart = x.reshape([n, length, -1, width])[:, :, part.start // width : part.stop // width]
    return apart.transpose([0, 2, 1, 3])


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`: (n, heads, l, d) to (n, l, heads*d)."""
    n, heads, length, width = x.shape
    if heads == 1:
        return x.reshape([n, length, width])
    if not is_on_cpu(x):
        return x.transpose([0, 2, 1, 3]).reshape([n, length, heads * width])
    return tensor(np.ascontiguousarray(memory(x).transpose(0, 2, 1, 3)).reshape(n, length, heads * width))


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, fused: bool = False, bias: Tensor | None = None
) -> Tensor:
    """Return softmax(scale query keyᵀ + bias) value, the heads side by side.

    Args:
        query: (n, heads, q, d).
        key: (n, heads, l, d).
        value: (n, heads, l, e).
        scale: of the products.
        fused: use Paddle's fused attention kernel, which pays on a GPU in 16 bits only.
        bias: (heads, q, l); not with ``fused``.

    Returns:
        (n, q, heads*e).
    """
    n, heads, count, _ = query.shape
    if fused:
        query, key, value = (x.reshape([n * heads, -1, x.shape[-1]]) for x in (query * scale, key, value))
        return merge_heads(fused_attention(query, key, value).reshape([n, heads, count, -1]))
    if not is_on_cpu(query, key, value):
        scores = paddle.matmul(query * scale, key, transpose_y=True)
        scores = scores if bias is None else scores + bias
        return merge_heads(paddle.matmul(functional.softmax(scores, axis=-1), value))
    if count > 1 and key.shape[2] <= MOST_KEYS and onednn.is_available():
        attended = onednn.attention(query, key, value, scale, bias, SCORES_AT_ONCE)
        if attended is not None:
            return attended
    query, key, value = (x.contiguous() for x in (query * scale, key, value))
    return merge_heads(_attend_in_parts(query, key, value, bias))


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with as many scores at a time as stay in the cache: (n, heads, q, d) to (n, heads, q, e)."""
    n, heads, count, _ = query.shape
    length = key.shape[2]
    ones = paddle.ones([length, 1])
    if (some := SCORES_AT_ONCE // (heads * count * length)) >= n:
        return _softmax_values(query, key, value, ones, bias)
    out = np.empty((n, heads, count, value.shape[-1]), np.float32)
    if some:
        for start in range(0, n, some):
            group = slice(start, start + some)
            out[group] = memory(_softmax_values(query[group], key[group], value[group], ones, bias))
        return tensor(out)
    step = max(1, SCORES_AT_ONCE // length)
    for index in range(n):
        for head in range(heads):
            for start in range(0, count, step):
                queries = slice(start, start + step)
                part = query[index, head, queries]
                more = None if bias is None else bias[head, queries]
                attended = _softmax_values(part, key[index, head], value[index, head], ones, more)
                out[index, head, queries] = memory(attended)
    return tensor(out)


def attend_on_grid(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Return softmax(query keyᵀ + by_row + by_column) value on a CPU.

    Args:
        query: (n, h*w, d), scaled.
        key: (n, h*w, d).
        value: (n, h*w, d).
        by_row: (n, h*w, h), what is added to the scores of a query and all keys of a row.
        by_column: (n, h*w, w), likewise.

    Returns:
        (n, h*w, d).
    """
    n, length, _ = query.shape
    queries, keys, values, rows, columns = (memory(x) for x in (query, key, value, by_row, by_column))
    out, step = np.empty(value.shape, np.float32), min(length, max(1, GRID_SCORES_AT_ONCE // length))
    block = np.empty((step, rows.shape[-1], columns.shape[-1]), np.float32)
    for index in range(n):
        for start in range(0, length, step):
            some = slice(start, min(start + step, length))
            grid = block[: some.stop - start]
            grid[:] = columns[index, some, np.newaxis]
            grid += rows[index, some, :, np.newaxis]
            scores = grid.reshape(-1, length)
            blas.multiply(queries[index, some], keys[index].T, scores, adds=True)
            _softmax_(tensor(scores))
            blas.multiply(scores, values[index], out[index, some])
    return tensor(out)


def _softmax_(scores: Tensor) -> None:
    """Replace scores on the CPU by their softmax over the last axis."""
    if onednn.is_available():
        onednn.softmax_(scores)
        return
    values = memory(scores)
    exponentials_(values)
    np.divide(values, values.sum(axis=-1, keepdims=True), out=values)


def _softmax_values(query: Tensor, key: Tensor, value: Tensor, ones: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with all scores at once."""
    scores = paddle.matmul(query, key, transpose_y=True)
    return _weigh(scores if bias is None else add(scores, bias), value, ones)


def _weigh(scores: Tensor, value: Tensor, ones: Tensor) -> Tensor:
    """Return the softmax of scores (..., l), made in their memory, times values (..., l, d)."""
    if scores.shape[-1] >= LEAST_ROW and onednn.is_available():
        onednn.softmax_(scores)
        return paddle.matmul(scores, value)
    exponentials_(memory(scores))  # the division by a query's sum is left to the end
    out = paddle.matmul(scores, value)
    values = memory(out)
    np.divide(values, memory(paddle.matmul(scores, ones)), out=values)
    return out


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query keyᵀ) value for (n, l, dq), (n, l, dq), (n, l, dv) without materialising the scores."""
    width, depth = query.shape[-1], value.shape[-1]
    query = query * width**0.5  # the kernel divides by it
    value = functional.pad(value, [0, width - depth], data_format="NCL") if depth < width else value
    q, k, v = (x.unsqueeze(2) for x in (query, key, value))  # (n, l, 1, dq)
    return functional.scaled_dot_product_attention(q, k, v).squeeze(2)[:, :, :depth]
