"""The authors' own MobileSAM (mobilesam-mirror 1.0.0) filled with given weights; needs torch, but not timm."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from model.config import SamConfig, TinyVitConfig
from tests.reference.torchvision_stand_in import torchvision_stand_in

_TIMM = ("timm", "timm.models", "timm.models.layers", "timm.models.registry")


@contextmanager
def timm_stand_in() -> Iterator[None]:
    """Let ``import mobile_sam`` succeed within: timm asks for more of torchvision than runs beside torch's CPU build.

    What mobile_sam takes of timm counts in training only.
    """
    import torch

    modules_before = {name: sys.modules.get(name) for name in _TIMM}
    modules = {name: ModuleType(name) for name in _TIMM}
    vars(modules["timm.models.layers"]).update(
        DropPath=torch.nn.Identity, to_2tuple=lambda side: (side, side), trunc_normal_=torch.nn.init.trunc_normal_
    )
    vars(modules["timm.models.registry"]).update(register_model=lambda function: function)
    sys.modules.update(modules)
    try:
        with torchvision_stand_in():
            yield
    finally:
        for name, module in modules_before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def build_mobile(config: SamConfig, state: Mapping[str, np.ndarray]) -> Any:
    """The authors' ``Sam`` of these sizes (their own builder knows one) with this state, in their names and layout."""
    import torch

    with timm_stand_in():
        from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
    encoder = config.image_encoder
    assert isinstance(encoder, TinyVitConfig)
    trunk = TinyViT(
        img_size=config.image_size,
        embed_dims=list(encoder.embed_dims),
        depths=list(encoder.depths),
        num_heads=[1, *encoder.num_heads],
        window_sizes=[1, *encoder.window_sizes],
        mlp_ratio=encoder.mlp_ratio,
        mbconv_expand_ratio=encoder.expand_ratio,
        drop_path_rate=0.0,
    )
    if (
        encoder.embed_dims[-1] != 320
    ):  # where their code knows the last merging, which keeps the resolution, by its width
        trunk.layers[2].downsample.conv2.c.stride = (1, 1)
    width, grid = config.prompt_embed_dim, config.embedding_size
    if width != 256:
        neck = trunk.neck
        trunk.neck = torch.nn.Sequential(
            torch.nn.Conv2d(encoder.embed_dims[-1], width, 1, bias=False),
            type(neck[1])(width),
            torch.nn.Conv2d(width, width, 3, padding=1, bias=False),
            type(neck[3])(width),
        )
    trunk.forward = lambda x: _forward(trunk, x, grid)
    prompts = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(grid, grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_in_chans,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=config.num_multimask_outputs,
        transformer=TwoWayTransformer(
            depth=config.decoder_depth,
            embedding_dim=width,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_num_heads,
        ),
        transformer_dim=width,
        iou_head_depth=config.iou_head_depth,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
    )
    sam = Sam(trunk, prompts, decoder)
    sam.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})
    return sam.eval()


def _forward(trunk: Any, x: Any, grid: int) -> Any:
    """Their ``forward``, which takes the embedding's side for 64 whatever the input's."""
    x = trunk.patch_embed(x)
    for layer in trunk.layers:
        x = layer(x)
    batch, _, width = x.shape
    return trunk.neck(x.view(batch, grid, grid, width).permute(0, 3, 1, 2))


def predictor(sam: Any, image: np.ndarray) -> Any:
    """Their ``SamPredictor`` that has seen ``image``, (H, W, 3) uint8 RGB."""
    with timm_stand_in():
        from mobile_sam import SamPredictor
    sam_predictor = SamPredictor(sam)
    sam_predictor.set_image(image)
    return sam_predictor
