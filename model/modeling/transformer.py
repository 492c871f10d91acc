"""The two-way transformer: prompt tokens attend to the image, the image attends back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling.common import MLPBlock, linear, norm
from model.modeling.image_encoder import Parallel
from model.modeling.kernels import add, exponentials, layer_norm, row_sums, softmax_rows

DECODER_EPSILON = 1e-5

ImagePart: TypeAlias = tuple[Tensor, Tensor]
"""Some tokens of the image, (B or 1, p, C), and their positions, (1, p, C)."""


@dataclass(frozen=True)
class ImageProbe:
    """What image tokens are multiplied with for their scores: weight (B, heads*n, C), and shift (B, heads*n, 1)."""

    weight: Tensor
    shift: Tensor


@dataclass(frozen=True)
class TokenValues:
    """What the image attends to: keys, and values (B, heads*n, C)."""

    keys: ImageProbe
    values: Tensor


@dataclass(frozen=True)
class PartialAttention:
    """Attention of tokens to a part of the image, before it is divided by the sum of all weights.

    Attributes:
        seen: (B, heads*n, C), the sum of values times weights.
        total: (B, heads*n, 1), the sum of weights.
        top: (B, heads*n, 1), what was subtracted from the scores to keep their exponentials within float32; None for 0.
    """

    seen: Tensor
    total: Tensor
    top: Tensor | None

    @staticmethod
    def joined(parts: Sequence["PartialAttention"]) -> Tensor:
        """Return the attention to all parts, (B, heads*n, C)."""
        pairs = [(part.seen, part.total) for part in parts]
        if len(parts) > 1 and any(part.top is not None for part in parts):
            tops = [paddle.zeros_like(part.total) if part.top is None else part.top for part in parts]
            top = paddle.stack(tops).max(axis=0)
            factors = [paddle.exp(each - top) for each in tops]
            pairs = [(seen * factor, total * factor) for (seen, total), factor in zip(pairs, factors, strict=True)]
        return paddle.add_n([seen for seen, _ in pairs]) / paddle.add_n([total for _, total in pairs])


class Attention(nn.Layer):
    """Attention whose inner width is ``embedding_dim / downsample_rate``.

    An image has thousands of tokens, a prompt a handful. Where the image is one side, the projections of that side are
    applied to the other: ``q·(x Wk)`` is ``(q Wkᵀ)·x``, and ``softmax(…) (x Wv)`` is ``(softmax(…) x) Wv``. The numbers
    are the same, less than half of the work remains, and nothing of the image's size is taken apart into heads.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        internal = embedding_dim // downsample_rate
        if internal % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {internal}, got {num_heads}")
        self.num_heads, self.head_dim = num_heads, internal // num_heads
        self.q_proj = linear(embedding_dim, internal)
        self.k_proj = linear(embedding_dim, internal)
        self.v_proj = linear(embedding_dim, internal)
        self.out_proj = linear(internal, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let tokens attend to tokens: queries (B, n, C), keys and values (B, m, C) to (B, n, C)."""
        query, key, value = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        scores = paddle.matmul(query * self.head_dim**-0.5, key, transpose_y=True)  # (B, heads, n, m)
        return self.out_proj(_together(paddle.matmul(functional.softmax(scores, axis=-1), value)))

    def to_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let tokens attend to the image: queries (B, n, C), keys and values (B or 1, m, C) to (B, n, C)."""
        return self.join([self.attend_to_part(self.probe(q), k, v)])

    def probe(self, q: Tensor) -> "ImageProbe":
        """Take the queries (B, n, C) of tokens to the image's own channels."""
        query = self._heads(self.q_proj(q))
        return self._probe(query, self._columns(self.k_proj), self._bias(self.k_proj))

    def attend_to_part(self, probe: "ImageProbe", k: Tensor, v: Tensor) -> "PartialAttention":
        """Attend to a part of the image, keys and values (B or 1, p, C)."""
        scores = paddle.matmul(probe.weight, k, transpose_y=True)  # (B, heads*n, p)
        if not paddle.in_dynamic_mode():
            # The softmax cancels the keys' bias, but an exported graph shall hold every parameter.
            scores = scores + probe.shift
        weights, top = exponentials(scores)
        return PartialAttention(paddle.matmul(weights, v), row_sums(weights), top)

    def join(self, parts: Sequence["PartialAttention"]) -> Tensor:
        """Return the attention of tokens to all parts of the image, (B, n, C)."""
        seen = PartialAttention.joined(parts)  # (B, heads*n, C)
        seen = seen.reshape([seen.shape[0], self.num_heads, -1, seen.shape[-1]])
        values = paddle.matmul(seen, self._columns(self.v_proj))  # (B, heads, n, d)
        return self.out_proj(_together(values) + self.v_proj.bias)

    def from_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the image attend to tokens: queries (B or 1, m, C), keys and values (B, n, C) to (B, m, C)."""
        return self.attend_from_part(q, self.token_values(k, v))

    def token_values(self, k: Tensor, v: Tensor) -> "TokenValues":
        """Take keys and values (B, n, C) of tokens to the image's own channels."""
        weight, bias = self._columns(self.q_proj), self._bias(self.q_proj)
        keys = self._probe(self._heads(self.k_proj(k)), weight, bias)
        value = self._heads(self.v_proj(v))
        batch, heads, count, _ = value.shape
        # Each head's shares add up to one: a bias divided among the heads arrives whole.
        outward = _for_all(self.out_proj.weight.reshape([heads, self.head_dim, -1]))
        mixed = paddle.matmul(value, outward) + self.out_proj.bias / heads  # (B, heads, n, C)
        return TokenValues(keys, mixed.reshape([batch, heads * count, -1]))

    def attend_from_part(self, q: Tensor, tokens: "TokenValues") -> Tensor:
        """Let a part of the image attend to tokens: queries (B or 1, p, C) to (B, p, C)."""
        scores = add(paddle.matmul(tokens.keys.weight, q, transpose_y=True), tokens.keys.shift)
        batch, rows, count = scores.shape  # (B, heads*n, p)
        shares = softmax_rows(scores.reshape([batch, self.num_heads, -1, count])).reshape([batch, rows, count])
        return paddle.matmul(shares, tokens.values, transpose_x=True)

    def _probe(self, x: Tensor, weight: Tensor, bias: Tensor) -> "ImageProbe":
        """Take tokens by head (B, heads, n, d) through a projection: (1, heads, C, d) and (1, heads, d, 1)."""
        x = x * self.head_dim**-0.5
        batch, heads, count, _ = x.shape
        outward = paddle.matmul(x, weight, transpose_y=True).reshape([batch, heads * count, -1])
        shift = paddle.matmul(x, bias).reshape([batch, heads * count, 1])
        return ImageProbe(outward, shift)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, n, heads*d) to (B, heads, n, d)."""
        return x.reshape([x.shape[0], -1, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

    def _columns(self, projection: nn.Linear) -> Tensor:
        """The columns of a projection that make each head's part: (C, heads*d) to (1, heads, C, d)."""
        return _for_all(projection.weight.reshape([-1, self.num_heads, self.head_dim]).transpose([1, 0, 2]))

    def _bias(self, projection: nn.Linear) -> Tensor:
        """The bias of a projection by head: (heads*d,) to (1, heads, d, 1)."""
        return _for_all(projection.bias.reshape([self.num_heads, self.head_dim, 1]))


