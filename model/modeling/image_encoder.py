"""The image encoder: a plain Vision Transformer with windowed and global attention (ViTDet, as in the SAM paper).

Two things differ from Meta's code, neither of them in the numbers:

- The decomposed relative position of a window is part of the score product. With ``rel_h = q·Rh`` and
  ``rel_w = q·Rw``, ``[q·s, rel_h, rel_w] @ [k, onehot_h, onehot_w]ᵀ`` equals ``(q·s)@kᵀ`` plus both broadcast terms,
  and what remains is a plain softmax(QKᵀ)V that any attention kernel takes. Over the whole grid that would triple the
  product, so that a CPU adds the terms.
- Every step is written over *parts* (runs of tokens, windows, heads) that need nothing from each other, and a
  `Parallel` maps over them. Paddle's CPU kernels outside the matrix product use one core and release the GIL, so on a
  CPU the parts run on a pool of threads; on a GPU and in an exported graph there is one part.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import paddle
from paddle import Tensor, nn

from model.config import SamConfig, VitConfig
from model.modeling.attention import MOST_KEYS, attend, attend_on_grid, cut_padded_windows, put_windows
from model.modeling.blas import Floats
from model.modeling.common import MLPBlock, linear, norm, zeros
from model.modeling.kernels import affine, convolve, convolve_rows, is_on_cpu, layer_norm, memory, permute, tensor

HEADS_AT_ONCE = 4
"""Heads of a row of windows that a thread attends to at a time: enough parts for all cores to be busy to the end."""

T = TypeVar("T")
R = TypeVar("R")


class Parallel(Protocol):
    """Maps a function over independent parts of the work."""

    parts: int

    def map(self, function: Callable[[T], R], items: Sequence[T], /) -> list[R]:
        """Return ``[function(item) for item in items]``, in any order of execution."""


class Sequential:
    """One part after the other, in the calling thread: for a GPU, for an exported graph, and where others compute."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts

    def map(self, function: Callable[[T], R], items: Sequence[T], /) -> list[R]:
        """Return ``[function(item) for item in items]``."""
        return [function(item) for item in items]


class PatchEmbed(nn.Layer):
    """Cuts the image into patches and projects each to a token."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(3, embed_dim, patch_size, patch_size, weight_attr=zeros(), bias_attr=zeros())

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, 3, S, S) to tokens (B, S/patch, S/patch, C)."""
        return convolve(x, self.proj).transpose([0, 2, 3, 1])


class Attention(nn.Layer):
    """Multi-head attention over a (height, width) grid with decomposed relative position.

    Attributes:
        fused: use Paddle's fused attention kernel, which pays on a GPU in 16 bits only.
    """

    def __init__(self, dim: int, num_heads: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.input_size = num_heads, dim // num_heads, input_size
        self.fused = False
        height, width = input_size
        self.qkv = linear(dim, 3 * dim)
        self.proj = linear(dim, dim)
        self.rel_pos_h = self.create_parameter([2 * height - 1, self.head_dim], attr=zeros())
        self.rel_pos_w = self.create_parameter([2 * width - 1, self.head_dim], attr=zeros())

    def relative_positions(self) -> tuple[Tensor, Tensor]:
        """Return what queries meet along each axis, transposed: (h, d, h) and (w, d, w)."""
        tables = []
        for table, side in zip((self.rel_pos_h, self.rel_pos_w), self.input_size, strict=True):
            index = paddle.arange(side).unsqueeze(1) - paddle.arange(side).unsqueeze(0) + (side - 1)
            rows = paddle.gather(table, index.reshape([-1])).reshape([side, side, self.head_dim])
            tables.append(rows.transpose([0, 2, 1]))
        return tables[0], tables[1]

    def position_keys(self) -> Tensor:
        """Return the one-hot row and column of every key, (h*w, h + w)."""
        height, width = self.input_size
        dtype = self.qkv.weight.dtype
        rows = paddle.eye(height, dtype=dtype).unsqueeze(1).expand([height, width, height])
        columns = paddle.eye(width, dtype=dtype).unsqueeze(0).expand([height, width, width])
        return paddle.concat([rows, columns], axis=-1).reshape([height * width, height + width])

    def attend(self, qkv: Tensor, rel_h: Tensor, rel_w: Tensor, position_keys: Tensor) -> Tensor:
        """Attend within each grid.

        Args:
            qkv: (3, n, h*w, d), n grids or heads that have nothing to do with each other.
            rel_h: (h, d, h) of `relative_positions`.
            rel_w: (w, d, w) of `relative_positions`.
            position_keys: (h*w, h + w) of `position_keys`.

        Returns:
            (n, h*w, d).
        """
        height, width = self.input_size
        query, key, value = qkv[0], qkv[1], qkv[2]
        n, d = query.shape[0], self.head_dim
        grid = query.reshape([n, height, width, d])
        by_row = paddle.matmul(grid, rel_h)  # (n, h, w, h)
        by_column = permute(paddle.matmul(permute(grid, [0, 2, 1, 3]), rel_w), [0, 2, 1, 3])  # (n, h, w, w)
        by_row, by_column = (by.reshape([n, height * width, -1]) for by in (by_row, by_column))
        query = query * d**-0.5
        if not self.fused and height * width > MOST_KEYS and is_on_cpu(query, by_row, by_column):
            return attend_on_grid(query, key, value, by_row, by_column)
        query = paddle.concat([query, by_row, by_column], axis=-1)  # (n, hw, d + h + w)
        key = paddle.concat([key, position_keys.expand([n, height * width, height + width])], axis=-1)
        return attend(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), 1.0, self.fused)


