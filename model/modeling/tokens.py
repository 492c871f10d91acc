"""Steps on the tokens of a prompt and of an image, on arrays where a network runs on a CPU.

A step of Paddle takes 5 to 20 µs before it computes anything, one of NumPy 2, and a prompt takes hundreds. Each
function here returns an array where it is given one; of tensors, which a GPU, gradients and an exported graph need, it
returns a tensor. What an image has many of, MKL and oneDNN compute, where Paddle carries them.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling import blas, kernels, onednn
from model.modeling.blas import Floats
from model.modeling.kernels import is_on_cpu, memory, tensor

Tokens: TypeAlias = Any
"""Float32 numbers: a Tensor, or an array of NumPy, which have the same operators, ``reshape`` and ``sum``."""

LARGE = 1 << 16
"""Numbers in a factor of a product from which on MKL is the faster one. NumPy's OpenBLAS copies the factor first: the
perceptron of SAM's decoder takes 2.1 ms with it and 1.2 with MKL.
"""


def tokens_of(x: Tensor, *parameters: Tensor) -> Tokens:
    """Return a tensor's memory as an array; the tensor itself where Paddle has to compute with it or a parameter."""
    return memory(x) if is_on_cpu(x, *parameters) else x


def given(x: Tokens, *parameters: Tensor) -> Tokens:
    """Return an array as it is, or as a tensor where Paddle has to compute with a parameter."""
    return x if not isinstance(x, np.ndarray) or is_on_cpu(*parameters) else copied(x)


def copied(x: Tokens) -> Tensor:
    """Return a tensor, of an array a copy, for what may take gradients.

    Paddle holds a lock while it frees an array's own memory, and NumPy wants the GIL for it. Where gradients are
    computed, Paddle frees without the GIL, so that a thread with the GIL that waits for the lock would wait for ever.
    """
    return paddle.to_tensor(x) if isinstance(x, np.ndarray) else x


