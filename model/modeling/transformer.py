"""The two-way transformer: prompt tokens attend to the image, the image attends back."""

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.modeling.common import MLPBlock, layer_norm, linear, norm

DECODER_EPSILON = 1e-5


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
        query = self._heads(self.q_proj(q)) * self.head_dim**-0.5  # (B, heads, n, d)
        batch, heads, count, _ = query.shape
        asked = paddle.matmul(query, self._columns(self.k_proj), transpose_y=True)  # (B, heads, n, C)
        scores = paddle.matmul(asked.reshape([batch, heads * count, -1]), k, transpose_y=True)  # (B, heads*n, m)
        if not paddle.in_dynamic_mode():
            # The softmax cancels the keys' bias, but an exported graph shall hold every parameter.
            shift = paddle.matmul(query, self.k_proj.bias.reshape([heads, self.head_dim, 1]))
            scores = scores + shift.reshape([batch, heads * count, 1])
        seen = paddle.matmul(functional.softmax(scores, axis=-1), v)  # (B, heads*n, C)
        seen = seen.reshape([batch, heads, count, -1])
        values = paddle.matmul(seen, self._columns(self.v_proj))  # (B, heads, n, d)
        return self.out_proj(_together(values) + self.v_proj.bias)

    def from_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the image attend to tokens: queries (B or 1, m, C), keys and values (B, n, C) to (B, m, C)."""
        weight = self._columns(self.q_proj)
        bias = _for_all(self.q_proj.bias.reshape([self.num_heads, 1, self.head_dim]))
        key = self._heads(self.k_proj(k)) * self.head_dim**-0.5  # (B, heads, n, d)
        value = self._heads(self.v_proj(v))
        batch, heads, count, _ = key.shape
        asked = paddle.matmul(weight, key, transpose_y=True).transpose([0, 2, 1, 3])  # (B, C, heads, n)
        shift = paddle.matmul(bias, key, transpose_y=True).reshape([batch, 1, heads * count])
        scores = paddle.matmul(q, asked.reshape([batch, -1, heads * count])) + shift  # (B, m, heads*n)
        shares = functional.softmax(scores.reshape([batch, -1, heads, count]), axis=-1)
        # Each head's shares add up to one: a bias divided among the heads arrives whole.
        outward = _for_all(self.out_proj.weight.reshape([heads, self.head_dim, -1]))
        mixed = paddle.matmul(value, outward) + self.out_proj.bias / heads  # (B, heads, n, C)
        return paddle.matmul(shares.reshape([batch, -1, heads * count]), mixed.reshape([batch, heads * count, -1]))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, n, heads*d) to (B, heads, n, d)."""
        return x.reshape([x.shape[0], -1, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

    def _columns(self, projection: nn.Linear) -> Tensor:
        """The columns of a projection that make each head's part: (C, heads*d) to (1, heads, C, d)."""
        return _for_all(projection.weight.reshape([-1, self.num_heads, self.head_dim]).transpose([1, 0, 2]))


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

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, n, C) and image (B or 1, m, C) to the same, updated, both with batch B."""
        if self._skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = layer_norm(queries, self.norm1)

        k = keys + key_pe
        queries = queries + self.cross_attn_token_to_image.to_image(queries + query_pe, k, keys)
        queries = layer_norm(queries, self.norm2)

        queries = layer_norm(queries + self.mlp(queries), self.norm3)

        keys = keys + self.cross_attn_image_to_token.from_image(k, queries + query_pe, queries)
        return queries, layer_norm(keys, self.norm4)


class TwoWayTransformer(nn.Layer):
    """The body of the mask decoder."""

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.LayerList(
            [TwoWayAttentionBlock(embedding_dim, num_heads, mlp_dim, index == 0) for index in range(depth)]
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, 2)
        self.norm_final_attn = norm(embedding_dim, DECODER_EPSILON)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attend both ways.

        Args:
            image: (B or 1, m, C) image tokens with the dense prompt added.
            image_pe: (1, m, C) their positions.
            tokens: (B, n, C) output and prompt tokens.

        Returns:
            Tokens (B, n, C) and image (B, m, C).
        """
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = self.final_attn_token_to_image.to_image(queries + tokens, keys + image_pe, keys)
        return layer_norm(queries + attended, self.norm_final_attn), keys