class Block(nn.Layer):
    """A transformer block, attending within windows of ``window_size`` tokens or, with 0, over the whole grid."""

    def __init__(self, config: VitConfig, grid_size: int, window_size: int) -> None:
        super().__init__()
        self.grid_size, self.window_size = grid_size, window_size
        side = window_size or grid_size
        self.norm1 = norm(config.embed_dim)
        self.attn = Attention(config.embed_dim, config.num_heads, (side, side))
        self.norm2 = norm(config.embed_dim)
        self.mlp = MLPBlock(config.embed_dim, int(config.embed_dim * config.mlp_ratio))

    def forward(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Map tokens (B, g, g, C) to tokens (B, g, g, C)."""
        batch, grid, _, dim = x.shape
        tokens, count = x.reshape([-1, dim]), batch * grid * grid
        runs = _split(tokens, parallel.parts)

        def project(run: Tensor, to: Floats | None) -> Tensor:
            return affine(layer_norm(run, self.norm1), self.attn.qkv.weight, self.attn.qkv.bias, to=to)

        qkv = map_rows(project, runs, (count, 3 * dim), parallel).reshape([batch, grid, grid, 3 * dim])
        attended = self._windowed(qkv, parallel) if self.window_size else self._global(qkv, parallel)

        def rest(run: tuple[Tensor, Tensor], to: Floats | None) -> Tensor:
            shortcut, values = run
            y = affine(values, self.attn.proj.weight, self.attn.proj.bias, shortcut=shortcut)
            return self.mlp(layer_norm(y, self.norm2), shortcut=y, to=to)

        pairs = list(zip(runs, _split(attended.reshape([count, dim]), parallel.parts), strict=True))
        return map_rows(rest, pairs, (count, dim), parallel).reshape(x.shape)

    def _global(self, qkv: Tensor, parallel: Parallel) -> Tensor:
        """Attend over the whole grid: (B, g, g, 3C) to (B, g*g, C)."""
        batch, grid, _, width = qkv.shape
        heads, d = self.attn.num_heads, self.attn.head_dim
        by_head = qkv.reshape([batch, grid * grid, 3, heads, d])
        relative, keys = self.attn.relative_positions(), self.attn.position_keys()
        if parallel.parts == 1:
            part = permute(by_head, [2, 0, 3, 1, 4]).reshape([3, batch * heads, grid * grid, d])
            out = self.attn.attend(part, *relative, keys).reshape([batch, heads, grid * grid, d])
            return permute(out, [0, 2, 1, 3]).reshape([batch, grid * grid, width // 3])
        values = np.empty((batch, grid * grid, heads, d), np.float32)

        def attend(head: int) -> None:
            part = permute(by_head[:, :, :, head], [2, 0, 1, 3])  # (3, B, g*g, d)
            values[:, :, head] = memory(self.attn.attend(part, *relative, keys))

        parallel.map(attend, range(heads))
        return tensor(values).reshape([batch, grid * grid, width // 3])

    def _windowed(self, qkv: Tensor, parallel: Parallel) -> Tensor:
        """Attend within windows: (B, g, g, 3C) to (B, g, g, C).

        The grid is padded to whole windows with tokens of zeros, whose query, key and value are the bias alone: they
        are put in after the projection instead of being projected.
        """
        batch, grid, _, width = qkv.shape
        side, heads, d = self.window_size, self.attn.num_heads, self.attn.head_dim
        relative, keys = self.attn.relative_positions(), self.attn.position_keys()
        bias, by_head = self.attn.qkv.bias.reshape([3, heads, d]), qkv.reshape([batch, grid, grid, 3, heads, d])
        if not is_on_cpu(by_head, bias):
            part = self._cut(by_head, bias).reshape([3, -1, side * side, d])
            return self._put_together(self.attn.attend(part, *relative, keys), grid)
        values, padding, out = memory(by_head), memory(bias), np.empty((batch, grid, grid, heads, d), np.float32)

        def attend(item: tuple[int, int, int]) -> None:
            image, row, head = item
            rows, some = slice(row, row + side), slice(head, head + HEADS_AT_ONCE)
            part = cut_padded_windows(values[image, rows, :, :, some], padding[:, some], side)
            put_windows(self.attn.attend(part, *relative, keys), out[image, rows, :, some], side)

        items = itertools.product(range(batch), range(0, grid, side), range(0, heads, HEADS_AT_ONCE))
        parallel.map(attend, list(items))
        return tensor(out).reshape([batch, grid, grid, width // 3])

    def _cut(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Return the windows of (B, g, g, 3, heads, d), padded with (3, heads, d)."""
        batch, grid, _, _, heads, d = qkv.shape
        side = self.window_size
        count = -(-grid // side)
        padded = count * side
        if padded > grid:
            right = bias.expand([batch, grid, padded - grid, 3, heads, d])
            below = bias.expand([batch, padded - grid, padded, 3, heads, d])
            qkv = paddle.concat([paddle.concat([qkv, right], axis=2), below], axis=1)
        cells = qkv.reshape([batch, count, side, count, side, 3, heads, d])
        return cells.transpose([5, 0, 1, 3, 6, 2, 4, 7])  # (3, B, count, count, heads, side, side, d)

    def _put_together(self, windows: Tensor, grid: int) -> Tensor:
        """Undo `_cut` for what windows' heads found: (n, side*side, d) to (B, g, g, C)."""
        side, heads, d = self.window_size, self.attn.num_heads, self.attn.head_dim
        count = -(-grid // side)
        cells = windows.reshape([-1, count, count, heads, side, side, d]).transpose([0, 1, 4, 2, 5, 3, 6])
        return cells.reshape([-1, count * side, count * side, heads * d])[:, :grid, :grid]


class Neck(nn.Sequential):
    """Brings the tokens to the prompt's width: 1x1 and 3x3 convolutions, each with a layer norm over channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2D(in_channels, out_channels, 1, bias_attr=False, weight_attr=zeros()),
            norm(out_channels),
            nn.Conv2D(out_channels, out_channels, 3, padding=1, bias_attr=False, weight_attr=zeros()),
            norm(out_channels),
        )

    def forward(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Map tokens (B, g, g, C) to an embedding (B, out_channels, g, g)."""
        first, first_norm, second, second_norm = self
        weight = first.weight.reshape(first.weight.shape[:2]).transpose([1, 0])
        x = layer_norm(paddle.matmul(x, weight), first_norm).transpose([0, 3, 1, 2])  # (B, out, g, g)

        def rows(span: range) -> Tensor:
            y = convolve_rows(x, second, span.start, span.stop).transpose([0, 2, 3, 1])
            return layer_norm(y, second_norm).transpose([0, 3, 1, 2])

        return join(parallel.map(rows, _spans(x.shape[2], parallel.parts)), axis=2)  # (B, out, g, g)


class ImageEncoderViT(nn.Layer):
    """SAM's image encoder."""

    def __init__(self, config: SamConfig, parallel: Parallel | None = None) -> None:
        super().__init__()
        vit = config.image_encoder
        if not isinstance(vit, VitConfig):
            raise TypeError(f"image_encoder: expected VitConfig, got {type(vit).__name__}")
        grid = config.embedding_size
        self._parallel: Parallel = parallel or Sequential()
        self.patch_embed = PatchEmbed(config.patch_size, vit.embed_dim)
        self.pos_embed = self.create_parameter([1, grid, grid, vit.embed_dim], attr=zeros())
        self.blocks = nn.LayerList(
            [Block(vit, grid, 0 if i in vit.global_attn_indexes else vit.window_size) for i in range(vit.depth)]
        )
        self.neck = Neck(vit.embed_dim, config.prompt_embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalised, padded image (B, 3, S, S) to its embedding (B, C, S/patch, S/patch)."""
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, self._parallel)
        return self.neck(x, self._parallel)


def _spans(count: int, parts: int) -> list[range]:
    """Return the numbers below ``count`` in at most ``parts`` runs of nearly equal length."""
    step = -(-count // parts)
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def _split(x: Tensor, parts: int) -> list[Tensor]:
    """Cut ``x`` along its first axis into at most ``parts`` runs of nearly equal length."""
    if parts <= 1:
        return [x]
    step = -(-x.shape[0] // parts)
    return [x[start : start + step] for start in range(0, x.shape[0], step)]


def map_rows(
    function: Callable[[T, Floats | None], Tensor], runs: Sequence[T], shape: tuple[int, int], parallel: Parallel
) -> Tensor:
    """Return ``function(run, to)`` of the runs that `_split` makes of tokens as one tensor.

    Args:
        function: maps a run to (some tokens, channels). It writes them ``to`` their place in the result, on a CPU, or
            returns them where there is one run and no place.
        runs: at most as many as ``parallel`` has parts.
        shape: of the result, (tokens, channels).
        parallel: maps over the runs.
    """
    if len(runs) == 1:
        return function(runs[0], None)
    whole = np.empty(shape, np.float32)
    places = [whole[span.start : span.stop] for span in _spans(shape[0], parallel.parts)]
    parallel.map(lambda index: function(runs[index], places[index]), range(len(runs)))
    return tensor(whole)


def join(parts: list[Tensor], axis: int) -> Tensor:
    """Return the parts as one tensor again."""
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=axis)
