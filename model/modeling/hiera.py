"""SAM 2's image encoder: Hiera, a transformer of four resolutions, and the feature pyramid that brings them together.

The numbers are those of Meta's ``hieradet.py`` and ``image_encoder.py``; how the work is cut is not:

- Blocks that attend within the same windows run one after the other on a few windows at a time, which nothing else
  needs meanwhile: the tokens of a window lie side by side from the first such block to the last, and stay in cache.
  Pooling halves the windows with the grid, so that a stage's first block can be among them.
- Where the grid does not fill its last windows, only the tokens that are there are computed. Those that Meta's code
  pads with are zeros before the projection, so that what it makes of them is known.
- Two 1x1 convolutions follow each other at the two finest resolutions; they are multiplied out once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import HieraConfig, SamConfig
from model.modeling.attention import attend, cut_windows, split_heads
from model.modeling.common import MLPBlock, linear, norm, zeros
from model.modeling.image_encoder import Parallel, Sequential
from model.modeling.kernels import Canvas, add, affine, layer_norm, pool

ROWS_AT_ONCE = 8
"""Rows of tokens that patches are projected to at a time on a CPU."""
TOKENS_AT_ONCE = 2048
"""Tokens of the finest stage in hand at a time on a CPU; of the others as many as hold as many numbers."""
QUERIES_AT_ONCE = 256
"""Tokens of a block that attends over the whole grid in hand at a time on a CPU."""
PATCH, STRIDE, PADDING = 7, 4, 3


class PatchEmbed(nn.Layer):
    """Cuts the image into overlapping patches and projects each to a token."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(3, embed_dim, PATCH, STRIDE, PADDING, weight_attr=zeros(), bias_attr=zeros())

    def forward(self, x: Tensor) -> Tensor:
        """Map rows of an image that is padded already (B, 3, 4r + 3, S + 6) to (B, C, r, S/4), all of it float32."""
        weight, bias = (p.astype("float32") for p in (self.proj.weight, self.proj.bias))  # no other on a CPU
        return functional.conv2d(x, weight, bias, STRIDE)