def _for_all(x: Tensor) -> Tensor:
    """(heads, ...) to (1, heads, ...), for all of a batch: Paddle has no gradient of a product of 3 axes with 4.

    Not in an exported graph, where Paddle takes the 1 for the batch's size.
    """
    return x.unsqueeze(0) if paddle.in_dynamic_mode() else x


def _together(x: Tensor) -> Tensor:
    """(B, heads, n, d) to (B, n, heads*d)."""
    batch, heads, count, width = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([batch, count, heads * width])


class TwoWayAttentionBlock(nn.Layer):
    """Self-attention of tokens, tokens to image, MLP on tokens, image to tokens."""

    def __init__(self, embedding_dim: int, num_heads: int, mlp_dim: int, skip_first_layer_pe: bool) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = norm(embedding_dim, DECODER_EPSILON)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, 2)
        self.norm2 = norm(embedding_dim, DECODER_EPSILON)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, "relu")
        self.norm3 = norm(embedding_dim, DECODER_EPSILON)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, 2)
        self.norm4 = norm(embedding_dim, DECODER_EPSILON)
        self._skip_first_layer_pe = skip_first_layer_pe

    def among_tokens(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """Let tokens (B, n, C) attend to each other."""
        if self._skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        return layer_norm(queries, self.norm1)

    def after_image(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Update tokens (B, n, C) by what their attention to the image found."""
        queries = layer_norm(queries + attended, self.norm2)
        return layer_norm(queries + self.mlp(queries), self.norm3)

    def update_image(self, tokens: TokenValues, part: ImagePart) -> ImagePart:
        """Update a part of the image by its attention to tokens; then it has their batch."""
        image, position = part
        changes = self.cross_attn_image_to_token.attend_from_part(image + position, tokens)
        return layer_norm(add(changes, image), self.norm4), position


class TwoWayTransformer(nn.Layer):
    """The body of the mask decoder."""

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.LayerList(
            [TwoWayAttentionBlock(embedding_dim, num_heads, mlp_dim, index == 0) for index in range(depth)]
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, 2)
        self.norm_final_attn = norm(embedding_dim, DECODER_EPSILON)

    def forward(
        self, image: Sequence[ImagePart], tokens: Tensor, parallel: Parallel
    ) -> tuple[Tensor, Sequence[ImagePart]]:
        """Attend both ways.

        The image is visited as often as tokens attend to it. A visit to a part first lets it attend to the tokens of
        the layer before, so that each visit reads a part once, and cores work on parts at the same time.

        Args:
            image: parts of the image tokens, with the dense prompt added, and their positions.
            tokens: (B, n, C) output and prompt tokens.
            parallel: maps over the parts.

        Returns:
            Tokens (B, n, C) and the parts of the image (B, p, C).
        """
        queries, before = tokens, None
        for layer in self.layers:
            queries = layer.among_tokens(queries, tokens)
            image, attended = _visit(image, before, layer.cross_attn_token_to_image, queries + tokens, parallel)
            queries = layer.after_image(queries, layer.cross_attn_token_to_image.join(attended))
            before = layer, layer.cross_attn_image_to_token.token_values(queries + tokens, queries)
            if not paddle.in_dynamic_mode():  # an exported graph uses the parameters in the order of the layers
                image, before = [layer.update_image(before[1], part) for part in image], None
        last = self.final_attn_token_to_image
        image, attended = _visit(image, before, last, queries + tokens, parallel)
        return layer_norm(queries + last.join(attended), self.norm_final_attn), image


def _visit(
    image: Sequence[ImagePart],
    before: tuple[TwoWayAttentionBlock, TokenValues] | None,
    attention: Attention,
    queries: Tensor,
    parallel: Parallel,
) -> tuple[list[ImagePart], list[PartialAttention]]:
    """Let each part of the image attend to the tokens of the layer before, if any, then tokens attend to it."""
    probe = attention.probe(queries)

    def visit(part: ImagePart) -> tuple[ImagePart, PartialAttention]:
        if before is not None:
            part = before[0].update_image(before[1], part)
        return part, attention.attend_to_part(probe, part[0] + part[1], part[0])

    found = parallel.map(visit, image)
    return [part for part, _ in found], [attended for _, attended in found]
