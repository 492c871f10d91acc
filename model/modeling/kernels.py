"""Steps of the image encoders that Paddle's own CPU kernels do slowly.

On a CPU, NumPy and OpenCV do them on the tensors' own memory, in place and block by block: they release the GIL and use
the processor's vector instructions. On a GPU and in an exported graph, Paddle does the same. Results differ only by the
order of sums.
"""

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling import blas, onednn
from model.modeling.blas import Floats

BLOCK_VALUES = 1 << 16
"""Numbers that a step works on at a time, so that they stay in the cache."""
MOST_FUSED = 512
"""Channels up to which oneDNN's matrix product with a GELU or a shortcut is faster than MKL's and both after it."""
MOST_SMALL = 1 << 10
"""Numbers, as of a few tokens, up to which Paddle does a layer norm: a call of oneDNN takes 50 µs at least."""
SCORES_AT_ONCE = 1 << 20
"""Attention scores that exist at a time: 4 MiB."""
GRID_SCORES_AT_ONCE = 1 << 21
"""The same of a whole grid's, 8 MiB: fewer products are faster, though they leave the second cache."""
MOST_KEYS = 256
"""Keys up to which oneDNN's products of strided memory are as fast as MKL's of memory in order. Those of a single query
are wrong in version 3.6 for some strides."""
LEAST_ROW = 100
"""Scores of a query from which on oneDNN's softmax is faster than NumPy's exponentials."""
SAFE_SCORE = 60.0
"""Scores up to this size have exponentials that float32 holds, and so does their sum."""


def is_on_cpu(*tensors: Tensor) -> bool:
    """Whether NumPy can work on these tensors' memory: not where Paddle has to know of it, for gradients."""
    return paddle.in_dynamic_mode() and all(
        x.stop_gradient and x.dtype == paddle.float32 and bool(x.place.is_cpu_place()) for x in tensors
    )


class _Writable:
    """The memory of an array that NumPy takes for read-only, since Paddle before 3.3 does not export that it is not."""

    def __init__(self, values: Floats) -> None:
        self._values = values  # keeps the memory
        address, _ = values.__array_interface__["data"]
        self.__array_interface__ = {**values.__array_interface__, "data": (address, False)}


def memory(x: Tensor) -> Floats:
    """Return the memory of a float32 tensor on the CPU, to read and to write."""
    values = np.asarray(np.from_dlpack(x), np.float32)
    return values if values.flags.writeable else np.asarray(_Writable(values))


def tensor(values: Floats) -> Tensor:
    """Return a tensor on this memory, or on a copy where the memory is another tensor's.

    Paddle holds a lock while it frees memory that came by DLPack, and waits for itself if that frees more of the kind.
    """
    owner = values
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return paddle.from_dlpack(values if owner.base is None else values.copy())


