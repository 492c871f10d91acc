"""Meta's own SAM 2 (``sam2`` 1.1.0) filled with given weights; needs torch."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from model.config import HieraConfig, SamConfig
from model.types import Prompt
from tests.reference.torchvision_stand_in import torchvision_stand_in
from tests.support.checkpoints import Tensors
from tests.support.sam2_files import meta_state


@contextmanager
def importing() -> Iterator[None]:
    """Let ``import sam2`` succeed within, without torchvision and without what its dependencies warn of."""
    with torchvision_stand_in(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.reference import torchvision_modules

        for name in ("Normalize", "Resize", "ToTensor"):
            setattr(sys.modules["torchvision.transforms"], name, getattr(torchvision_modules, name))
        yield


def build_sam2(config: SamConfig, tensors: Tensors) -> Any:
    """Meta's ``SAM2Base`` of these sizes with these weights, its memory left out; in Paddle's layout.

    As its ``build_sam2`` does by default, with ``dynamic_multimask_via_stability``.
    """
    import torch

    with importing():
        from sam2.modeling.backbones.hieradet import Hiera
        from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
        from sam2.modeling.position_encoding import PositionEmbeddingSine
        from sam2.modeling.sam.mask_decoder import MaskDecoder
        from sam2.modeling.sam.prompt_encoder import PromptEncoder
        from sam2.modeling.sam.transformer import TwoWayTransformer
        from sam2.modeling.sam2_base import SAM2Base
    encoder, width = config.image_encoder, config.prompt_embed_dim
    assert isinstance(encoder, HieraConfig)
    trunk = Hiera(
        embed_dim=encoder.embed_dim,
        num_heads=encoder.num_heads,
        stages=encoder.depths,
        window_pos_embed_bkg_spatial_size=(encoder.background_size,) * 2,
        window_spec=encoder.window_sizes,
        global_att_blocks=encoder.global_attn_indexes,
    )
    neck = FpnNeck(
        PositionEmbeddingSine(width),
        width,
        [encoder.embed_dim << stage for stage in (3, 2, 1, 0)],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )

    class Sam2(SAM2Base):
        """Without the modules of memory, and with a decoder of any size."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.image_encoder = ImageEncoder(trunk, neck, scalp=1)
            self.image_size, self.num_feature_levels = config.image_size, 3
            self.use_high_res_features_in_sam = self.directly_add_no_mem_embed = True
            self.no_mem_embed = torch.nn.Parameter(torch.zeros(1, 1, width))
            grid = (config.embedding_size, config.embedding_size)
            square = (config.image_size, config.image_size)
            self.sam_prompt_encoder = PromptEncoder(width, grid, square, config.mask_in_chans)
            self.sam_mask_decoder = MaskDecoder(
                num_multimask_outputs=config.num_multimask_outputs,
                transformer=TwoWayTransformer(
                    config.decoder_depth, width, config.decoder_num_heads, config.decoder_mlp_dim
                ),
                transformer_dim=width,
                iou_head_depth=config.iou_head_depth,
                iou_head_hidden_dim=config.iou_head_hidden_dim,
                use_high_res_features=True,
                iou_prediction_use_sigmoid=True,
                pred_obj_scores=True,
                pred_obj_scores_mlp=True,
                use_multimask_token_for_obj_ptr=True,
                dynamic_multimask_via_stability=True,
                dynamic_multimask_stability_delta=0.05,
                dynamic_multimask_stability_thresh=0.98,
            )

    model = Sam2()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in meta_state(tensors).items()})
    return model.eval()


def predictor(model: Any, image: np.ndarray, pixels: np.ndarray | None = None) -> Any:
    """Meta's ``SAM2ImagePredictor`` that has seen a photo.

    Args:
        made: what `build_sam2` returned.
        image: (H, W, 3) uint8 RGB.
        pixels: (3, S, S) float32, what the network is to see instead of its own preprocessing's result.
    """
    import torch

    with importing():
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        meta_predictor = SAM2ImagePredictor(model)
        meta_predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
        if pixels is not None:
            meta_predictor._transforms = _Given(meta_predictor._transforms, torch.from_numpy(pixels))
        meta_predictor.set_image(image)
    return meta_predictor


class _Given:
    """Meta's transforms, but for what they make of the photo."""

    def __init__(self, theirs: Any, pixels: Any) -> None:
        self._theirs, self._pixels = theirs, pixels

    def __call__(self, image: np.ndarray) -> Any:
        return self._pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)


def predict(meta_predictor: Any, prompt: Prompt, multimask_output: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (M, H, W) bool, predicted IoU (M,) and low-resolution logits (M, L, L) from Meta's predictor."""
    values = {name: None if value is None else value.copy() for name, value in vars(prompt).items()}
    del values["rough_mask"]
    if values["mask_input"] is not None:
        values["mask_input"] = values["mask_input"][None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks, scores, low_res = meta_predictor.predict(**values, multimask_output=multimask_output)
    return masks > 0, scores, low_res
