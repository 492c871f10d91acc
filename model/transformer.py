"""The two-way transformer: prompt tokens attend to the image, the image attends back."""

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.layers import MLPBlock, layer_norm, linear, norm

DECODER_EPSILON = 1e-5


class Attention(nn.Layer):
    """Attention whose inner width is ``embedding_dim / downsample_rate``.

    Queries and keys may have a batch of one against a larger batch on the other side: what depends on the image alone
    is then projected once.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        internal = embedding_dim // downsample_rate
        if internal % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {internal}, got {num_heads}")
        self.q_proj = linear(embedding_dim, internal)
        self.k_proj = linear(embedding_dim, internal)
        self.v_proj = linear(embedding_dim, internal)
        self.out_proj = linear(internal, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries (B, n, C), keys and values (B, m, C) to (B, n, C); any B may be 1."""
        query, key, value = (
            self._heads(projection(x)) for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )  # each (B, heads, tokens, d)
        scores = paddle.matmul(query * query.shape[-1] ** -0.5, key, transpose_y=True)  # (B, heads, n, m)
        out = paddle.matmul(functional.softmax(scores, axis=-1), value)  # (B, heads, n, d)
        out = out.transpose([0, 2, 1, 3])  # (B, n, heads, d)
        return self.out_proj(out.reshape([out.shape[0], out.shape[1], -1]))

    def _heads(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.reshape([batch, tokens, self.num_heads, width // self.num_heads]).transpose([0, 2, 1, 3])


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
        queries = queries + self.cross_attn_token_to_image(queries + query_pe, k, keys)
        queries = layer_norm(queries, self.norm2)

        queries = layer_norm(queries + self.mlp(queries), self.norm3)

        keys = keys + self.cross_attn_image_to_token(k, queries + query_pe, queries)
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
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return layer_norm(queries + attended, self.norm_final_attn), keys