class Attention(nn.Layer):
    """Multi-head attention whose queries may be pooled.

    Attributes:
        fused: use Paddle's fused attention kernel, which pays on a GPU in 16 bits only.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.width, self.fused = num_heads, dim_out, False
        self.scale = float((dim_out // num_heads) ** -0.5)
        self.qkv = linear(dim, 3 * dim_out)
        self.proj = linear(dim_out, dim_out)

    def prepare(self) -> None:
        """Work out, once it is filled, what is the same for every image.

        Of the biases of query, key and value, the key's changes no weight, for it adds the same to all scores of a
        query. The weights of a query add up to one, so the value's arrives whole and may as well be added last.
        """
        query, key, value = self.qkv.bias.astype("float32").reshape([3, self.width])
        last = paddle.matmul(value, self.proj.weight.astype("float32")) + self.proj.bias.astype("float32")
        dtype = self.qkv.weight.dtype
        self.first_bias = paddle.concat([query, paddle.zeros_like(key), paddle.zeros_like(value)]).astype(dtype)
        self.last_bias = last.astype(dtype)

    def project(self, tokens: Tensor) -> Tensor:
        """Return query, key and value of tokens (n, l, C), the latter two without their biases: (n, l, 3*width)."""
        return affine(tokens, self.qkv.weight, self.first_bias)

    def heads(self, qkv: Tensor, which: int) -> Tensor:
        """Return the queries (0), keys (1) or values (2) of (n, l, 3*width) by head, (n, heads, l, d)."""
        return split_heads(qkv, self.num_heads, slice(which * self.width, (which + 1) * self.width))


@dataclass(frozen=True)
class Tile:
    """Windows of equal size side by side: ``down`` by ``across`` of them, each of ``rows`` by ``columns`` tokens."""

    top: int
    left: int
    rows: int
    columns: int
    down: int
    across: int

    def where(self, shrunk: int = 1) -> tuple[slice, slice]:
        """Return rows and columns of the grid that it covers, of a grid that is ``shrunk`` as many times."""
        top, left = self.top // shrunk, self.left // shrunk
        return (
            slice(top, top + self.down * self.rows // shrunk),
            slice(left, left + self.across * self.columns // shrunk),
        )


class Block(nn.Layer):
    """A transformer block; the first of a stage makes one token of four and doubles their channels."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, mlp_ratio: float, window_size: int) -> None:
        super().__init__()
        self.window_size, self.pools = window_size, dim != dim_out
        self.norm1 = norm(dim)
        self.attn = Attention(dim, dim_out, num_heads)
        self.norm2 = norm(dim_out)
        self.mlp = MLPBlock(dim_out, int(dim_out * mlp_ratio))
        if self.pools:
            self.proj = linear(dim, dim_out)

    def within(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Attend within windows.

        Args:
            x: (n, rows*columns, C), windows or what of them lies on the grid.
            rows: of a window that lie on the grid.
            columns: likewise.

        Returns:
            (n, rows*columns, C), where it pools (n, rows*columns/4, C').
        """
        normed, attn = layer_norm(x, self.norm1), self.attn
        qkv, width = attn.project(normed), attn.width
        key, value = attn.heads(qkv, 1), attn.heads(qkv, 2)
        if self.pools:
            x = pool(affine(normed, self.proj.weight, self.proj.bias), rows, columns, width)
            qkv = pool(qkv, rows, columns, width)
        if (missing := self.window_size**2 - rows * columns) > 0:
            # What is off the grid are zeros, and their keys and values without biases are, too.
            more = paddle.zeros([len(key), attn.num_heads, missing, key.shape[-1]], dtype=key.dtype)
            key, value = paddle.concat([key, more], axis=2), paddle.concat([value, more], axis=2)
        return self._rest(x, attend(attn.heads(qkv, 0), key, value, attn.scale, attn.fused))

    def everywhere(self, x: Tensor, parallel: Parallel) -> Tensor:
        """Attend over the whole grid: (B, h, w, C) to (B, h, w, C)."""
        batch, height, breadth, width = x.shape
        length, heads = height * breadth, self.attn.num_heads
        step = length if parallel.parts == 1 else QUERIES_AT_ONCE
        tokens = x.reshape([batch, length, width])
        keys, values = (Canvas([batch, heads, length, width // heads], x) for _ in range(2))

        def project(start: int) -> Tensor:
            part = layer_norm(tokens[:, start : start + step], self.norm1)
            qkv = self.attn.project(part)
            count = part.shape[1]
            shape, here = [batch, count, heads, width // heads], slice(start, start + count)
            for canvas, first in ((keys, width), (values, 2 * width)):
                some = qkv[:, :, first : first + width]
                canvas.put((slice(None), slice(None), here), some, shape, [0, 2, 1, 3])
            return self.attn.heads(qkv, 0)

        starts = range(0, length, step)
        queries = parallel.map(project, starts)
        out = Canvas([batch, length, width], x)

        def rest(run: tuple[int, Tensor]) -> None:
            start, query = run
            attended = attend(query, keys.tensor, values.tensor, self.attn.scale, self.attn.fused)
            some = self._rest(tokens[:, start : start + step], attended)
            out.put((slice(None), slice(start, start + some.shape[1])), some, some.shape, [0, 1, 2])

        parallel.map(rest, list(zip(starts, queries, strict=True)))
        return out.tensor.reshape(x.shape)

    def _rest(self, shortcut: Tensor, attended: Tensor) -> Tensor:
        """Return the block's tokens (n, l, C), given what its attention (n, l, C) adds to the shortcut."""
        first, second = self.mlp.lin1, self.mlp.lin2
        y = affine(attended, self.attn.proj.weight, self.attn.last_bias, shortcut=shortcut)
        hidden = affine(layer_norm(y, self.norm2), first.weight, first.bias, then_gelu=True)
        return affine(hidden, second.weight, second.bias, shortcut=y)


class Trunk(nn.Layer):
    """Hiera."""

    def __init__(self, config: SamConfig, encoder: HieraConfig, parallel: Parallel) -> None:
        super().__init__()
        self._parallel, self._grid = parallel, config.image_size // STRIDE
        self._position: Tensor | None = None
        dim, heads, stage = encoder.embed_dim, encoder.num_heads, 0
        self.patch_embed = PatchEmbed(dim)
        background, window = encoder.background_size, encoder.window_sizes[0]
        self.pos_embed = self.create_parameter([1, dim, background, background], attr=zeros())
        self.pos_embed_window = self.create_parameter([1, dim, window, window], attr=zeros())
        self.blocks = nn.LayerList()
        for index in range(sum(encoder.depths)):
            window = 0 if index in encoder.global_attn_indexes else encoder.window_sizes[stage]
            starts = index in encoder.stage_starts
            stage, heads, wider = stage + starts, heads << starts, dim << starts
            self.blocks.append(Block(dim, wider, heads, encoder.mlp_ratio, window))
            dim = wider
        ends = [sum(encoder.depths[: stage + 1]) - 1 for stage in range(4)]
        self._levels = {index: level for level, index in enumerate(ends)}

    def forward(self, x: Tensor, laterals: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Map normalised images to what the pyramid takes of the four stages.

        Args:
            x: (B, 3, S, S).
            laterals: per stage, finest first, the weight (C', C) and the bias (C', 1) of a 1x1 convolution.

        Returns:
            (B, C', h, w) per stage, h and w being S/4, S/8, S/16 and S/32.
        """
        if self._position is None:  # the first image: the network is filled
            for block in self.blocks:
                block.attn.prepare()
            self._position = self.position().astype(x.dtype)
        batch, grid = x.shape[0], self._grid
        levels = [
            Canvas([batch, weight.shape[0], grid >> level, grid >> level], x)
            for level, (weight, _) in enumerate(laterals)
        ]
        x = self._embed(x, self._position)
        for run in _runs(self.blocks):
            x = self._run(run, x, levels, laterals)
        return [level.tensor for level in levels]

    def position(self) -> Tensor:
        """Return the position of each token, (1, S/4, S/4, C): a coarse map stretched, and one repeated per window."""
        side, repeated = self._grid, self._grid // self.pos_embed_window.shape[-1]
        coarse = functional.interpolate(self.pos_embed.astype("float32"), [side, side], mode="bicubic")
        fine = paddle.tile(self.pos_embed_window.astype("float32"), [1, 1, repeated, repeated])
        return (coarse + fine).transpose([0, 2, 3, 1])

    def _embed(self, x: Tensor, position: Tensor) -> Tensor:
        """Map images (B, 3, S, S) to tokens (B, S/4, S/4, C), with their positions (1, S/4, S/4, C)."""
        grid, dim = self._grid, self.pos_embed.shape[1]
        step = grid if self._parallel.parts == 1 else ROWS_AT_ONCE
        padded = functional.pad(x.astype("float32"), [PADDING] * 4)
        out = Canvas([x.shape[0], grid, grid, dim], x)

        def rows(top: int) -> None:
            bottom = min(top + step, grid)
            patches = self.patch_embed(padded[:, :, STRIDE * top : STRIDE * (bottom - 1) + PATCH])
            tokens = patches.transpose([0, 2, 3, 1]).astype(x.dtype)  # (B, r, S/4, C)
            tokens = add(tokens, position[:, top:bottom])
            out.put((slice(None), slice(top, bottom)), tokens, tokens.shape, [0, 1, 2, 3])

        self._parallel.map(rows, range(0, grid, step))
        return out.tensor

    def _run(
        self,
        run: range,
        x: Tensor,
        levels: Sequence[Canvas],
        laterals: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Apply blocks that need no other windows than each other's: (B, h, w, C) to (B, h', w', C')."""
        batch, height, breadth, _ = x.shape
        first, last = self.blocks[run[0]], self.blocks[run[-1]]
        if not first.window_size:
            x = first.everywhere(x, self._parallel)
            tile = Tile(0, 0, height, breadth, 1, 1)
            self._keep(run[0], x.reshape([batch, height * breadth, -1]), tile, 1, levels, laterals)
            return x
        shrinks = 1 << sum(self.blocks[index].pools for index in run)
        out = Canvas([batch, height // shrinks, breadth // shrinks, last.attn.width], x)

        def apply(tile: Tile) -> None:
            tokens, shrunk = _cut(x, tile), 1
            for index in run:
                block = self.blocks[index]
                tokens = block.within(tokens, tile.rows // shrunk, tile.columns // shrunk)
                shrunk <<= block.pools
                self._keep(index, tokens, tile, shrunk, levels, laterals)
            rows, columns = tile.rows // shrunk, tile.columns // shrunk
            shape = [batch, tile.down, tile.across, rows, columns, tokens.shape[-1]]
            out.put((slice(None), *tile.where(shrunk)), tokens, shape, [0, 1, 3, 2, 4, 5])

        numbers, each = TOKENS_AT_ONCE * self.blocks[0].attn.width, x.shape[-1] * first.window_size**2
        most = None if self._parallel.parts == 1 else max(1, numbers // each)
        self._parallel.map(apply, list(_tiles(height, breadth, first.window_size, most)))
        return out.tensor

    def _keep(
        self,
        index: int,
        tokens: Tensor,
        tile: Tile,
        shrunk: int,
        levels: Sequence[Canvas],
        laterals: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """Put what the pyramid takes of a tile's tokens (n, l, C) in place, if a stage ends with this block."""
        level = self._levels.get(index)
        if level is None:
            return
        weight, bias = laterals[level]
        projected = add(paddle.matmul(weight, tokens, transpose_y=True), bias)  # (n, C', l)
        rows, columns = tile.rows // shrunk, tile.columns // shrunk
        shape = [-1, tile.down, tile.across, weight.shape[0], rows, columns]
        levels[level].put((slice(None), slice(None), *tile.where(shrunk)), projected, shape, [0, 3, 1, 4, 2, 5])


class Sam2ImageEncoder(nn.Layer):
    """SAM 2's image encoder with all that the mask decoder needs of an image done by it.

    Raises:
        TypeError: the configuration is of another kind of encoder.
    """

    def __init__(self, config: SamConfig, parallel: Parallel | None = None) -> None:
        super().__init__()
        encoder = config.image_encoder
        if not isinstance(encoder, HieraConfig):
            raise TypeError(f"image_encoder: expected HieraConfig, got {type(encoder).__name__}")
        width = config.prompt_embed_dim
        self.trunk = Trunk(config, encoder, parallel or Sequential())
        self.neck = nn.Layer()
        self.neck.convs = nn.LayerList()
        for level in (3, 2, 1, 0):  # coarsest first, as Meta's code numbers them
            step = nn.Layer()
            step.conv = _pointwise(encoder.embed_dim << level, width)
            self.neck.convs.append(step)
        self.conv_s0, self.conv_s1 = _pointwise(width, width // 8), _pointwise(width, width // 4)
        self.no_mem_embed = self.create_parameter([1, 1, width], attr=zeros())
        self._laterals: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map normalised images to the maps of an embedding.

        Args:
            x: (B, 3, S, S).

        Returns:
            The image embedding (B, C, S/16, S/16), then (B, C/8, S/4, S/4) and (B, C/4, S/8, S/8).
        """
        if self._laterals is None:  # the same for every image, once the network is filled
            self._laterals = [(w.astype(x.dtype), b.astype(x.dtype)) for w, b in self.laterals()]
        finest, fine, main, coarse = self.trunk(x, self._laterals)
        batch, width, side, _ = main.shape
        cells = [batch, width, side // 2, 1, side // 2, 1]
        doubled = coarse.reshape(cells).expand([*cells[:3], 2, cells[4], 2]).reshape(main.shape)
        return main + doubled, finest, fine

    def laterals(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (C', C) and bias (C', 1) in float32 of what is taken of each stage, finest first.

        The two finest go through ``conv_s0`` and ``conv_s1`` at once; "no memory" is part of a bias.
        """
        laterals = []
        for step, after in zip(reversed(list(self.neck.convs)), (self.conv_s0, self.conv_s1, None, None), strict=True):
            weight, bias = _matrix(step.conv)
            if after is not None:
                second, second_bias = _matrix(after)
                weight, bias = paddle.matmul(second, weight), paddle.matmul(second, bias) + second_bias
            laterals.append((weight, bias))
        weight, bias = laterals[2]
        laterals[2] = weight, bias + self.no_mem_embed.astype("float32").reshape([-1, 1])
        return laterals


def _pointwise(channels: int, out_channels: int) -> nn.Conv2D:
    return nn.Conv2D(channels, out_channels, 1, weight_attr=zeros(), bias_attr=zeros())


def _matrix(layer: nn.Conv2D) -> tuple[Tensor, Tensor]:
    """Return weight (C', C) and bias (C', 1) of a 1x1 convolution."""
    weight, bias = layer.weight.astype("float32"), layer.bias.astype("float32")
    return weight.reshape(weight.shape[:2]), bias.reshape([-1, 1])


def _runs(blocks: Sequence[Block]) -> Iterator[range]:
    """Yield the blocks in runs within which the same windows, pooled or not, attend; a global block is alone."""
    start = 0
    for index in range(1, len(blocks) + 1):
        before = blocks[index - 1]
        left = before.window_size >> before.pools
        if index == len(blocks) or not left or blocks[index].window_size != left:
            yield range(start, index)
            start = index


def _tiles(height: int, breadth: int, window: int, most: int | None) -> Iterator[Tile]:
    """Yield tiles that cover a grid, of at most ``most`` windows each, None for as few tiles as there can be."""
    for top, rows, down in _spans(height, window, most and 1):
        for left, columns, across in _spans(breadth, window, most):
            yield Tile(top, left, rows, columns, down, across)


def _spans(length: int, window: int, most: int | None) -> Iterator[tuple[int, int, int]]:
    """Yield start, window's length and number of windows of runs of equal windows along one axis."""
    whole = length // window
    step = most or max(1, whole)
    for first in range(0, whole, step):
        yield first * window, window, min(step, whole - first)
    if length % window:
        yield whole * window, length % window, 1


def _cut(x: Tensor, tile: Tile) -> Tensor:
    """Return the windows of a tile of (B, h, w, C) as (B*down*across, rows*columns, C)."""
    down, across = tile.where()
    cells = [len(x), tile.down, tile.rows, tile.across, tile.columns, x.shape[-1]]
    return cut_windows(x, (slice(None), down, across), cells)
