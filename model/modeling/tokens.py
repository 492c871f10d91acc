"""Steps on the few tokens of a prompt, with NumPy where a network runs on a CPU.

A step of Paddle takes 5 to 20 µs before it computes anything, one of NumPy 2, and a prompt takes 200 of them. Each
function here returns an array where it is given one; of tensors, which a GPU, gradients and an exported graph need, it
returns a tensor.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling import kernels
from model.modeling.blas import Floats
from model.modeling.kernels import is_on_cpu, memory, tensor

Tokens: TypeAlias = Any
"""Float32 numbers: a Tensor, or an array of NumPy, which have the same operators, ``reshape`` and ``sum``."""

LARGE_WEIGHT = 1 << 18
"""Numbers in a weight from which on Paddle's product is the faster one. NumPy's OpenBLAS copies the weight first: the
perceptron of SAM's decoder takes 2.1 ms with it and 1.2 with Paddle.
"""


def tokens_of(x: Tensor, *parameters: Tensor) -> Tokens:
    """Return a tensor's memory as an array; the tensor itself where Paddle has to compute with it or a parameter."""
    return memory(x) if is_on_cpu(x, *parameters) else x


def given(x: Tokens, *parameters: Tensor) -> Tokens:
    """Return an array as it is, or as a tensor where Paddle has to compute with a parameter."""
    return x if not isinstance(x, np.ndarray) or is_on_cpu(*parameters) else paddle.to_tensor(x)


def as_tensor(x: Tokens) -> Tensor:
    """Return a tensor, on the memory of an array."""
    return tensor(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x


def parameter(layer: nn.Layer, name: str, like: Tokens) -> Tokens:
    """Return a layer's parameter as what ``like`` is; its array, on the same memory, is kept with the layer."""
    if not isinstance(like, np.ndarray):
        return getattr(layer, name)
    kept: dict[str, Floats] = layer.__dict__.setdefault("arrays_of_parameters", {})
    if name not in kept:
        kept[name] = memory(getattr(layer, name))
    return kept[name]


def matmul(x: Tokens, y: Tokens, transpose_y: bool = False) -> Tokens:
    """Return the matrix product over the last two axes."""
    if isinstance(x, np.ndarray):
        return np.matmul(x, y.swapaxes(-1, -2) if transpose_y else y)
    return paddle.matmul(x, y, transpose_y=transpose_y)


def project(x: Tokens, layer: nn.Linear) -> Tokens:
    """Apply a linear layer: Paddle's own way to the same two steps asks for flags, which takes longer than these."""
    weight, bias = parameter(layer, "weight", x), parameter(layer, "bias", x)
    if isinstance(x, np.ndarray) and weight.size >= LARGE_WEIGHT:
        return memory(paddle.matmul(as_tensor(x), layer.weight)) + bias
    return matmul(x, weight) + bias


def relu(x: Tokens) -> Tokens:
    """Return the numbers above zero, and zero for others."""
    return np.maximum(x, np.float32(0)) if isinstance(x, np.ndarray) else functional.relu(x)


def softmax(x: Tokens) -> Tokens:
    """Return the softmax over the last axis."""
    if not isinstance(x, np.ndarray):
        return functional.softmax(x, axis=-1)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def layer_norm(x: Tokens, norm: nn.LayerNorm) -> Tokens:
    """Apply ``norm`` over the last axis."""
    if not isinstance(x, np.ndarray):
        return kernels.layer_norm(x, norm)
    count = np.float32(x.shape[-1])
    centred = x - x.sum(axis=-1, keepdims=True) / count
    variance = (centred * centred).sum(axis=-1, keepdims=True) / count
    scaled = centred / np.sqrt(variance + np.float32(norm._epsilon))
    return scaled * parameter(norm, "weight", x) + parameter(norm, "bias", x)


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
    return paddle.concat([as_tensor(part) for part in parts], axis=axis)


def repeat(x: Tokens, batch: int) -> Tokens:
    """Return (n, C) for each of a batch, (batch, n, C)."""
    if isinstance(x, np.ndarray):
        return np.broadcast_to(x, (batch, *x.shape))
    return x.unsqueeze(0).expand([batch, *x.shape])
