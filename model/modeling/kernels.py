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


def exponentials_(scores: Floats, axis: int = -1) -> Floats | None:
    """Replace scores by ``exp(scores - top)`` and return ``top``, the largest along an axis; None for 0.

    It keeps the exponentials within float32, so small scores do without it.
    """
    top = None
    if scores.max() > SAFE_SCORE or scores.min() < -SAFE_SCORE:  # much cheaper to find than the maximum of each row
        top = scores.max(axis=axis, keepdims=True)
        np.subtract(scores, top, out=scores)
    np.exp(scores, out=scores)
    return top


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
