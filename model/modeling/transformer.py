"""The two-way transformer: prompt tokens attend to the image, the image attends back."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import paddle
from paddle import Tensor, nn

from model.modeling import tokens as few
from model.modeling.common import TokenMLPBlock, linear, norm
from model.modeling.image_encoder import Parallel
from model.modeling.tokens import Tokens, parameter, project

DECODER_EPSILON = 1e-5


@dataclass(frozen=True)
class ImagePart:
    """Some tokens of the image, (B or 1, p, C), and their positions, (1, p, C)."""

    image: Tokens
    position: Tokens

    @cached_property
    def with_position(self) -> Tokens:
        """Their sum, which the next layer needs once more."""
        return self.image + self.position


@dataclass(frozen=True)
class ImageProbe:
    """What image tokens are multiplied with for their scores: weight (B, heads*n, C), and shift (B, heads*n, 1)."""

    weight: Tokens
    shift: Tokens | None  # None for 0


@dataclass(frozen=True)
class TokenValues:
    """What the image attends to: keys, and values (B, heads*n, C)."""

    keys: ImageProbe
    values: Tokens


@dataclass(frozen=True)
class PartialAttention:
    """Attention of tokens to a part of the image, before it is divided by the sum of all weights.

    Attributes:
        weighted: (B, heads*n, C), the sum of values times weights.
        total: (B, heads*n, 1), the sum of weights.
        top: (B, heads*n, 1), what was subtracted from the scores to keep their exponentials within float32; None for 0.
    """

    weighted: Tokens
    total: Tokens
    top: Tokens | None

    @staticmethod
    def joined(parts: Sequence["PartialAttention"]) -> Tokens:
        """Return the attention to all parts, (B, heads*n, C)."""
        pairs = [(part.weighted, part.total) for part in parts]
        if len(parts) > 1 and any(part.top is not None for part in parts):
            tops = [part.total * 0 if part.top is None else part.top for part in parts]
            top = reduce(few.maximum, tops)
            factors = [few.exp(each - top) for each in tops]
            pairs = [(sums * factor, total * factor) for (sums, total), factor in zip(pairs, factors, strict=True)]
        return reduce(operator.add, [sums for sums, _ in pairs]) / reduce(operator.add, [total for _, total in pairs])


class Attention(nn.Layer):
    """Attention whose inner width is ``embedding_dim / downsample_rate``.

    An image has thousands of tokens, a prompt a handful. Where the image is one side, the projections of that side are
    applied to the other: ``q·(x Wk)`` is ``(q Wkᵀ)·x``, and ``softmax(…) (x Wv)`` is ``(softmax(…) x) Wv``. The numbers
    are the same, less than half of the work remains, and nothing of the image's size is taken apart into heads. A
    prompt's tokens are repeated for each head, with zeros in the channels of the others, so that the projections are
    used as they are.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self._width = embedding_dim // downsample_rate
        if self._width % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {self._width}, got {num_heads}")
        self.num_heads, self.head_dim = num_heads, self._width // num_heads
        self.q_proj = linear(embedding_dim, self._width)
        self.k_proj = linear(embedding_dim, self._width)
        self.v_proj = linear(embedding_dim, self._width)
        self.out_proj = linear(self._width, embedding_dim)
        self._own = self._channels_of_heads(1.0), self._channels_of_heads(self.head_dim**-0.5)
        self._own_arrays = [own.numpy() for own in self._own]

    def forward(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        """Let tokens attend to tokens: queries (B, n, C), keys and values (B, m, C) to (B, n, C)."""
        query = self._apart(project(q, self.q_proj), is_scaled=True)
        key, value = project(k, self.k_proj), project(v, self.v_proj)
        weights = few.softmax(few.matmul(query, key, transpose_y=True))  # (B, heads*n, m)
        return project(self._together(few.matmul(weights, value)), self.out_proj)

    def to_image(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        """Let tokens attend to the image: queries (B, n, C), keys and values (B or 1, m, C) to (B, n, C)."""
        return self.join([self.attend_to_part(self.probe(q), k, v)])

    def probe(self, q: Tokens) -> "ImageProbe":
        """Take the queries (B, n, C) of tokens to the image's own channels."""
        query = self._apart(project(q, self.q_proj), is_scaled=True)
        weight = few.matmul(query, parameter(self.k_proj, "weight", query), transpose_y=True)
        # The softmax cancels the keys' bias, but an exported graph shall hold every parameter.
        shift = None if paddle.in_dynamic_mode() else paddle.matmul(query, self.k_proj.bias.unsqueeze(1))
        return ImageProbe(weight, shift)

    def attend_to_part(self, probe: "ImageProbe", k: Tokens, v: Tokens) -> "PartialAttention":
        """Attend to a part of the image, keys and values (B or 1, p, C)."""
        scores = few.matmul(probe.weight, k, transpose_y=True)  # (B, heads*n, p)
        weights, top = few.exponentials(scores if probe.shift is None else scores + probe.shift)
        return PartialAttention(few.matmul(weights, v), few.row_sums(weights), top)

    def join(self, parts: Sequence["PartialAttention"], shift: Tokens | None = None) -> Tokens:
        """Return the attention of tokens to all parts of the image plus a ``shift`` (1, 1, C): (B, n, C)."""
        found = PartialAttention.joined(parts)
        found = found if shift is None else found + shift
        values = few.matmul(found, parameter(self.v_proj, "weight", found))  # (B, heads*n, heads*d)
        return project(self._together(values) + parameter(self.v_proj, "bias", found), self.out_proj)

    def from_image(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        """Let the image attend to tokens: queries (B or 1, m, C), keys and values (B, n, C) to (B, m, C)."""
        return self.attend_from_part(q, self.token_values(k, v))

    def token_values(self, k: Tokens, v: Tokens, shift: Tokens | None = None) -> "TokenValues":
        """Take keys and values (B, n, C) of tokens to the image's own channels.

        A ``shift`` (1, 1, C) of the image changes its attention, and is added to what that finds.
        """
        weight, bias = (parameter(self.q_proj, name, k) for name in ("weight", "bias"))
        weight, bias = weight.transpose([1, 0]), bias.reshape([-1, 1])  # first, which an exported graph needs
        key = self._apart(project(k, self.k_proj), is_scaled=True)
        value = self._apart(project(v, self.v_proj))
        # Each head's shares add up to one: what is divided among the heads arrives whole.
        out_weight, added = (parameter(self.out_proj, name, k) for name in ("weight", "bias"))
        key_weight, key_shift = few.matmul(key, weight), few.matmul(key, bias)
        if shift is not None:
            added, key_shift = added + shift, key_shift + few.matmul(key_weight, shift, transpose_y=True)
        return TokenValues(ImageProbe(key_weight, key_shift), few.matmul(value, out_weight) + added / self.num_heads)

    def attend_from_part(self, q: Tokens, tokens: "TokenValues") -> Tokens:
        """Let a part of the image attend to tokens: queries (B or 1, p, C) to (B, p, C)."""
        scores = few.add(few.matmul(tokens.keys.weight, q, transpose_y=True), tokens.keys.shift)
        batch, rows, count = scores.shape  # (B, heads*n, p)
        shares = few.softmax_rows(scores.reshape([batch, self.num_heads, -1, count])).reshape([batch, rows, count])
        return few.matmul(shares, tokens.values, transpose_x=True)

    def _apart(self, x: Tokens, *, is_scaled: bool = False) -> Tokens:
        """(B, n, heads*d) to (B, heads*n, heads*d), zero beside each head's own channels; scaled for a product."""
        repeated = x[:, np.newaxis] if isinstance(x, np.ndarray) else x.unsqueeze(1)
        return (repeated * self._channels(x, is_scaled)).reshape([x.shape[0], -1, self._width])

    def _together(self, x: Tokens) -> Tokens:
        """(B, heads*n, heads*d) to (B, n, heads*d), the own channels of each head."""
        return (x.reshape([x.shape[0], self.num_heads, -1, self._width]) * self._channels(x, False)).sum(axis=1)

    def _channels(self, like: Tokens, is_scaled: bool) -> Tokens:
        if isinstance(like, np.ndarray):
            return self._own_arrays[is_scaled]
        if paddle.in_dynamic_mode():
            return self._own[is_scaled]
        return self._channels_of_heads(self.head_dim**-0.5 if is_scaled else 1.0)  # a graph has no further constants

    def _channels_of_heads(self, value: float) -> Tensor:
        """(heads, 1, heads*d), ``value`` where a channel is the head's, zero elsewhere."""
        return (paddle.eye(self.num_heads) * value).repeat_interleave(self.head_dim, axis=1).unsqueeze(1)


class TwoWayAttentionBlock(nn.Layer):
    """Self-attention of tokens, tokens to image, MLP on tokens, image to tokens."""

    def __init__(self, embedding_dim: int, num_heads: int, mlp_dim: int, skip_first_layer_pe: bool) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = norm(embedding_dim, DECODER_EPSILON)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, 2)
        self.norm2 = norm(embedding_dim, DECODER_EPSILON)
        self.mlp = TokenMLPBlock(embedding_dim, mlp_dim)
        self.norm3 = norm(embedding_dim, DECODER_EPSILON)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, 2)
        self.norm4 = norm(embedding_dim, DECODER_EPSILON)
        self._skip_first_layer_pe = skip_first_layer_pe

    def among_tokens(self, queries: Tokens, query_pe: Tokens) -> Tokens:
        """Let tokens (B, n, C) attend to each other."""
        if self._skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        return few.layer_norm(queries, self.norm1)

    def after_image(self, queries: Tokens, attended: Tokens) -> Tokens:
        """Update tokens (B, n, C) by what their attention to the image found."""
        queries = few.layer_norm(queries + attended, self.norm2)
        return few.layer_norm(queries + self.mlp(queries), self.norm3)

    def update_image(self, tokens: TokenValues, part: ImagePart) -> ImagePart:
        """Update a part of the image by its attention to tokens; then it has their batch."""
        changes = self.cross_attn_image_to_token.attend_from_part(part.with_position, tokens)
        return ImagePart(few.layer_norm(few.add(changes, part.image), self.norm4), part.position)


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
        self,
        image: Sequence[ImagePart],
        tokens: Tokens,
        wanted: int,
        parallel: Parallel,
        shift: Tokens | None = None,
    ) -> tuple[Tokens, Sequence[ImagePart]]:
        """Attend both ways.

        The image is visited as often as tokens attend to it. A visit to a part first lets it attend to the tokens of
        the layer before, so that each visit reads a part once, and cores work on parts at the same time.

        Args:
            image: parts of the image tokens, with the dense prompt added unless it is ``shift``, and their positions.
            tokens: (B, n, C) output and prompt tokens.
            wanted: how many of the tokens, from the first, are returned; the last attention is left out for the others.
            parallel: maps over the parts.
            shift: (1, 1, C), the dense prompt where it is the same for all of the image: tokens take it into account,
                so that nothing of the image's size is added up. None for 0.

        Returns:
            Tokens (B, wanted, C) and the parts of the image (B, p, C).
        """
        queries, before = tokens, None
        for layer in self.layers:
            queries = layer.among_tokens(queries, tokens)
            image, attended = _visit(image, before, layer.cross_attn_token_to_image, queries + tokens, parallel)
            queries = layer.after_image(queries, layer.cross_attn_token_to_image.join(attended, shift))
            before = layer, layer.cross_attn_image_to_token.token_values(queries + tokens, queries, shift)
            shift = None  # from here on the image has it
            if not paddle.in_dynamic_mode():  # an exported graph uses the parameters in the order of the layers
                image, before = [layer.update_image(before[1], part) for part in image], None
        last, queries, tokens = self.final_attn_token_to_image, queries[:, :wanted], tokens[:, :wanted]
        image, attended = _visit(image, before, last, queries + tokens, parallel)
        return few.layer_norm(queries + last.join(attended), self.norm_final_attn), image


def _visit(
    image: Sequence[ImagePart],
    before: tuple[TwoWayAttentionBlock, TokenValues] | None,
    attention: Attention,
    queries: Tokens,
    parallel: Parallel,
) -> tuple[list[ImagePart], list[PartialAttention]]:
    """Let each part of the image attend to the tokens of the layer before, if any, then tokens attend to it."""
    probe = attention.probe(queries)

    def visit(part: ImagePart) -> tuple[ImagePart, PartialAttention]:
        if before is not None:
            part = before[0].update_image(before[1], part)
        return part, attention.attend_to_part(probe, part.with_position, part.image)

    results = parallel.map(visit, image)
    return [part for part, _ in results], [attended for _, attended in results]
