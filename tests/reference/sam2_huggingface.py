"""transformers' Sam2Model with given weights; needs torch and transformers."""

from typing import Any

import numpy as np

from model.config import SamConfig
from model.types import Prompt
from tests.support.checkpoints import Tensors
from tests.support.sam2_files import huggingface_config, huggingface_state


def build_model(config: SamConfig, tensors: Tensors) -> Any:
    """transformers' ``Sam2Model`` of these sizes with these weights, in Paddle's layout."""
    import torch
    from transformers import Sam2Config, Sam2Model

    config_values = huggingface_config(config)
    model = Sam2Model(Sam2Config(**config_values))
    state = {name: torch.from_numpy(value.copy()) for name, value in huggingface_state(tensors).items()}
    model.load_state_dict(state)
    for name, module in model.mask_decoder.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            # As in Meta's code; transformers has 1e-6 everywhere, which is right for the upscaling's norm alone.
            module.eps = 1e-6 if name == "upscale_layer_norm" else 1e-5
    return model.eval()


def embed(model: Any, pixels: np.ndarray) -> list[np.ndarray]:
    """The maps (C, h, w) of an image (3, S, S): the embedding first, then the finest."""
    import torch

    with torch.no_grad():
        finest, fine, main = model.get_image_embeddings(torch.from_numpy(pixels)[None])
    return [main[0].numpy(), finest[0].numpy(), fine[0].numpy()]


def predict(
    model: Any, maps: list[np.ndarray], prompt: Prompt, scale: np.ndarray, multimask_output: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low-resolution logits (M, L, L), predicted IoU (M,) and the object's score (1,).

    Args:
        made: what `build_model` returned.
        maps: what `embed` returned.
        prompt: points, a box, a mask input beside one of them; in original pixels.
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
    main, finest, fine = (torch.from_numpy(each)[None] for each in maps)
    with torch.no_grad():
        output = model(image_embeddings=[finest, fine, main], multimask_output=multimask_output, **inputs)
    return (
        output.pred_masks[0, 0].numpy(),
        output.iou_scores[0, 0].numpy(),
        output.object_score_logits[0, 0].numpy(),
    )
