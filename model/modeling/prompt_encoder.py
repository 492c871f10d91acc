"""The prompt encoder: points and boxes become sparse tokens, a mask becomes a dense map over the image tokens."""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import SamConfig
from model.modeling.common import embedding, norm, zeros
from model.modeling.kernels import layer_norm
from model.modeling.tokens import Tokens, concat, given, matmul, parameter, repeat, tokens_of


class PositionEmbeddingRandom(nn.Layer):
    """Positions as sines and cosines of random projections (Tancik et al. 2020, as SAM uses them)."""

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix = self.create_parameter([2, num_pos_feats], attr=zeros())

    def forward(self, coords: Tokens) -> Tokens:
        """Map (x, y) in [0, 1], shape (..., 2), to (..., 2 * num_pos_feats)."""
        directions = parameter(self, "positional_encoding_gaussian_matrix", coords)
        projected = matmul(2 * coords - 1, directions) * (2 * math.pi)
        library = np if isinstance(projected, np.ndarray) else paddle
        return concat([library.sin(projected), library.cos(projected)], axis=-1)


class MaskDownscaling(nn.Sequential):
    """Brings a mask input (B, 1, 4g, 4g) to the image tokens' grid, (B, C, g, g)."""

    def __init__(self, mask_in_chans: int, embed_dim: int) -> None:
        def conv(inputs: int, outputs: int, side: int) -> nn.Conv2D:
            return nn.Conv2D(inputs, outputs, side, side, weight_attr=zeros(), bias_attr=zeros())

        super().__init__(
            conv(1, mask_in_chans // 4, 2),
            norm(mask_in_chans // 4),
            nn.GELU(),
            conv(mask_in_chans // 4, mask_in_chans, 2),
            norm(mask_in_chans),
            nn.GELU(),
            conv(mask_in_chans, embed_dim, 1),
        )

    def forward(self, masks: Tensor) -> Tensor:
        """Map logits (B, 1, 4g, 4g) to (B, C, g, g)."""
        conv1, norm1, _, conv2, norm2, _, conv3 = self
        x = _over_channels(conv1(masks), norm1)  # (B, chans/4, 2g, 2g)
        x = _over_channels(conv2(functional.gelu(x)), norm2)  # (B, chans, g, g)
        return conv3(functional.gelu(x))


def _over_channels(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    return layer_norm(x.transpose([0, 2, 3, 1]), layer).transpose([0, 3, 1, 2])


class PromptEncoder(nn.Layer):
    """SAM's prompt encoder. Coordinates are (x, y) in pixels of the model's input."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim = config.prompt_embed_dim
        self._image_size, self._grid, self._dim = config.image_size, config.embedding_size, dim
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        self.point_embeddings = nn.LayerList([embedding(1, dim) for _ in range(4)])  # off, on, top left, bottom right
        self.not_a_point_embed = embedding(1, dim)
        self.mask_downscaling = MaskDownscaling(config.mask_in_chans, dim)
        self.no_mask_embed = embedding(1, dim)

    def image_pe(self) -> Tensor:
        """Return the positions of the image tokens, (1, g*g, C)."""
        centres = (paddle.arange(self._grid, dtype="float32") + 0.5) / self._grid
        rows = centres.unsqueeze(1).expand([self._grid, self._grid])
        columns = centres.unsqueeze(0).expand([self._grid, self._grid])
        return self.pe_layer(paddle.stack([columns, rows], axis=-1)).reshape([1, self._grid**2, self._dim])

    def points(self, coords: Tokens, labels: Tokens, pad: bool) -> Tokens:
        """Encode points.

        Args:
            coords: (B, N, 2) float32.
            labels: (B, N) float32, 1 on the object, 0 off it.
            pad: append the token that says "not a point", as SAM does where no box comes with the points.

        Returns:
            (B, N or N + 1, C).
        """
        tables = self.point_embeddings[0], self.point_embeddings[1]
        coords, labels = (given(x, *(table.weight for table in tables)) for x in (coords, labels))
        off, on = (parameter(table, "weight", coords) for table in tables)
        library = np if isinstance(coords, np.ndarray) else paddle
        marks = library.where(labels.reshape([*labels.shape, 1]) == 1, on, off)
        tokens = self._positions(coords) + marks  # (B, N, C)
        if not pad:
            return tokens
        return concat([tokens, self.nothing(tokens.shape[0])], axis=1)

    def nothing(self, batch: int) -> Tokens:
        """Return the token that says "not a point", (batch, 1, C)."""
        return repeat(tokens_of(self.not_a_point_embed.weight), batch)

    def boxes(self, boxes: Tokens) -> Tokens:
        """Encode boxes (B, 4) float32 XYXY as their two corners, (B, 2, C)."""
        tables = self.point_embeddings[2], self.point_embeddings[3]
        boxes = given(boxes, *(table.weight for table in tables))
        marks = concat([parameter(table, "weight", boxes) for table in tables])  # (2, C)
        return self._positions(boxes.reshape([-1, 2, 2])) + marks

    def dense(self, masks: Tensor | None) -> Tokens:
        """Encode mask inputs (B, 1, 4g, 4g) as (B, g*g, C); None gives the learned "no mask", (1, 1, C)."""
        if masks is None:
            return tokens_of(self.no_mask_embed.weight).reshape([1, 1, self._dim])
        return self.mask_downscaling(masks).flatten(2).transpose([0, 2, 1])

    def _positions(self, coords: Tokens) -> Tokens:
        return self.pe_layer((coords + 0.5) / self._image_size)  # + 0.5: to the centre of the pixel
