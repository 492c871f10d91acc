"""Random checkpoints for tests, in memory and in every format a reader knows."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.config import SamConfig, VitConfig
from model.weights import parameters
from model.weights.checkpoint import Checkpoint
from tests.support import torch_file

Tensors = Mapping[str, np.ndarray]


def tiny(image_size: int = 128) -> SamConfig:
    """A configuration with every kind of layer and a few thousand parameters."""
    return SamConfig(
        "tiny",
        VitConfig(embed_dim=32, depth=3, num_heads=2, global_attn_indexes=(1,), window_size=3),
        image_size,
        prompt_embed_dim=32,
        decoder_mlp_dim=64,
        iou_head_hidden_dim=32,
    )


def random_tensors(config: SamConfig, seed: int = 0, without: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Meta's names to random float32 values in Paddle's layout; ``without`` names capabilities to leave out.

    The scales keep the activations of a random network in a sane range, so that two implementations can be compared.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in {**parameters.parameters(config), **parameters.conv_trunk(config)}.items():
        if parameters.capability_of(name) in without:
            continue
        values = rng.standard_normal(shape)
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            values *= 0.1
        elif name.endswith(".bias"):
            values *= 0.02
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        elif len(shape) == 4:
            values /= np.sqrt(np.prod(shape[1:]))
        elif parameters.is_linear_weight(name):
            values /= np.sqrt(shape[0])
        tensors[name] = values.astype(np.float32)
    return tensors


def random_checkpoint(config: SamConfig | None = None, seed: int = 0, without: tuple[str, ...] = ()) -> Checkpoint:
    """A checkpoint of random weights in memory."""
    config = config or tiny()
    return Checkpoint("random", config, random_tensors(config, seed, without), f"{seed:064x}", "native", Path("random"))


def checkpoint_of(config: SamConfig, tensors: Tensors) -> Checkpoint:
    """A checkpoint of given weights in memory."""
    return Checkpoint(config.name, config, tensors, "0" * 64, "native", Path("given"))


def to_torch_layout(tensors: Tensors) -> dict[str, np.ndarray]:
    """The same values with every Linear weight as PyTorch keeps it."""
    return {name: np.ascontiguousarray(v.T) if parameters.is_linear_weight(name) else v for name, v in tensors.items()}


def write_meta(tensors: Tensors, path: Path) -> Path:
    """What ``torch.save(sam.state_dict(), path)`` writes."""
    return torch_file.save(to_torch_layout(tensors), path)


def write_pdparams(tensors: Tensors, path: Path) -> Path:
    """What ``paddle.save(model.state_dict(), path)`` writes: a pickle of numpy arrays and a table of names."""
    table = {name: f"parameter_{index}" for index, name in enumerate(tensors)}
    with path.open("wb") as stream:
        pickle.dump({**tensors, "StructuredToParameterName@@": table}, stream, protocol=4)
    return path


def write_huggingface(tensors: Tensors, path: Path) -> Path:
    """What ``SamModel.save_pretrained`` writes, without needing transformers: the names renamed back."""
    from safetensors.numpy import save_file

    renamed = {huggingface_name(name): value for name, value in to_torch_layout(tensors).items()}
    save_file(renamed, path, {"format": "pt"})
    return path


def huggingface_name(name: str) -> str:
    """The name of a parameter in transformers' SamModel."""
    pairs = [
        (parameters.GAUSSIAN, "shared_image_embedding.positional_embedding"),
        ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
        ("image_encoder.blocks.", "vision_encoder.layers."),
        ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
        ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
        ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
        ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
        ("image_encoder.", "vision_encoder."),
        ("point_embeddings.", "point_embed."),
        ("mask_downscaling.0.", "mask_embed.conv1."),
        ("mask_downscaling.1.", "mask_embed.layer_norm1."),
        ("mask_downscaling.3.", "mask_embed.conv2."),
        ("mask_downscaling.4.", "mask_embed.layer_norm2."),
        ("mask_downscaling.6.", "mask_embed.conv3."),
        ("output_upscaling.0.", "upscale_conv1."),
        ("output_upscaling.1.", "upscale_layer_norm."),
        ("output_upscaling.3.", "upscale_conv2."),
        ("norm_final_attn.", "layer_norm_final_attn."),
        *[(f".norm{index}.", f".layer_norm{index}.") for index in range(1, 5)],
    ]
    for ours, theirs in pairs:
        name = name.replace(ours, theirs)
    if "output_hypernetworks_mlps" in name or "iou_prediction_head" in name:
        for ours, theirs in (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out")):
            if ours in name:
                return name.replace(ours, theirs)
    return name


def differing(checkpoint: Checkpoint, tensors: Tensors) -> list[str]:
    """The names whose values differ between a checkpoint and what was written, and names that only one holds."""
    if set(checkpoint.tensors) != set(tensors):
        return sorted(set(checkpoint.tensors) ^ set(tensors))
    return [name for name, value in tensors.items() if not np.array_equal(checkpoint.tensors[name], value)]