def as_tensor(x: Tokens) -> Tensor:
    """Return a tensor, on the memory of an array; not for what takes gradients, see `copied`."""
    return tensor(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x


def as_array(x: Tokens) -> Floats:
    """Return an array, of a tensor a copy."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.numpy(), np.float32)


def alike(x: Tokens, like: Tokens) -> Tokens:
    """Return numbers as what ``like`` is, an array on the same memory or a tensor."""
    if isinstance(like, np.ndarray):
        return x if isinstance(x, np.ndarray) else memory(x)
    return copied(x)


def parameter(layer: nn.Layer, name: str, like: Tokens) -> Tokens:
    """Return a layer's parameter as what ``like`` is; its array, on the same memory, is kept with the layer."""
    if not isinstance(like, np.ndarray):
        return getattr(layer, name)
    kept: dict[str, Floats] = layer.__dict__.setdefault("arrays_of_parameters", {})
    if name not in kept:
        kept[name] = memory(getattr(layer, name))
    return kept[name]


def matmul(x: Tokens, y: Tokens, transpose_x: bool = False, transpose_y: bool = False) -> Tokens:
    """Return the matrix product over the last two axes: (B or 1, n, k) or (n, k), and (B or 1, k, m) or (k, m)."""
    if not isinstance(x, np.ndarray):
        return paddle.matmul(x, y, transpose_x=transpose_x, transpose_y=transpose_y)
    x, y = x.swapaxes(-1, -2) if transpose_x else x, y.swapaxes(-1, -2) if transpose_y else y
    if x.size < LARGE and y.size < LARGE:
        return np.matmul(x, y)
    if x.ndim == y.ndim == 2:
        return blas.product(x, y)
    y = y if y.ndim == 3 else y[np.newaxis]
    out = np.empty((max(len(x), len(y)), x.shape[1], y.shape[2]), np.float32)
    for index, each in enumerate(out):
        blas.multiply(x[min(index, len(x) - 1)], y[min(index, len(y) - 1)], each)
    return out


def project(x: Tokens, layer: nn.Linear) -> Tokens:
    """Apply a linear layer: Paddle's own way to the same two steps asks for flags, which takes longer than these."""
    return matmul(x, parameter(layer, "weight", x)) + parameter(layer, "bias", x)


def affine(x: Tokens, weight: Tokens, bias: Tokens, then_gelu: bool = False) -> Tokens:
    """Return ``x @ weight + bias``, and its exact GELU if asked for: (B, n, C), (C, C') and (C',) to (B, n, C')."""
    if not isinstance(x, np.ndarray):
        return kernels.affine(x, weight, bias, then_gelu)
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    if then_gelu and onednn.is_available():
        y = onednn.linear(rows, weight, bias, gelu=True)
    else:
        y = np.empty((len(rows), weight.shape[1]), np.float32)
        y[:] = bias
        blas.multiply(rows, weight, y, adds=True)
        y = gelu(y) if then_gelu else y
    return y.reshape(*x.shape[:-1], -1)


def add(x: Tokens, y: Tokens) -> Tokens:
    """Return ``x + y``, of arrays in the memory of ``x``."""
    return np.add(x, y, out=x) if isinstance(x, np.ndarray) else x + y


def gelu(x: Tokens) -> Tokens:
    """Return the exact GELU, of arrays in their memory."""
    if not isinstance(x, np.ndarray):
        return kernels.gelu(x)
    if onednn.is_available():
        onednn.gelu_(x)
        return x
    return memory(kernels.gelu(tensor(x)))


def relu(x: Tokens) -> Tokens:
    """Return the numbers above zero, and zero for others."""
    return np.maximum(x, np.float32(0)) if isinstance(x, np.ndarray) else functional.relu(x)


def softmax(x: Tokens) -> Tokens:
    """Return the softmax over the last axis."""
    if not isinstance(x, np.ndarray):
        return functional.softmax(x, axis=-1)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def softmax_rows(scores: Tokens) -> Tokens:
    """Return the softmax over the last axis but one, of arrays in their memory."""
    if not isinstance(scores, np.ndarray):
        return functional.softmax(scores, axis=-2)
    kernels.exponentials_(scores, axis=-2)
    return np.divide(scores, scores.sum(axis=-2, keepdims=True), out=scores)


def exponentials(scores: Tokens) -> tuple[Tokens, Tokens | None]:
    """Return ``exp(scores - top)``, of arrays in their memory, and ``top`` (..., 1), None for 0.

    It keeps the exponentials within float32, so arrays of small numbers do without it.
    """
    if isinstance(scores, np.ndarray):
        return scores, kernels.exponentials_(scores)
    top = scores.max(axis=-1, keepdim=True).detach()  # it cancels
    return paddle.exp(scores - top), top


def row_sums(x: Tokens) -> Tokens:
    """Return the sums over the last axis, (..., 1)."""
    return x.sum(axis=-1, keepdims=True) if isinstance(x, np.ndarray) else x.sum(axis=-1, keepdim=True)


def layer_norm(x: Tokens, norm: nn.LayerNorm) -> Tokens:
    """Apply ``norm`` over the last axis."""
    if not isinstance(x, np.ndarray):
        return kernels.layer_norm(x, norm)
    scale, shift = parameter(norm, "weight", x), parameter(norm, "bias", x)
    if x.size > kernels.MOST_SMALL and onednn.is_available():
        return onednn.layer_norm(np.ascontiguousarray(x), scale, shift, norm._epsilon)
    count = np.float32(x.shape[-1])
    centred = x - x.sum(axis=-1, keepdims=True) / count
    variance = (centred * centred).sum(axis=-1, keepdims=True) / count
    return centred / np.sqrt(variance + np.float32(norm._epsilon)) * scale + shift


def exp(x: Tokens) -> Tokens:
    """Return the exponentials."""
    return np.exp(x) if isinstance(x, np.ndarray) else paddle.exp(x)


def maximum(x: Tokens, y: Tokens) -> Tokens:
    """Return the larger of each two numbers."""
    return np.maximum(x, y) if isinstance(x, np.ndarray) else paddle.maximum(x, y)


def concat(parts: Sequence[Tokens], axis: int = 0) -> Tokens:
    """Join along an axis: an array where all parts are arrays."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis=axis)
    return paddle.concat([copied(part) for part in parts], axis=axis)


def some_rows(x: Tokens, rows: slice) -> Tokens:
    """Return some of the rows of (B, r, ...), of a single image without a copy."""
    return x[:, rows] if isinstance(x, np.ndarray) else kernels.some_rows(x, rows)


def repeat(x: Tokens, batch: int) -> Tokens:
    """Return (n, C) for each of a batch, (batch, n, C)."""
    if isinstance(x, np.ndarray):
        return np.broadcast_to(x, (batch, *x.shape))
    return x.unsqueeze(0).expand([batch, *x.shape])
