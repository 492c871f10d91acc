"""The mask decoder: prompt tokens and an image embedding become low-resolution masks and their predicted IoU."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from model.config import SamConfig
from model.modeling.common import MLP, embedding, norm, zeros
from model.modeling.image_encoder import Parallel, Sequential
from model.modeling.tokens import (
    Tokens,
    add,
    affine,
    alike,
    as_tensor,
    concat,
    gelu,
    given,
    layer_norm,
    matmul,
    parameter,
    repeat,
    some_rows,
    tokens_of,
)
from model.modeling.transformer import ImagePart, TwoWayTransformer

MOST_PARTS = 4
"""Parts of the image that cores work on at a time; smaller ones cost more than they save."""
STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98
"""How far from zero a mask is cut to see whether it is stable, and the share of its area that must stay."""


class MaskDecoder(nn.Layer):
    """SAM's mask decoder over image tokens with channels last: arrays or tensors, see `model.modeling.tokens`.

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

    def forward(
        self,
        image: Tokens,
        image_pe: Tokens,
        sparse: Tokens,
        outputs: list[int],
        *,
        dense: Tokens | None = None,
        parallel: Parallel | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Decode a batch of prompts about one image.

        Args:
            image: (B or 1, g*g, C) image tokens with the dense prompt added.
            image_pe: (1, g*g, C) positions of the image tokens.
            sparse: (B, n, C) prompt tokens, n may be 0.
            outputs: consecutive mask tokens to turn into masks; 0 is the single mask, 1.. the ambiguous ones.
            dense: (B or 1, g*g or 1, C), the dense prompt where ``image`` is without it.
            parallel: maps over parts of the image; None for one part.

        Returns:
            Logits (B, len(outputs), 4g, 4g) and predicted IoU (B, len(outputs)); arrays where ``image`` is one, unless
            they want gradients.
        """
        parallel = parallel or Sequential()
        spans = self._spans(parallel)
        learned = [self.iou_token, self.mask_tokens]
        hidden, parts = self._attended(image, image_pe, sparse, learned, outputs, dense, spans, parallel)
        logits, scores = self._predicted(hidden, parts, outputs, spans, parallel)
        return _as_given(logits, image), _as_given(scores, image)

    def _spans(self, parallel: Parallel) -> list[slice]:
        """Return the parts of the image tokens, in whole rows."""
        grid = self._grid
        rows = -(-grid // min(parallel.parts, MOST_PARTS))
        return [slice(grid * row, grid * min(row + rows, grid)) for row in range(0, grid, rows)]

    def _attended(
        self,
        image: Tokens,
        image_pe: Tokens,
        sparse: Tokens,
        learned: Sequence[nn.Embedding],
        outputs: list[int],
        dense: Tokens | None,
        spans: Sequence[slice],
        parallel: Parallel,
    ) -> tuple[Tokens, list[Tokens]]:
        """Return what the transformer makes of the learned tokens, up to the last of ``outputs``, and of the image's.

        The mask tokens are the last of the learned ones.
        """
        weights = [table.weight for table in learned]
        sparse = given(sparse, *weights) if isinstance(sparse, np.ndarray) else tokens_of(sparse, *weights)
        tables = concat([parameter(table, "weight", sparse) for table in learned])  # (1 or 2 + mask tokens, C)
        tokens = concat([repeat(tables, sparse.shape[0]), sparse], axis=1)
        image, image_pe = alike(image, tokens), alike(image_pe, tokens)
        shift = None
        if dense is not None:
            dense = alike(dense, tokens)
            shift, image = (dense, image) if dense.shape[1] == 1 else (None, image + dense)
        parts = [ImagePart(some_rows(image, span), some_rows(image_pe, span)) for span in spans]
        wanted = len(learned) + outputs[-1]
        hidden, parts = self.transformer(parts, tokens, wanted, parallel, shift)
        return hidden, [part.image for part in parts]

    def _predicted(
        self,
        hidden: Tokens,
        parts: Sequence[Tokens],
        outputs: list[int],
        spans: Sequence[slice],
        parallel: Parallel,
        *skips: Tokens,
    ) -> tuple[Tokens, Tokens]:
        """Return logits and predicted IoU of the ``outputs``, given tokens that begin with the IoU's and the masks'."""
        rows = [self.output_hypernetworks_mlps[i](hidden[:, 1 + i : 2 + i]) for i in outputs]
        kernels = concat(rows, axis=1)  # (B, M, C/8)
        scores = self.iou_prediction_head(hidden[:, 0])  # (B, tokens)
        skips = tuple(alike(skip, kernels) for skip in skips)

        def upscale(index: int) -> Tokens:
            own = []
            if skips:
                start, stop = spans[index].start, spans[index].stop
                own = [
                    some_rows(skips[0], slice(4 * start, 4 * stop)),
                    some_rows(skips[1], slice(16 * start, 16 * stop)),
                ]
            return self._masks(parts[index], kernels, own)

        masks = parallel.map(upscale, range(len(parts)))
        logits = masks[0] if len(masks) == 1 else concat(masks, axis=2)
        return logits, scores[:, outputs[0] : outputs[-1] + 1]

    def _masks(self, image: Tokens, kernels: Tokens, skips: Sequence[Tokens]) -> Tokens:
        """Upscale rows of image tokens (B, r*g, C) fourfold and multiply with kernels (B, M, C/8): (B, M, 4r, 4g).

        ``skips`` are what SAM 2 adds instead of the two steps' biases: (1, r*g*4, C/4) and (1, r*g*16, C/8).
        """
        first, first_norm, _, second, _ = self.output_upscaling
        x = gelu(layer_norm(_quadruple(image, first, skips[0] if skips else None), first_norm))  # (B, r*g*4, C/4)
        x = _quadruple(x, second, skips[1] if skips else None, then_gelu=True)  # (B, r*g*16, C/8)
        x = matmul(kernels, x, transpose_y=True)  # (B, M, r*g*16)
        grid, count = self._grid, kernels.shape[1]
        x = x.reshape([-1, count, x.shape[2] // (16 * grid), grid, 2, 2, 2, 2])  # row, column, then within, twice
        x = x.transpose([0, 1, 2, 4, 6, 3, 5, 7])
        return x.reshape([-1, count, x.shape[2] * 4, 4 * grid])


class Sam2MaskDecoder(MaskDecoder):
    """SAM 2's: it adds maps of higher resolution as it upscales, and knows whether there is an object at all."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(config)
        dim = config.prompt_embed_dim
        self.obj_score_token = embedding(1, dim)
        self.pred_obj_score_head = MLP(dim, dim, 1, 3)

    def forward(
        self,
        image: Tokens,
        image_pe: Tokens,
        sparse: Tokens,
        outputs: list[int],
        *skips: Tokens,
        dense: Tokens | None = None,
        parallel: Parallel | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Decode a batch of prompts about one image; see `MaskDecoder`.

        Where the single mask is asked for and it is not stable, the best of the others stands in for it, as SAM 2's
        ``dynamic_multimask_via_stability`` has it.

        Args:
            image: as there.
            image_pe: as there.
            sparse: as there.
            outputs: as there.
            *skips: (1, g*g*4, C/4) and (1, g*g*16, C/8), in the order in which tokens are upscaled, each with the
                bias of `upscaling_biases` added.
            dense: as there.
            parallel: as there.
        """
        return self.with_object_score(image, image_pe, sparse, outputs, *skips, dense=dense, parallel=parallel)[:2]

    def upscaling_biases(self) -> list[Tensor]:
        """Return the biases of the two steps of upscaling, (C/4,) and (C/8,)."""
        first, _, _, second, _ = self.output_upscaling
        return [first.bias, second.bias]

    def with_object_score(
        self,
        image: Tokens,
        image_pe: Tokens,
        sparse: Tokens,
        outputs: list[int],
        *skips: Tokens,
        dense: Tokens | None = None,
        parallel: Parallel | None = None,
    ) -> tuple[Tokens, Tokens, Tokens]:
        """Return what `forward` does and the logit (B, 1) of an object being there, which videos need."""
        parallel = parallel or Sequential()
        spans = self._spans(parallel)
        learned = [self.obj_score_token, self.iou_token, self.mask_tokens]
        is_single = outputs == [0] and self.num_mask_tokens > 1
        wanted = list(range(self.num_mask_tokens)) if is_single else outputs
        hidden, parts = self._attended(image, image_pe, sparse, learned, wanted, dense, spans, parallel)
        logits, scores = self._predicted(hidden[:, 1:], parts, wanted, spans, parallel, *skips)
        scores = functional.sigmoid(as_tensor(scores))
        if is_single:
            logits, scores = stable(as_tensor(logits), scores)
        is_there = self.pred_obj_score_head(hidden[:, 0])
        return _as_given(logits, image), _as_given(scores, image), _as_given(is_there, image)


def _as_given(x: Tokens, image: Tokens) -> Tokens:
    """Return a tensor where the image is one; an array else, or a tensor that wants gradients."""
    return x if isinstance(image, np.ndarray) else as_tensor(x)


def stable(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return per prompt the first of its masks (B, M, h, w) or, where that is not stable, the best of the others.

    Stable is a mask whose area hardly changes with the level at which its logits are cut.
    """
    first = logits[:, :1].flatten(1)
    inner = (first > STABILITY_DELTA).astype("float32").sum(axis=1)
    outer = (first > -STABILITY_DELTA).astype("float32").sum(axis=1)
    is_stable = inner >= STABILITY_THRESHOLD * outer  # also where both are 0
    best = paddle.where(is_stable, paddle.zeros_like(inner).astype("int64"), 1 + scores[:, 1:].argmax(axis=1))
    rows = paddle.arange(best.shape[0])
    at = paddle.stack([rows, best], axis=1)
    return paddle.gather_nd(logits, at).unsqueeze(1), paddle.gather_nd(scores, at).unsqueeze(1)


def _quadruple(x: Tokens, layer: nn.Conv2DTranspose, skip: Tokens | None = None, then_gelu: bool = False) -> Tokens:
    """Apply a 2x2 transposed convolution of stride 2: (B, n, C) to (B, n*4, C'), the four in row-major order.

    A ``skip`` (1, n*4, C') takes the place of its bias.
    """
    weight = parameter(layer, "weight", x)  # (C, C', 2, 2)
    inputs, outputs = weight.shape[:2]
    weight = weight.transpose([0, 2, 3, 1]).reshape([inputs, 4 * outputs])
    if skip is None:
        bias = concat([parameter(layer, "bias", x)] * 4)
        return affine(x, weight, bias, then_gelu).reshape([x.shape[0], -1, outputs])
    y = add(matmul(x, weight).reshape([x.shape[0], -1, outputs]), skip)
    return gelu(y) if then_gelu else y
