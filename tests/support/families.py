"""A small network of every family, as a file: what the tests of a promise to all of them are run over."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model import weights
from model.config import SamConfig
from model.weights.catalogue import DEMO_WEIGHTS
from model.weights.checkpoint import Checkpoint
from model.weights.formats import native
from tests.reference.random_weights import lively_tensors
from tests.support.checkpoints import tiny
from tests.support.mobile_files import tiny_mobile
from tests.support.sam2_files import tiny_sam2


def random_network(config: SamConfig) -> Checkpoint:
    """Random weights of that configuration, each mask sure of itself, so that segment everything keeps some."""
    tensors = lively_tensors(config)
    tensors[f"mask_decoder.iou_prediction_head.layers.{config.iou_head_depth - 1}.bias"] = np.full(
        config.num_multimask_outputs + 1, 0.95, np.float32
    )
    return Checkpoint(config.name, config, tensors, "0" * 64, "native", Path("random"))


FAMILIES: dict[str, Callable[[], Checkpoint]] = {
    "demo": lambda: weights.read(DEMO_WEIGHTS),
    "sam": lambda: random_network(tiny()),
    "mobile_sam": lambda: random_network(tiny_mobile()),
    "sam2.1": lambda: random_network(tiny_sam2()),
}
"""By the name that `model.weights.catalogue` gives a family."""


def write_family(family: str, folder: Path) -> Path:
    """The file of that family's small network."""
    return native.write(FAMILIES[family](), folder / f"small-{family}.safetensors")
