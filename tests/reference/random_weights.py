"""Random weights whose masks are worth comparing, and photos to compare them on."""

import numpy as np
from PIL import Image

from model.config import SamConfig
from tests.support.checkpoints import random_tensors

LOGIT_SCALE = 20.0
"""Logits of a random network stay within ±1, SAM's reach about ±20: so scaled, 1e-4 is as strict as for SAM."""


def lively_tensors(config: SamConfig, seed: int = 1) -> dict[str, np.ndarray]:
    """Random weights with logits as large as SAM's, and predicted IoUs around one half that differ between masks."""
    tensors = random_tensors(config, seed)
    for name, values in tensors.items():
        if "output_hypernetworks_mlps" in name and ".layers.2." in name:
            values *= LOGIT_SCALE * np.sqrt(32 / config.prompt_embed_dim)  # a sum over more channels is larger
    last = f"mask_decoder.iou_prediction_head.layers.{config.iou_head_depth - 1}"
    tensors[f"{last}.weight"] *= 0.2
    tensors[f"{last}.bias"][:] = 0.5
    return tensors


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: soft blots of colour with a little noise, so that neighbouring pixels are alike."""
    random = np.random.RandomState(seed)  # its stream is frozen, unlike default_rng's
    blots = Image.fromarray(random.randint(0, 256, (6, 8, 3)).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = random.randint(-8, 9, (height, width, 3))
    return np.clip(np.asarray(blots).astype(int) + noise, 0, 255).astype(np.uint8)
