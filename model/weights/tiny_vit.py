"""What is special about MobileSAM's parameters: batch norms, and weights of a classifier that no mask needs."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from model.config import SamConfig, TinyVitConfig
from model.weights.tensors import FloatArray, Shape, Stored

BATCH_NORM_EPSILON = 1e-5
_UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.|.*\.(num_batches_tracked|attention_bias_idxs|ab)$")
_CONVOLUTION = ".c.weight"
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def is_unused(name: str) -> bool:
    """Whether this parameter is part of the published files and of no use: the classifier's head, counters, indexes."""
    return _UNUSED.match(name) is not None


def fold(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors with each batch norm folded into the convolution before it, as they are read.

    The authors call them ``X.c`` and ``X.bn``; ``X.weight`` and ``X.bias`` are what is left. Other names stay.

    Raises:
        ValueError: a batch norm lacks a part, or has another length than its convolution has channels.
    """
    folded = {name: value for name, value in stored.items() if ".bn." not in name and not name.endswith(_CONVOLUTION)}
    for name in stored:
        if not name.endswith(_CONVOLUTION):
            continue
        layer, convolution = name.removesuffix(_CONVOLUTION), stored[name]
        norms = {part: f"{layer}.bn.{part}" for part in _NORM_PARTS}
        for norm in norms.values():
            if norm not in stored:
                raise ValueError(f"expected parameter {norm}, got none")
            if stored[norm].shape != convolution.shape[:1]:
                raise ValueError(f"{norm}: expected shape {convolution.shape[:1]}, got {stored[norm].shape}")
        parts = {part: stored[norm] for part, norm in norms.items()}
        folded[f"{layer}.weight"] = Stored(convolution.shape, _weight(convolution, parts))
        folded[f"{layer}.bias"] = Stored(convolution.shape[:1], _bias(parts))
    return folded


def parameters(config: SamConfig, encoder: TinyVitConfig) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of the image encoder's parameters, batch norms folded."""
    dims, out = encoder.embed_dims, config.prompt_embed_dim
    yield from _convolution("patch_embed.seq.0", dims[0] // 2, 3, 3)
    yield from _convolution("patch_embed.seq.2", dims[0], dims[0] // 2, 3)
    hidden = int(dims[0] * encoder.expand_ratio)
    for block in range(encoder.depths[0]):
        yield from _bottleneck(f"layers.0.blocks.{block}", dims[0], hidden, dims[0])
    for stage, (dim, depth) in enumerate(zip(dims[1:], encoder.depths[1:], strict=True), start=1):
        for block in range(depth):
            yield from _block(f"layers.{stage}.blocks.{block}", encoder, stage, dim)
    for stage, (dim, wider) in enumerate(pairwise(dims)):
        yield from _bottleneck(f"layers.{stage}.downsample", dim, wider, wider)
    yield "image_encoder.neck.0.weight", (out, dims[-1], 1, 1)
    yield from _pair("neck.1", (out,), out)
    yield "image_encoder.neck.2.weight", (out, out, 3, 3)
    yield from _pair("neck.3", (out,), out)


def _block(name: str, encoder: TinyVitConfig, stage: int, dim: int) -> Iterator[tuple[str, Shape]]:
    heads, window = encoder.num_heads[stage - 1], encoder.window_sizes[stage - 1]
    hidden = int(dim * encoder.mlp_ratio)
    yield f"image_encoder.{name}.attn.attention_biases", (heads, window**2)
    yield from _pair(f"{name}.attn.norm", (dim,), dim)
    yield from _pair(f"{name}.attn.qkv", (dim, 3 * dim), 3 * dim)
    yield from _pair(f"{name}.attn.proj", (dim, dim), dim)
    yield from _convolution(f"{name}.local_conv", dim, 1, 3)
    yield from _pair(f"{name}.mlp.norm", (dim,), dim)
    yield from _pair(f"{name}.mlp.fc1", (dim, hidden), hidden)
    yield from _pair(f"{name}.mlp.fc2", (hidden, dim), dim)


def _bottleneck(name: str, dim: int, hidden: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield from _convolution(f"{name}.conv1", hidden, dim, 1)
    yield from _convolution(f"{name}.conv2", hidden, 1, 3)
    yield from _convolution(f"{name}.conv3", out, hidden, 1)


def _convolution(name: str, out: int, channels: int, size: int) -> Iterator[tuple[str, Shape]]:
    return _pair(name, (out, channels, size, size), out)


def _pair(name: str, shape: Shape, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"image_encoder.{name}.weight", shape
    yield f"image_encoder.{name}.bias", (width,)


def _weight(convolution: Stored, norm: Mapping[str, Stored]) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        weight = np.asarray(convolution.load(), np.float64)
        return (weight * _factor(norm).reshape([-1, *[1] * (weight.ndim - 1)])).astype(np.float32)

    return load


def _bias(norm: Mapping[str, Stored]) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        return (_read(norm["bias"]) - _read(norm["running_mean"]) * _factor(norm)).astype(np.float32)

    return load


def _factor(norm: Mapping[str, Stored]) -> npt.NDArray[np.float64]:
    """Return what a batch norm multiplies each channel by."""
    variance = _read(norm["running_var"])
    if not (variance >= 0).all():
        raise ValueError("expected variances of 0 or more in a batch norm")
    factor: npt.NDArray[np.float64] = _read(norm["weight"]) / np.sqrt(variance + BATCH_NORM_EPSILON)
    return factor


def _read(stored: Stored) -> npt.NDArray[np.float64]:
    return np.asarray(stored.load(), np.float64)
