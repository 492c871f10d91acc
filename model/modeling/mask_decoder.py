"""The mask decoder: prompt tokens and an image embedding become low-resolution masks and their predicted IoU."""

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import SamConfig
from model.modeling.common import MLP, embedding, layer_norm, norm, zeros
from model.modeling.transformer import TwoWayTransformer


class MaskDecoder(nn.Layer):
    """SAM's mask decoder over image tokens with channels last.

    The two transposed convolutions have stride = kernel = 2, so they are matrix products whose four outputs are the
    four sub-pixels. They stay in that order, channels last, until the masks are made: only those few maps are put in
    place, not the maps of features.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim = config.prompt_embed_dim
        self._grid = config.embedding_size
        self.num_mask_tokens = config.num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(
            config.decoder_depth, dim, config.decoder_num_heads, config.decoder_mlp_dim
        )
        self.iou_token = embedding(1, dim)
        self.mask_tokens = embedding(self.num_mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.Conv2DTranspose(dim, dim // 4, 2, 2, weight_attr=zeros(), bias_attr=zeros()),
            norm(dim // 4),
            nn.GELU(),
            nn.Conv2DTranspose(dim // 4, dim // 8, 2, 2, weight_attr=zeros(), bias_attr=zeros()),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.LayerList([MLP(dim, dim, dim // 8, 3) for _ in range(self.num_mask_tokens)])
        self.iou_prediction_head = MLP(dim, config.iou_head_hidden_dim, self.num_mask_tokens, config.iou_head_depth)

    def forward(self, image: Tensor, image_pe: Tensor, sparse: Tensor, outputs: list[int]) -> tuple[Tensor, Tensor]:
        """Decode a batch of prompts about one image.

        Args:
            image: (B or 1, g*g, C) image tokens with the dense prompt added.
            image_pe: (1, g*g, C) positions of the image tokens.
            sparse: (B, n, C) prompt tokens, n may be 0.
            outputs: which of the mask tokens to turn into masks; 0 is the single mask, 1.. the ambiguous ones.

        Returns:
            Logits (B, len(outputs), 4g, 4g) and predicted IoU (B, len(outputs)).
        """
        batch = sparse.shape[0]
        learned = paddle.concat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + tokens, C)
        tokens = paddle.concat([learned.unsqueeze(0).expand([batch, *learned.shape]), sparse], axis=1)
        hidden, image = self.transformer(image, image_pe, tokens)
        kernels = [self.output_hypernetworks_mlps[i](hidden[:, 1 + i]) for i in outputs]  # each (B, C/8)
        logits = self._masks(image, paddle.stack(kernels, axis=-1))
        scores = self.iou_prediction_head(hidden[:, 0])  # (B, tokens)
        return logits, paddle.stack([scores[:, i] for i in outputs], axis=1)

    def _masks(self, image: Tensor, kernels: Tensor) -> Tensor:
        """Upscale image tokens (B, g*g, C) fourfold and meet them with kernels (B, C/8, M): (B, M, 4g, 4g)."""
        first, first_norm, _, second, _ = self.output_upscaling
        x = functional.gelu(layer_norm(_quadruple(image, first), first_norm))  # (B, g*g*4, C/4)
        x = functional.gelu(_quadruple(x, second))  # (B, g*g*16, C/8)
        x = paddle.matmul(x, kernels)  # (B, g*g*16, M)
        grid, count = self._grid, kernels.shape[-1]
        x = x.reshape([-1, grid, grid, 2, 2, 2, 2, count])  # row, column, then row and column within, twice
        x = x.transpose([0, 7, 1, 3, 5, 2, 4, 6])
        return x.reshape([-1, count, 4 * grid, 4 * grid])


def _quadruple(x: Tensor, layer: nn.Conv2DTranspose) -> Tensor:
    """Apply a 2x2 transposed convolution of stride 2: (B, n, C) to (B, n*4, C'), the four in row-major order."""
    inputs, outputs = layer.weight.shape[:2]
    weight = layer.weight.transpose([0, 2, 3, 1]).reshape([inputs, 4 * outputs])
    out = paddle.matmul(x, weight).reshape([x.shape[0], -1, outputs])
    return out + layer.bias
