"""MobileSAM's image encoder: TinyViT, with its batch norms folded into the convolutions.

Same numbers as the authors' code, other arrangement. Everything is (B, H, W, C), so that
1x1 convolutions are matrix products. As in `model.modeling.image_encoder` every step is written over parts that
need nothing from each other: strips of rows, with as many rows more as the convolutions in them look beyond. On a CPU a
strip's activations stay in the cache, and the strips run on a pool of threads; on a GPU there is one strip.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import SamConfig, TinyVitConfig
from model.modeling.attention import attend, cut_windows, split_heads
from model.modeling.common import linear, norm, zeros
from model.modeling.image_encoder import Neck, Parallel, Sequential
from model.modeling.kernels import Canvas, affine, convolve_last, layer_norm, permute, some_rows

STRIDES = (2, 2, 1)
"""Between one stage and the next; the last keeps its resolution, unlike in TinyViT as a classifier."""
STRIP_BYTES = 8 << 20
"""How large the widest activation of a strip may be on a CPU: it is read again before it leaves the cache."""
NORM_EPSILON = 1e-5
"""Of the layer norms inside TinyViT; those of the neck have SAM's 1e-6."""


class MBConv(nn.Layer):
    """An inverted bottleneck: to more channels, a depthwise 3x3 convolution, and back, around a shortcut."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, hidden, 1)
        self.conv2 = _convolution(hidden, hidden, 3, groups=hidden)
        self.conv3 = _convolution(hidden, channels, 1)

    def forward(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""

        def rows(first: int, last: int) -> Tensor:
            wider, inner = _halo(first, last, x.shape[1])
            y = _pointwise(some_rows(x, wider), self.conv1, then_gelu=True)
            y = convolve_last(y, self.conv2, inner, then_gelu=True)
            return _pointwise(y, self.conv3, then_gelu=True, shortcut=some_rows(x, slice(first, last)))

        return _by_rows(rows, x.shape[1], self.conv1.weight.shape[0] * x.shape[2], parallel)


class PatchMerging(nn.Layer):
    """Brings tokens to another width and, with a stride of 2, to half the resolution."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = _convolution(channels, out_channels, 1)
        self.conv2 = _convolution(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = _convolution(out_channels, out_channels, 1)

    def forward(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Map (B, H, W, C) to (B, H/stride, W/stride, out)."""
        height = x.shape[1]

        def rows(first: int, last: int) -> Tensor:
            wider, inner = _halo(first * self.stride, min(last * self.stride, height), height)
            y = _pointwise(some_rows(x, wider), self.conv1, then_gelu=True)
            y = convolve_last(y, self.conv2, inner, then_gelu=True)
            return _pointwise(y, self.conv3)

        values = self.conv1.weight.shape[0] * x.shape[2] * self.stride
        return _by_rows(rows, -(-height // self.stride), values, parallel)


class Attention(nn.Layer):
    """Multi-head attention within square windows, with a learned bias for each distance between two tokens."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.norm = norm(dim, NORM_EPSILON)
        self.qkv = linear(dim, 3 * dim)
        self.proj = linear(dim, dim)
        self.attention_biases = self.create_parameter([num_heads, window_size**2], attr=zeros())

    def prepare(self) -> None:
        """Compute, once the layer is filled, what is the same for every image.

        The bias of each pair of tokens is looked up, and query, key and value, which lie side by side for each head,
        are put one behind the other.
        """
        side, length, heads = np.arange(self.window_size), self.window_size**2, self.num_heads
        apart = np.abs(side[:, None] - side)  # (w, w)
        index = apart[:, None, :, None] * self.window_size + apart[None, :, None, :]  # (w, w, w, w)
        bias = paddle.gather(self.attention_biases, paddle.to_tensor(index.ravel()), axis=1)
        self.bias = bias.reshape([heads, length, length]).detach()
        dim = self.proj.weight.shape[0]
        weight = self.qkv.weight.reshape([dim, heads, 3, dim // heads]).transpose([0, 2, 1, 3])
        self._weight = weight.reshape([dim, 3 * dim])
        self._qkv_bias = self.qkv.bias.reshape([heads, 3, dim // heads]).transpose([1, 0, 2]).flatten()

    def forward(self, tokens: Tensor) -> Tensor:
        """Add to tokens what they find in their window: (n, w*w, C) to (n, w*w, C)."""
        heads, dim = self.num_heads, tokens.shape[-1]
        qkv = affine(layer_norm(tokens, self.norm), self._weight, self._qkv_bias)
        query, key, value = (split_heads(qkv, heads, slice(first, first + dim)) for first in (0, dim, 2 * dim))
        attended = attend(query, key, value, (dim // heads) ** -0.5, bias=self.bias)
        return affine(attended, self.proj.weight, self.proj.bias, shortcut=tokens)


class Mlp(nn.Layer):
    """The two-layer perceptron of a transformer block, with the norm before it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = norm(dim, NORM_EPSILON)
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add to (..., C) what it makes of it, (..., C)."""
        hidden = affine(layer_norm(x, self.norm), self.fc1.weight, self.fc1.bias, then_gelu=True)
        return affine(hidden, self.fc2.weight, self.fc2.bias, shortcut=x)


class TinyVitBlock(nn.Layer):
    """Attention within windows, a depthwise 3x3 convolution, a perceptron."""

    def __init__(self, dim: int, num_heads: int, window_size: int, hidden: int) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, window_size)
        self.local_conv = _convolution(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Map tokens (B, H, W, C) to tokens (B, H, W, C)."""
        batch, height, width, dim = x.shape
        side = self.attn.window_size
        down, across = -(-height // side), -(-width // side)
        padded = [batch, down * side, across * side, dim]
        if padded != x.shape:
            x = functional.pad(x, [0, padded[2] - width, 0, padded[1] - height], data_format="NHWC")
        attended = Canvas(padded, x)

        def attend_row(top: int) -> None:
            rows = (slice(None), slice(top, top + side))
            tokens = cut_windows(x, rows, [batch, 1, side, across, side, dim])
            attended.put(rows, self.attn(tokens), [batch, across, side, side, dim], [0, 2, 1, 3, 4])

        parallel.map(attend_row, range(0, height, side))

        def rest(first: int, last: int) -> Tensor:
            wider, inner = _halo(first, last, height)
            return self.mlp(convolve_last(some_rows(attended.tensor, wider)[:, :, :width], self.local_conv, inner))

        return _by_rows(rest, height, self.mlp.fc1.weight.shape[1] * width, parallel)


class Stage(nn.Layer):
    """Blocks of one resolution, and what leads to the next."""

    def __init__(self, blocks: list[nn.Layer], downsample: nn.Layer | None) -> None:
        super().__init__()
        self.blocks = nn.LayerList(blocks)
        self.downsample = downsample


class TinyVit(nn.Layer):
    """MobileSAM's image encoder.

    Raises:
        TypeError: the configuration is of another kind of encoder.
        ValueError: its embedding is not at stride 16.
    """

    def __init__(self, config: SamConfig, parallel: Parallel | None = None) -> None:
        super().__init__()
        encoder = config.image_encoder
        if not isinstance(encoder, TinyVitConfig):
            raise TypeError(f"image_encoder: expected TinyVitConfig, got {type(encoder).__name__}")
        if config.patch_size != 16:
            raise ValueError(f"expected patch_size=16, got {config.patch_size}")
        dims = encoder.embed_dims
        self._parallel: Parallel = parallel or Sequential()
        self.patch_embed = nn.Layer()
        self.patch_embed.seq = nn.Sequential(
            _convolution(3, dims[0] // 2, 3, 2), nn.GELU(), _convolution(dims[0] // 2, dims[0], 3, 2)
        )
        hidden = int(dims[0] * encoder.expand_ratio)
        stages = [[MBConv(dims[0], hidden) for _ in range(encoder.depths[0])]]
        for dim, depth, heads, window in zip(
            dims[1:], encoder.depths[1:], encoder.num_heads, encoder.window_sizes, strict=True
        ):
            stages.append([TinyVitBlock(dim, heads, window, int(dim * encoder.mlp_ratio)) for _ in range(depth)])
        merging = [*(PatchMerging(dims[i], dims[i + 1], s) for i, s in enumerate(STRIDES)), None]
        self.layers = nn.LayerList([Stage(blocks, after) for blocks, after in zip(stages, merging, strict=True)])
        self.neck = Neck(dims[-1], config.prompt_embed_dim)

    def eval(self) -> None:
        """As `nn.Layer.eval`; call it once the parameters are filled, for it also prepares the attention."""
        super().eval()
        for layer in self.sublayers():
            if isinstance(layer, Attention):
                layer.prepare()

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalised, padded image (B, 3, S, S) to its embedding (B, C, S/16, S/16)."""
        x = self._stem(x)
        for stage in self.layers:
            for block in stage.blocks:
                x = block(x, self._parallel)
            if stage.downsample is not None:
                x = stage.downsample(x, self._parallel)
        return self.neck(x, self._parallel)

    def _stem(self, x: Tensor) -> Tensor:
        """Map an image (B, 3, S, S) to (B, S/4, S/4, C)."""
        first_conv, _, second_conv = self.patch_embed.seq
        x = permute(x, [0, 2, 3, 1])
        side, middle = x.shape[1], -(-x.shape[1] // 2)

        def rows(first: int, last: int) -> Tensor:
            between, inner = _halo(2 * first, min(2 * last, middle), middle)
            needed, centres = _halo(2 * between.start, min(2 * between.stop, side), side)
            y = convolve_last(some_rows(x, needed), first_conv, centres, then_gelu=True)
            return convolve_last(y, second_conv, inner)

        return _by_rows(rows, -(-middle // 2), 2 * first_conv.weight.shape[0] * middle, self._parallel)


def _pointwise(x: Tensor, layer: nn.Conv2D, then_gelu: bool = False, shortcut: Tensor | None = None) -> Tensor:
    """Apply a 1x1 convolution to (B, H, W, C) as one matrix product."""
    weight = layer.weight.reshape(layer.weight.shape[:2]).transpose([1, 0])
    return affine(x, weight, layer.bias, then_gelu, shortcut)


def _convolution(channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2D:
    return nn.Conv2D(
        channels, out_channels, size, stride, size // 2, groups=groups, weight_attr=zeros(), bias_attr=zeros()
    )


def _by_rows(function: Callable[[int, int], Tensor], count: int, values: int, parallel: Parallel) -> Tensor:
    """Return ``function(0, count)``, made of strips.

    Args:
        function: gives the rows from ``first`` to before ``last`` of the result, (B, rows, ...).
        count: how many rows there are.
        values: numbers in a row of the widest activation.
        parallel: maps over the strips.
    """
    if parallel.parts == 1:
        return function(0, count)
    strips = -(-4 * count * values // STRIP_BYTES)
    strips = min(-(-strips // parallel.parts) * parallel.parts, count)  # as many for each thread
    edges = [count * number // strips for number in range(strips + 1)]
    parts = parallel.map(lambda span: function(*span), list(pairwise(edges)))
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=1)


def _halo(first: int, last: int, count: int) -> tuple[slice, slice]:
    """Return rows with those that a 3x3 convolution also looks at, and where the rows themselves are among them."""
    top, bottom = max(first - 1, 0), min(last + 1, count)
    return slice(top, bottom), slice(first - top, last - top)
