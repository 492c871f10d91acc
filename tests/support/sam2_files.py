"""Random SAM 2 weights, in memory and as each publisher writes them."""

import json
import re
from pathlib import Path

import numpy as np

from model.config import HieraConfig, SamConfig
from model.weights import parameters
from tests.support import torch_file
from tests.support.checkpoints import Tensors, to_torch_layout

MEMORY = {
    "maskmem_tpos_enc": (7, 1, 1, 8),
    "no_mem_pos_enc": (1, 1, 32),
    "no_obj_ptr": (1, 32),
    "no_obj_embed_spatial": (1, 8),
    "mask_downsample.weight": (1, 1, 4, 4),
    "mask_downsample.bias": (1,),
    "memory_attention.layers.0.self_attn.q_proj.weight": (32, 32),
    "memory_encoder.mask_downsampler.encoder.0.weight": (4, 1, 3, 3),
    "obj_ptr_proj.layers.0.weight": (32, 32),
    "obj_ptr_tpos_proj.weight": (8, 32),
}
"""Some of what a published file holds for videos, at other sizes."""


def tiny_sam2(image_size: int = 128) -> SamConfig:
    """A configuration with every kind of block, and windows that the third and the fourth grid do not fill."""
    return SamConfig(
        "tiny_sam2",
        HieraConfig(16, 1, (1, 2, 3, 2), (4,), background_size=5, window_sizes=(8, 4, 6, 3)),
        image_size,
        prompt_embed_dim=32,
        decoder_mlp_dim=64,
        iou_head_hidden_dim=32,
    )


def meta_name(name: str) -> str:
    """Meta's name of one of our parameters."""
    if name == "image_encoder.no_mem_embed":
        return "no_mem_embed"
    name = re.sub(r"^image_encoder\.conv_s", "mask_decoder.conv_s", name)
    name = re.sub(r"^(prompt_encoder|mask_decoder)\.", r"sam_\1.", name)
    return name.replace(".mlp.lin1.", ".mlp.layers.0.").replace(".mlp.lin2.", ".mlp.layers.1.")


def meta_state(tensors: Tensors) -> dict[str, np.ndarray]:
    """Meta's state dict, without what videos need."""
    return {meta_name(name): value for name, value in to_torch_layout(tensors).items()}


def write_meta_sam2(tensors: Tensors, path: Path) -> Path:
    """A file as Meta publishes it."""
    memory = {name: np.zeros(shape, np.float32) for name, shape in MEMORY.items()}
    return torch_file.save({"model": meta_state(tensors) | memory}, path)


def huggingface_name(name: str) -> str:
    """The name of one of our parameters, but for the points' embeddings, in transformers' Sam2Model."""
    pairs = [
        (r"^image_encoder\.no_mem_embed$", "no_memory_embedding"),
        (re.escape(parameters.GAUSSIAN), "shared_image_embedding.positional_embedding"),
        (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"^image_encoder\.conv_s", "mask_decoder.conv_s"),
        (r"\.mlp\.lin1\.", ".mlp.proj_in."),
        (r"\.mlp\.lin2\.", ".mlp.proj_out."),
        (r"\.out_proj\.", ".o_proj."),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"(_mlps\.\d|_head)\.layers\.0\.", r"\1.proj_in."),
        (r"(_mlps\.\d|_head)\.layers\.1\.", r"\1.layers.0."),
        (r"(_mlps\.\d|_head)\.layers\.2\.", r"\1.proj_out."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
    ]
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def huggingface_state(tensors: Tensors) -> dict[str, np.ndarray]:
    """The state dict of transformers' Sam2Model."""
    points = [parameters.point_embedding(index) for index in range(4)]
    rest = {name: value for name, value in to_torch_layout(tensors).items() if name not in points}
    state = {huggingface_name(name): value for name, value in rest.items()}
    state["prompt_encoder.point_embed.weight"] = np.concatenate([tensors[name] for name in points])
    state["prompt_encoder.shared_embedding.positional_embedding"] = tensors[parameters.GAUSSIAN]
    return state


def huggingface_config(config: SamConfig) -> dict[str, dict]:
    """The network's sizes in the ``config.json`` that transformers writes."""
    encoder = config.image_encoder
    assert isinstance(encoder, HieraConfig)
    width, side = config.prompt_embed_dim, config.image_size
    dims = [encoder.embed_dim << stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": encoder.embed_dim,
        "num_attention_heads": encoder.num_heads,
        "image_size": [side, side],
        "window_positional_embedding_background_size": [encoder.background_size] * 2,
        "blocks_per_stage": list(encoder.depths),
        "embed_dim_per_stage": dims,
        "num_attention_heads_per_stage": [encoder.num_heads << stage for stage in range(4)],
        "window_size_per_stage": list(encoder.window_sizes),
        "global_attention_blocks": list(encoder.global_attn_indexes),
    }
    return {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": dims[::-1],
            "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": side,
            "patch_size": config.patch_size,
            "mask_input_channels": config.mask_in_chans,
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": config.decoder_mlp_dim,
            "num_hidden_layers": config.decoder_depth,
            "num_attention_heads": config.decoder_num_heads,
            "num_multimask_outputs": config.num_multimask_outputs,
            "iou_head_depth": config.iou_head_depth,
            "iou_head_hidden_dim": config.iou_head_hidden_dim,
        },
    }


def write_huggingface_sam2(config: SamConfig, tensors: Tensors, folder: Path) -> Path:
    """A directory as ``Sam2Model.save_pretrained`` writes it."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    save_file(huggingface_state(tensors), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(huggingface_config(config)))
    return folder
