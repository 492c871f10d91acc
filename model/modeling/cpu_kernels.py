"""Steps that Paddle's own kernels do slowly on a CPU, done with NumPy on the tensors' own memory; elsewhere by Paddle.

NumPy releases the GIL within them, uses the processor's vector instructions and writes in place. Nothing here changes
a number but for the order in which a sum is taken. Together they halve the processor time of MobileSAM's encoder.
"""

import cv2
import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling.image_encoder import convolve

BLOCK_VALUES = 1 << 16
"""Numbers in hand at a time: with what they are made of they stay in the cache."""


def is_on_cpu(x: Tensor) -> bool:
    """Whether NumPy can work on this tensor's memory."""
    return bool(x.place.is_cpu_place()) and x.dtype == paddle.float32


def add(x: Tensor, other: Tensor) -> Tensor:
    """Return ``x + other``, in the memory of ``x`` where that can be; ``other`` may be broadcast."""
    if not is_on_cpu(x):
        return x + other
    values = np.from_dlpack(x)
    np.add(values, np.from_dlpack(other.detach()), out=values)
    return x


def affine(x: Tensor, weight: Tensor, bias: Tensor, *, transpose: bool = False) -> Tensor:
    """Return ``x @ weight + bias`` over the last axis, with the weight (in, out), or (out, in) to be transposed."""
    return add(paddle.matmul(x, weight, transpose_y=transpose), bias)


def gelu(x: Tensor) -> Tensor:
    """Return the exact GELU of ``x``, in its memory where that can be, block by block."""
    if not is_on_cpu(x):
        return functional.gelu(x)
    x = x.contiguous()
    values = np.from_dlpack(x).reshape(-1)
    block = np.empty(min(BLOCK_VALUES, values.size), np.float32)
    for start in range(0, values.size, BLOCK_VALUES):
        part = values[start : start + BLOCK_VALUES]
        factor = block[: part.size]
        np.multiply(part, np.float32(0.5**0.5), out=factor)
        paddle.erf_(paddle.from_dlpack(factor))
        np.add(factor, np.float32(1), out=factor)
        np.multiply(factor, part, out=part)
        np.multiply(part, np.float32(0.5), out=part)
    return x


def attention_weights(scores: Tensor) -> Tensor:
    """Return the softmax of ``scores`` over the last axis, in their memory where that can be."""
    if not is_on_cpu(scores):
        return functional.softmax(scores, axis=-1)
    values = np.from_dlpack(scores)
    np.subtract(values, values.max(axis=-1, keepdims=True), out=values)
    np.exp(values, out=values)
    np.divide(values, values.sum(axis=-1, keepdims=True), out=values)
    return scores


def permute(x: Tensor, axes: list[int]) -> Tensor:
    """Return ``x`` with its axes in another order, in memory too; Paddle needs ten times as long beyond four axes."""
    if not is_on_cpu(x):
        return x.transpose(axes)
    return paddle.from_dlpack(np.ascontiguousarray(np.from_dlpack(x).transpose(axes)))


def depthwise_planes(x: Tensor, layer: nn.Conv2D, rows: slice) -> Tensor:
    """Apply a depthwise 3x3 convolution with padding 1 and stride 1 to planes that are large.

    OpenCV's filter takes a third of the time per number, but as long as a few thousand of them to begin each plane.

    Args:
        x: (B, C, r, W), rows of an image; where the image goes on above or below, so does ``x`` by a row.
        layer: the convolution.
        rows: the rows of ``x`` at which windows of the convolution are centred; on a GPU all.

    Returns:
        (B, C, rows, W).
    """
    if not is_on_cpu(x):
        return convolve(x, layer)
    planes = np.from_dlpack(x)
    weights, biases = layer.weight.numpy()[:, 0], layer.bias.numpy().tolist()
    out = np.empty((*planes.shape[:2], rows.stop - rows.start, planes.shape[3]), np.float32)
    filtered = np.empty(planes.shape[2:], np.float32)
    for image, result in zip(planes, out, strict=True):
        for channel, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            cv2.filter2D(image[channel], -1, weight, filtered, delta=bias, borderType=cv2.BORDER_CONSTANT)
            result[channel] = filtered[rows]
    return paddle.from_dlpack(out)


def depthwise(x: Tensor, layer: nn.Conv2D, rows: slice) -> Tensor:
    """Apply a depthwise 3x3 convolution with padding 1: nine products, added up block by block.

    Args:
        x: (B, r, W, C), rows of an image; where the image goes on above or below, so does ``x`` by a row.
        layer: the convolution.
        rows: the rows of ``x`` at which windows of the convolution are centred; on a GPU all.

    Returns:
        (B, rows/stride, W/stride, C).
    """
    if not is_on_cpu(x):
        return convolve(x.transpose([0, 3, 1, 2]), layer).transpose([0, 2, 3, 1])
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
                seen = image[down : down + stride * len(block) : stride, right : right + stride * width : stride]
                seen = seen[: len(block), :width]
                np.multiply(seen, weight, out=product if tap else block)
                np.add(block, product if tap else bias, out=block)
    return paddle.from_dlpack(out)
