"""Meta's own code (segment-anything 1.0) filled with given weights; needs torch."""

import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from model.config import SamConfig, VitConfig
from model.types import Prompt
from tests.reference.torchvision_stand_in import torchvision_stand_in
from tests.support.checkpoints import to_torch_layout


def build_sam(config: SamConfig, tensors: dict[str, np.ndarray]) -> Any:
    """Meta's ``Sam`` of these sizes (its own builder knows only three) with these weights, in Paddle's layout."""
    import torch

    with torchvision_stand_in():
        from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    vit = config.image_encoder
    assert isinstance(vit, VitConfig)
    grid = (config.embedding_size, config.embedding_size)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=vit.depth,
            embed_dim=vit.embed_dim,
            img_size=config.image_size,
            mlp_ratio=vit.mlp_ratio,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=vit.num_heads,
            patch_size=config.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=vit.global_attn_indexes,
            window_size=vit.window_size,
            out_chans=config.prompt_embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=config.prompt_embed_dim,
            image_embedding_size=grid,
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=config.num_multimask_outputs,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_embed_dim,
                mlp_dim=config.decoder_mlp_dim,
                num_heads=config.decoder_num_heads,
            ),
            transformer_dim=config.prompt_embed_dim,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        ),
    )
    sam.load_state_dict({name: torch.from_numpy(value) for name, value in to_torch_layout(tensors).items()})
    return sam.eval()


def assemble(image_encoder: Any, prompt_encoder: Any, mask_decoder: Any) -> Any:
    """Meta's ``Sam`` of three modules that are filled already."""
    with torchvision_stand_in():
        from segment_anything.modeling import Sam
    return Sam(image_encoder, prompt_encoder, mask_decoder).eval()


def predictor(sam: Any, image: np.ndarray) -> Any:
    """Meta's ``SamPredictor`` that has seen ``image``, (H, W, 3) uint8 RGB."""
    with torchvision_stand_in():
        from segment_anything import SamPredictor
    sam_predictor = SamPredictor(sam)
    sam_predictor.set_image(image)
    return sam_predictor


def generate(sam: Any, image: np.ndarray, **settings: Any) -> list[dict[str, Any]]:
    """What Meta's ``SamAutomaticMaskGenerator`` finds in ``image``, (H, W, 3) uint8 RGB."""
    with torchvision_stand_in():
        from segment_anything import SamAutomaticMaskGenerator
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # numpy 2 about torch
        return SamAutomaticMaskGenerator(sam, **settings).generate(image)


def predict(meta_predictor: Any, prompt: Prompt, multimask_output: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (M, H, W) bool, predicted IoU (M,) and low-resolution logits (M, L, L) from Meta's predictor."""
    copies = {
        name: None if value is None else value.copy() for name, value in vars(prompt).items()
    }  # torch wants to write
    del copies["rough_mask"]
    if copies["mask_input"] is not None:
        copies["mask_input"] = copies["mask_input"][None]
    return meta_predictor.predict(**copies, multimask_output=multimask_output)


def postprocess(
    logits: np.ndarray, input_size: tuple[int, int], original_size: tuple[int, int], image_size: int
) -> np.ndarray:
    """Logits (H, W) float32 of the photo, from low-resolution logits, by Meta's ``postprocess_masks``."""
    import torch

    with torchvision_stand_in():
        from segment_anything.modeling import Sam
    size_only = SimpleNamespace(image_encoder=SimpleNamespace(img_size=image_size))  # all that it reads of its self
    return Sam.postprocess_masks(size_only, torch.from_numpy(logits)[None, None], input_size, original_size)[
        0, 0
    ].numpy()
