"""Random weights in the layout of ``mobile_sam.pt``: batch norms with their statistics, a classifier's head."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from model import weights
from model.config import SamConfig, TinyVitConfig
from model.weights import Checkpoint
from tests.reference.random_weights import lively_tensors
from tests.support import torch_file
from tests.support.checkpoints import to_torch_layout


def tiny_mobile(image_size: int = 128) -> SamConfig:
    """A configuration with every kind of layer; windows that fit, that do not, and one as large as the grid."""
    return SamConfig(
        "tiny_mobile",
        TinyVitConfig((16, 16, 24, 32), (2, 1, 2, 1), (2, 3, 2), (4, 3, 8)),
        image_size,
        prompt_embed_dim=32,
        decoder_mlp_dim=64,
        iou_head_hidden_dim=32,
    )


def published_state(config: SamConfig, seed: int = 1) -> dict[str, np.ndarray]:
    """The names and layout of ``mobile_sam.pt``."""
    tensors = lively_tensors(config, seed)
    random = np.random.RandomState(seed)
    state = to_torch_layout(tensors)
    folded = [name for name in tensors if _is_folded(name, tensors)]
    for name in folded:
        layer, channels = name.removesuffix(".weight"), len(tensors[name])
        state[f"{layer}.c.weight"] = state.pop(name)
        state[f"{layer}.bn.weight"] = random.uniform(0.5, 1.5, channels).astype(np.float32)
        state[f"{layer}.bn.bias"] = state.pop(f"{layer}.bias")
        state[f"{layer}.bn.running_mean"] = (0.2 * random.standard_normal(channels)).astype(np.float32)
        state[f"{layer}.bn.running_var"] = random.uniform(0.3, 3.0, channels).astype(np.float32)
        state[f"{layer}.bn.num_batches_tracked"] = np.array(7, np.int64)
    encoder = config.image_encoder
    assert isinstance(encoder, TinyVitConfig)
    width = encoder.embed_dims[-1]
    for name, shape in (("norm_head.weight", (width,)), ("norm_head.bias", (width,)), ("head.bias", (1000,)),
                        ("head.weight", (1000, width))):  # fmt: skip
        state[f"image_encoder.{name}"] = random.standard_normal(shape).astype(np.float32)
    return state


def write_published(config: SamConfig, path: Path, seed: int = 1) -> Path:
    """What ``torch.save(mobile_sam.state_dict(), path)`` writes."""
    return torch_file.save(published_state(config, seed), path)


def read_published(config: SamConfig, path: Path) -> Checkpoint:
    """Read the file as a network of this configuration; no parameter of MobileSAM shows the input's size."""
    read = weights.read(path)
    assert replace(read.config, name=config.name, image_size=config.image_size) == config
    return Checkpoint(config.name, config, read.tensors, read.digest, read.format, read.path)


def _is_folded(name: str, tensors: dict[str, np.ndarray]) -> bool:
    return name.startswith("image_encoder.") and tensors[name].ndim == 4 and name.replace(".weight", ".bias") in tensors
