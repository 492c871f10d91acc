"""SAM's training losses: focal and dice loss of the masks, squared error of the predicted IoU.

Source: the paper's appendix A, "Losses", and Meta's ``training/loss_fns.py`` of SAM 2, with which a test compares them.
"""

import paddle
from paddle import Tensor
from paddle.nn import functional

FOCAL, DICE, IOU = 20.0, 1.0, 1.0
"""How much each of them counts."""
ALPHA = 0.25
OTHERS = 0.05
"""How much masks count that are not the best of three: those of the paper do not."""


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss (gamma 2) of logits (B, M, h, w) against shares from 0 to 1 (B, 1, h, w), as (B, M)."""
    targets = targets.expand_as(logits)
    p = functional.sigmoid(logits)
    missed = p + targets - 2 * p * targets  # 1 - p_t
    cross = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return (weight * cross * missed * missed).mean(axis=[2, 3])


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the dice loss of logits (B, M, h, w) against shares from 0 to 1 (B, 1, h, w), as (B, M)."""
    p = functional.sigmoid(logits)
    intersection = (p * targets).sum(axis=[2, 3])
    return 1 - (2 * intersection + 1) / (p.sum(axis=[2, 3]) + targets.sum(axis=[2, 3]) + 1)


def true_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU of the masks with the pixels that are covered by more than half, (B, M), without a gradient."""
    masks, truth = logits.detach() > 0, targets > 0.5
    intersection = paddle.logical_and(masks, truth).astype("float32").sum(axis=[2, 3])
    union = paddle.logical_or(masks, truth).astype("float32").sum(axis=[2, 3])
    return intersection / paddle.clip(union, min=1.0)


def loss(logits: Tensor, targets: Tensor, predicted: Tensor | None, others: float = OTHERS) -> Tensor:
    """Return the loss of a batch of prompts.

    Args:
        logits: (B, M, h, w); of several masks the one with the least loss counts.
        targets: (B, 1, h, w), the share of each cell that the object covers.
        predicted: the predicted IoUs (B, M), all of which count; None for a network without that head.
        others: the share that the mean over all masks has in the loss.
    """
    of_masks = FOCAL * focal_loss(logits, targets) + DICE * dice_loss(logits, targets)  # (B, M)
    total = ((1 - others) * of_masks.min(axis=1) + others * of_masks.mean(axis=1)).mean()
    if predicted is None:
        return total
    return total + IOU * functional.mse_loss(predicted, true_iou(logits, targets))
