"""The parameters of SAM 2.1's own parts: its image encoder, and what its mask decoder has beside SAM's."""

import re
from collections.abc import Iterator, Mapping

from model.config import (
    HieraConfig,
    SamConfig,
    sam2_1_hiera_base_plus,
    sam2_1_hiera_large,
    sam2_1_hiera_small,
    sam2_1_hiera_tiny,
)
from model.weights.tensors import Shape

PUBLISHED = (sam2_1_hiera_tiny(), sam2_1_hiera_small(), sam2_1_hiera_base_plus(), sam2_1_hiera_large())
POSITION = "image_encoder.trunk.pos_embed"
IMAGE_SIZE, PATCH_SIZE = 1024, 16
"""Of every published size; no parameter's shape shows them."""

_PATCH = 7
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.(?:(proj)\.weight)?")


def recognise(shapes: Mapping[str, Shape]) -> HieraConfig:
    """Return the published trunk that has these parameters.

    Windows, heads and the blocks that attend everywhere leave no trace in the shapes, so they are known only of these.

    Raises:
        ValueError: the parameters are none of a published size's.
    """
    matches = [match for match in map(_BLOCK.match, shapes) if match]
    starts = sorted({int(match[1]) for match in matches if match[2]})
    depth = len({match[1] for match in matches})
    depths = tuple(end - start for start, end in zip([0, *starts], [*starts, depth], strict=True))
    side = shapes[POSITION]
    for preset in PUBLISHED:
        trunk = preset.image_encoder
        assert isinstance(trunk, HieraConfig)
        if (1, trunk.embed_dim, trunk.background_size, trunk.background_size) == side and trunk.depths == depths:
            return trunk
    names = ", ".join(preset.name for preset in PUBLISHED)
    blocks = "-".join(map(str, depths))
    raise ValueError(f"expected the sizes of {names}, got {POSITION} of shape {side} and {blocks} blocks")


def image_encoder(config: SamConfig, encoder: HieraConfig) -> Iterator[tuple[str, Shape]]:
    """Yield names and shapes of the image encoder's parameters, with what it does for the mask decoder."""
    width, dim, window = config.prompt_embed_dim, encoder.embed_dim, encoder.window_sizes[0]
    yield "image_encoder.trunk.pos_embed", (1, dim, encoder.background_size, encoder.background_size)
    yield "image_encoder.trunk.pos_embed_window", (1, dim, window, window)
    yield from _pair("trunk.patch_embed.proj", (dim, 3, _PATCH, _PATCH), dim)
    for index in range(sum(encoder.depths)):
        wider = dim << (index in encoder.stage_starts)
        yield from _block(f"trunk.blocks.{index}", dim, wider, int(wider * encoder.mlp_ratio))
        dim = wider
    for step in range(4):
        yield from _pair(f"neck.convs.{step}.conv", (width, dim >> step, 1, 1), width)
    yield from _pair("conv_s0", (width // 8, width, 1, 1), width // 8)
    yield from _pair("conv_s1", (width // 4, width, 1, 1), width // 4)
    yield "image_encoder.no_mem_embed", (1, 1, width)


def object_score(config: SamConfig) -> Iterator[tuple[str, Shape]]:
    """Yield names and shapes of the parameters that predict whether an object is there."""
    width = config.prompt_embed_dim
    yield "mask_decoder.obj_score_token.weight", (1, width)
    for layer, out in enumerate((width, width, 1)):
        yield f"mask_decoder.pred_obj_score_head.layers.{layer}.weight", (width, out)
        yield f"mask_decoder.pred_obj_score_head.layers.{layer}.bias", (out,)


def _block(name: str, dim: int, wider: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    yield from _pair(f"{name}.norm1", (dim,), dim)
    yield from _pair(f"{name}.attn.qkv", (dim, 3 * wider), 3 * wider)
    yield from _pair(f"{name}.attn.proj", (wider, wider), wider)
    yield from _pair(f"{name}.norm2", (wider,), wider)
    yield from _pair(f"{name}.mlp.lin1", (wider, hidden), hidden)
    yield from _pair(f"{name}.mlp.lin2", (hidden, wider), wider)
    if wider != dim:
        yield from _pair(f"{name}.proj", (dim, wider), wider)


def _pair(name: str, shape: Shape, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"image_encoder.{name}.weight", shape
    yield f"image_encoder.{name}.bias", (width,)