def add(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x + y``, on a CPU in the memory of ``x``; ``y`` may have fewer axes."""
    if not is_on_cpu(x, y):
        return x + y
    values = memory(x)
    np.add(values, memory(y.detach()), out=values)
    return x


def plus(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x + y``; Paddle takes several times as long where ``y`` is repeated."""
    return tensor(np.add(memory(x), memory(y.detach()))) if is_on_cpu(x, y) else x + y


def affine(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    then_gelu: bool = False,
    shortcut: Tensor | None = None,
    to: Floats | None = None,
) -> Tensor:
    """Return ``x @ weight + bias`` over the last axis, with a shortcut added, and its exact GELU if asked for.

    On a CPU the result is written ``to`` an array (rows, channels) where one is given; `ValueError` elsewhere.
    """
    if not is_on_cpu(x, weight, bias, *([] if shortcut is None else [shortcut])):
        if to is not None:
            raise ValueError("to: expected numbers on a CPU that want no gradients")
        y = functional.linear(x, weight, bias)
        y = y if shortcut is None else y + shortcut
        return functional.gelu(y) if then_gelu else y
    rows, shape = x.reshape([-1, x.shape[-1]]), [*x.shape[:-1], weight.shape[-1]]
    is_more = then_gelu or shortcut is not None
    if to is None and is_more and weight.shape[0] <= MOST_FUSED and onednn.is_available():
        added = None if shortcut is None else shortcut.contiguous()
        return onednn.linear(rows.contiguous(), weight, bias, then_gelu, added).reshape(shape)
    values = np.empty((rows.shape[0], shape[-1]), np.float32) if to is None else to
    if shortcut is None:
        values[:] = memory(bias)
    else:
        np.add(memory(shortcut).reshape(values.shape), memory(bias), out=values)
    blas.multiply(memory(rows), memory(weight), values, adds=True)
    y = tensor(values).reshape(shape)
    return gelu(y) if then_gelu else y


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Apply ``norm`` over the last axis in float32 whatever the dtype of ``x``: its squares overflow float16."""
    scale, shift = norm.weight, norm.bias
    if is_on_cpu(x, scale, shift) and x.size > MOST_SMALL and onednn.is_available():
        return onednn.layer_norm(x.contiguous(), scale, shift, norm._epsilon)
    if x.dtype == paddle.float32:
        return functional.layer_norm(x, x.shape[-1:], scale, shift, norm._epsilon)
    scale, shift = scale.astype("float32"), shift.astype("float32")
    return functional.layer_norm(x.astype("float32"), x.shape[-1:], scale, shift, norm._epsilon).astype(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """Return the exact GELU of ``x``, on a CPU in its memory."""
    if not is_on_cpu(x):
        return functional.gelu(x)
    x = x.contiguous()
    if onednn.is_available():
        onednn.gelu_(x)
        return x
    values = memory(x).reshape(-1)
    block: Floats = np.empty(0, np.float32)
    for start in range(0, values.size, BLOCK_VALUES):
        part = values[start : start + BLOCK_VALUES]
        if part.size != block.size:
            block = np.empty(part.size, np.float32)
            shared = tensor(block)
        np.multiply(part, np.float32(0.5**0.5), out=block)
        paddle.erf_(shared)
        np.add(block, np.float32(1), out=block)
        np.multiply(block, part, out=part)
        np.multiply(part, np.float32(0.5), out=part)
    return x


def permute(x: Tensor, axes: list[int]) -> Tensor:
    """Return ``x`` with its axes in another order, in memory too; Paddle takes ten times as long beyond four axes."""
    if not is_on_cpu(x):
        return x.transpose(axes)
    return tensor(np.ascontiguousarray(memory(x).transpose(axes)))


def pool(x: Tensor, rows: int, columns: int, width: int) -> Tensor:
    """Return the largest of every 2x2 tokens: (n, rows*columns, >= width) to (n, rows*columns/4, width)."""
    n = x.shape[0]
    cells = [n, rows // 2, 2, columns // 2, 2, width]
    if not is_on_cpu(x):
        pairs = x[:, :, :width].reshape(cells).max(axis=2)
        return pairs.max(axis=3).reshape([n, -1, width])
    values = memory(x)[:, :, :width].reshape(cells)  # splits axes: no copy
    upper = np.maximum(values[:, :, 0], values[:, :, 1])
    return tensor(np.maximum(upper[:, :, :, 0], upper[:, :, :, 1]).reshape(n, -1, width))


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
    exponentials(scores)
    values = memory(scores)
    np.divide(values, values.sum(axis=-1, keepdims=True), out=values)


def exponentials(scores: Tensor) -> tuple[Tensor, Tensor | Floats | None]:
    """Return ``exp(scores - top)``, on a CPU in the memory of ``scores``, and ``top`` (..., 1), there an array.

    It keeps the exponentials within float32; None where they are without it.
    """
    if not is_on_cpu(scores):
        top = scores.max(axis=-1, keepdim=True).detach()  # it cancels
        return paddle.exp(scores - top), top
    values, top = memory(scores), None
    if values.max() > SAFE_SCORE or values.min() < -SAFE_SCORE:  # much cheaper to find than the maximum of each row
        top = values.max(axis=-1, keepdims=True)
        np.subtract(values, top, out=values)
    np.exp(values, out=values)
    return scores, top


def row_sums(x: Tensor) -> Tensor | Floats:
    """Return the sums over the last axis, (..., 1), on a CPU an array."""
    return memory(x).sum(axis=-1, keepdims=True) if is_on_cpu(x) else x.sum(axis=-1, keepdim=True)


def softmax_rows(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis but one, on a CPU in the memory of ``scores``."""
    if not is_on_cpu(scores):
        return functional.softmax(scores, axis=-2)
    values = memory(scores)
    if values.max() > SAFE_SCORE or values.min() < -SAFE_SCORE:
        np.subtract(values, values.max(axis=-2, keepdims=True), out=values)
    np.exp(values, out=values)
    np.divide(values, values.sum(axis=-2, keepdims=True), out=values)
    return scores


def _softmax_values(query: Tensor, key: Tensor, value: Tensor, ones: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with all scores at once."""
    scores = paddle.matmul(query, key, transpose_y=True)
    return _weigh(scores if bias is None else add(scores, bias), value, ones)


def _weigh(scores: Tensor, value: Tensor, ones: Tensor) -> Tensor:
    """Return the softmax of scores (..., l), made in their memory, times values (..., l, d)."""
    if scores.shape[-1] >= LEAST_ROW and onednn.is_available():
        onednn.softmax_(scores)
        return paddle.matmul(scores, value)
    exponentials(scores)  # the division by a query's sum is left to the end
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


def convolve(x: Tensor, layer: nn.Conv2D, padding: list[int] | None = None) -> Tensor:
    """Apply ``layer`` in float32 whatever the dtype of ``x``: Paddle has no other convolution on a CPU.

    Args:
        x: (B, C, H, W).
        layer: the convolution.
        padding: above, below, at the left and at the right, instead of the layer's own.
    """
    if padding is None and x.dtype == paddle.float32:
        return layer(x)
    weight, bias = (None if p is None else p.astype("float32") for p in (layer.weight, layer.bias))
    padded = layer._padding if padding is None else padding
    return functional.conv2d(x.astype("float32"), weight, bias, layer._stride, padded).astype(x.dtype)


def convolve_rows(
    x: Tensor, layer: nn.Conv2D, first: int, last: int, above: int = 0, height: int | None = None
) -> Tensor:
    """Return the rows from ``first`` to before ``last`` that a 3x3 convolution with padding 1 gives.

    Args:
        x: (B, C, H, W), all rows of the input or at least those that are needed.
        layer: the convolution.
        first: the first row of the output.
        last: the row after its last.
        above: how many rows of the input ``x`` lacks above.
        height: rows of the input; None where ``x`` holds all.
    """
    height, stride = height or x.shape[2], layer._stride[0]
    low, high = first * stride - 1, (last - 1) * stride + 2
    rows = slice(max(low, 0) - above, min(high, height) - above)
    if not is_on_cpu(x):
        return convolve(x[:, :, rows], layer, [max(-low, 0), max(high - height, 0), 1, 1])
    strip = memory(x)[:, :, rows]
    batch, channels, count, width = strip.shape
    padded = np.zeros((batch, channels, high - low, width + 2), np.float32)
    padded[:, :, max(-low, 0) : max(-low, 0) + count, 1:-1] = strip
    whole, plane, row, number = padded.strides
    shape = batch, channels, 3, 3, last - first, (width - 1) // stride + 1
    steps = whole, plane, row, number, row * stride, number * stride
    patches = np.ascontiguousarray(np.lib.stride_tricks.as_strided(padded, shape, steps))
    patches = patches.reshape(batch, 9 * channels, -1)
    out = paddle.matmul(layer.weight.reshape([-1, 9 * channels]), tensor(patches))
    out = out if layer.bias is None else add(out, layer.bias.unsqueeze(-1))
    return out.reshape([batch, out.shape[1], last - first, -1])


def convolve_last(x: Tensor, layer: nn.Conv2D, rows: slice, then_gelu: bool = False) -> Tensor:
    """Apply a 3x3 convolution with padding 1 to maps with channels last, and GELU if asked for.

    Args:
        x: (B, r, W, C), rows of an image; where the image goes on above or below, so does ``x`` by a row.
        layer: the convolution.
        rows: the rows of ``x`` at which windows of the convolution may be centred; on a GPU all.
        then_gelu: apply GELU.

    Returns:
        (B, rows/stride, W/stride, C').
    """
    padding = 1 - rows.start, rows.stop + 1 - x.shape[1], 1, 1
    if not is_on_cpu(x):
        y = convolve(x.transpose([0, 3, 1, 2]), layer).transpose([0, 2, 3, 1])
    elif onednn.is_available():
        shapes = layer._stride[0], padding, layer._groups, then_gelu
        return onednn.convolve(x.contiguous(), layer.weight, layer.bias, *shapes)
    elif layer._groups > 1:
        y = _depthwise(x, layer, rows)
    else:
        above, below, left, right = padding
        y = convolve(permute(x, [0, 3, 1, 2]), layer, [above, below, left, right])
        y = permute(y, [0, 2, 3, 1])
    return gelu(y) if then_gelu else y


def some_rows(x: Tensor, rows: slice) -> Tensor:
    """Return some of the rows of (B, r, ...), of a single image without a copy."""
    return x[0, rows].unsqueeze(0) if x.shape[0] == 1 else x[:, rows]


def _depthwise(x: Tensor, layer: nn.Conv2D, rows: slice) -> Tensor:
    """Apply a depthwise convolution as `convolve_last` without oneDNN: nine products, added up block by block."""
    stride = layer._stride[0]
    batch, given, width, channels = x.shape
    centres = rows.stop - rows.start
    padded = np.zeros((batch, centres + 2, width + 2, channels), np.float32)
    padded[:, 1 - rows.start : 1 - rows.start + given, 1:-1] = np.from_dlpack(x)
    height, width = -(-centres // stride), -(-width // stride)
    # A factor for each number of a row, not for each channel: NumPy's loops are then as long as a row.
    taps = np.tile(layer.weight.numpy().reshape([channels, 9]).T[:, np.newaxis], (1, width, 1))  # (9, W, C)
    bias = np.tile(layer.bias.numpy(), (width, 1))
    out = np.empty((batch, height, width, channels), np.float32)
    step = max(1, BLOCK_VALUES // (width * channels))
    scratch = np.empty((step, width, channels), np.float32)
    for image, result in zip(padded, out, strict=True):
        for top in range(0, height, step):
            block = result[top : top + step]
            product = scratch[: len(block)]
            for tap, weight in enumerate(taps):
                down, right = top * stride + tap // 3, tap % 3
                shifted = image[down : down + stride * len(block) : stride, right : right + stride * width : stride]
                shifted = shifted[: len(block), :width]
                np.multiply(shifted, weight, out=product if tap else block)
                np.add(block, product if tap else bias, out=block)
    return tensor(out)


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
