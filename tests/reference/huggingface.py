"""transformers' SamModel with random weights; needs torch and transformers."""

from pathlib import Path
from typing import Any

import numpy as np

from model.config import SamConfig, VitConfig
from model.types import Prompt
from tests.support.checkpoints import huggingface_name, to_torch_layout


def build_model(config: SamConfig, tensors: dict[str, np.ndarray]) -> Any:
    """transformers' ``SamModel`` of these sizes with these weights, in Paddle's layout."""
    import torch
    from transformers import SamConfig as TheirConfig
    from transformers import SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vit = config.image_encoder
    assert isinstance(vit, VitConfig)
    width = config.prompt_embed_dim
    vision = SamVisionConfig(
        hidden_size=vit.embed_dim,
        output_channels=width,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        window_size=vit.window_size,
        global_attn_indexes=list(vit.global_attn_indexes),
        num_pos_feats=width // 2,
        mlp_ratio=vit.mlp_ratio,
        mlp_dim=int(vit.embed_dim * vit.mlp_ratio),
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=width,
        image_size=config.image_size,
        patch_size=config.patch_size,
        mask_input_channels=config.mask_in_chans,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=width,
        mlp_dim=config.decoder_mlp_dim,
        num_hidden_layers=config.decoder_depth,
        num_attention_heads=config.decoder_num_heads,
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_head_depth,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
        layer_norm_eps=1e-5,  # as in Meta's code; with transformers' own 1e-6 logits of ±10 differ by up to 4e-4
    )
    model = SamModel(TheirConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    state = {huggingface_name(name): torch.from_numpy(value) for name, value in to_torch_layout(tensors).items()}
    missing, foreign = model.load_state_dict(state, strict=False)
    assert not foreign
    assert all("positional_embedding" in name for name in missing)  # one matrix under two names
    model.prompt_encoder.shared_embedding = model.shared_image_embedding
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """What ``save_pretrained`` writes: config.json and model.safetensors."""
    model.save_pretrained(folder)
    return folder


def predict(model: Any, pixels: np.ndarray, prompt: Prompt, scale: np.ndarray, multimask_output: bool) -> Any:
    """Embedding (C, g, g), low-resolution logits (M, L, L) and predicted IoU (M,).

    Args:
        made: what `build_model` returned.
        pixels: (3, S, S) float32, normalised and padded.
        prompt: points, a box, a mask input, in original pixels.
        scale: (x, y) from original pixels to the model's input.
        multimask_output: three masks in place of one.
    """
    import torch

    inputs: dict[str, torch.Tensor] = {}
    if prompt.point_coords is not None:
        inputs["input_points"] = torch.from_numpy(prompt.point_coords * scale).float()[None, None]
        inputs["input_labels"] = torch.tensor(prompt.point_labels.tolist())[None, None]
    if prompt.box is not None:
        inputs["input_boxes"] = torch.from_numpy(prompt.box * np.tile(scale, 2)).float()[None, None]
    if prompt.mask_input is not None:
        inputs["input_masks"] = torch.from_numpy(prompt.mask_input.copy())[None, None]
    with torch.no_grad():
        embedding = model.get_image_embeddings(torch.from_numpy(pixels)[None])
        output = model(image_embeddings=embedding, multimask_output=multimask_output, **inputs)
    return embedding[0].numpy(), output.pred_masks[0, 0].numpy(), output.iou_scores[0, 0].numpy()
