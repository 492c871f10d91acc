"""The image encoder of the demo model: a convolutional trunk with global attention at its coarsest stage, in Paddle.

It stands where the Vision Transformer stands in SAM: same input, same kind of output, behind the same name
``image_encoder``. `demo_training.network` trains its torch twin; batch norms are folded into the convolutions.
"""

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import ConvConfig, SamConfig


class _LayerNorm2D(nn.Layer):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose([0, 2, 3, 1])  # (B, H, W, C)
        x = functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
        return x.transpose([0, 3, 1, 2])  # (B, C, H, W)


class ConvBlock(nn.Layer):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(width, width, 3, padding=1)
        self.conv2 = nn.Conv2D(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape it got, (B, C, H, W)."""
        return functional.relu(x + self.conv2(functional.relu(self.conv1(x))))


class _Attention(nn.Layer):
    """Global self-attention over tokens (B, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        head_size = width // self.heads
        qkv = self.qkv(x).reshape([batch, length, 3, self.heads, head_size])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # each (B, heads, L, head_size)
        weights = functional.softmax(
            paddle.matmul(q * head_size**-0.5, k, transpose_y=True), axis=-1
        )  # (B, heads, L, L)
        x = paddle.matmul(weights, v).transpose([0, 2, 1, 3])  # (B, L, heads, head_size)
        return self.proj(x.reshape([batch, length, width]))


class _Mlp(nn.Layer):
    """The feed-forward half of a transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(functional.gelu(self.lin1(x)))


class _AttnBlock(nn.Layer):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvEncoder(nn.Layer):
    """Turns an image into an embedding at stride 8.

    Raises:
        ValueError: the configuration's encoder is not a `ConvConfig`, or its embedding is not at stride 8.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        encoder = config.image_encoder
        if not isinstance(encoder, ConvConfig):
            raise ValueError(f"expected a ConvConfig, got {type(encoder).__name__}")
        if config.patch_size != 8:
            raise ValueError(f"expected patch_size=8, got {config.patch_size}")
        w4, w8, w16 = encoder.widths
        d4, d8, d16 = encoder.depths
        side = config.image_size // 16
        self.stem = nn.Sequential(
            nn.Conv2D(3, w4 // 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2D(w4 // 2, w4, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.stage4 = nn.Sequential(*[ConvBlock(w4) for _ in range(d4)])
        self.down8 = nn.Conv2D(w4, w8, 3, stride=2, padding=1)
        self.stage8 = nn.Sequential(*[ConvBlock(w8) for _ in range(d8)])
        self.down16 = nn.Conv2D(w8, w16, 3, stride=2, padding=1)
        self.stage16 = nn.Sequential(*[ConvBlock(w16) for _ in range(d16)])
        self.pos_embed = self.create_parameter([1, side, side, w16])
        self.blocks = nn.Sequential(*[_AttnBlock(w16, encoder.attn_heads) for _ in range(encoder.attn_depth)])
        self.lateral = nn.Conv2D(w16, w8, 1)
        self.fuse = nn.Sequential(*[ConvBlock(w8) for _ in range(encoder.fuse_depth)])
        self.neck = nn.Sequential(
            nn.Conv2D(w8, config.prompt_embed_dim, 1, bias_attr=False),
            _LayerNorm2D(config.prompt_embed_dim),
            nn.Conv2D(config.prompt_embed_dim, config.prompt_embed_dim, 3, padding=1, bias_attr=False),
            _LayerNorm2D(config.prompt_embed_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding of normalised, padded images.

        Args:
            x: float32 (B, 3, S, S), zero below and right of the picture.

        Returns:
            float32 (B, C, S/8, S/8).
        """
        x = self.stage4(self.stem(x))  # (B, w4, S/4, S/4)
        fine = self.stage8(functional.relu(self.down8(x)))  # (B, w8, S/8, S/8)
        coarse = self.stage16(functional.relu(self.down16(fine)))  # (B, w16, S/16, S/16)
        batch, width, height, breadth = coarse.shape
        tokens = coarse.transpose([0, 2, 3, 1]) + self.pos_embed  # (B, S/16, S/16, w16)
        tokens = self.blocks(tokens.reshape([batch, height * breadth, width]))  # (B, S/16 * S/16, w16)
        tokens = tokens.reshape([batch, height, breadth, width])
        coarse = self.lateral(tokens.transpose([0, 3, 1, 2]))  # (B, w8, S/16, S/16)
        x = functional.relu(fine + functional.interpolate(coarse, scale_factor=2, mode="nearest"))  # (B, w8, S/8, S/8)
        return self.neck(self.fuse(x))  # (B, C, S/8, S/8)
