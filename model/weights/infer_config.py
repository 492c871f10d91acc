"""A network's configuration read from the shapes of its parameters; no size is assumed."""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

from model.config import HieraConfig, SamConfig, TinyVitConfig, VitConfig, mobile_sam, vit_b, vit_h, vit_l
from model.weights import hiera, parameters
from model.weights.tensors import Shape

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
_STAGE_BLOCK = re.compile(r"image_encoder\.layers\.(\d+)\.blocks\.")
_MOBILE = "image_encoder.patch_embed.seq.0.weight"
_DECODER_LAYER = re.compile(r"mask_decoder\.transformer\.layers\.(\d+)\.")
_IOU_LAYER = re.compile(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight")

DECODER_HEADS = 8
"""Heads of the decoder's attention: the one number that no shape shows; every published SAM has 8."""
MOBILE_IMAGE_SIZE, MOBILE_PATCH_SIZE = 1024, 16
"""Of MobileSAM, whose encoder has no parameter whose shape depends on them."""
STAGES = 4
"""Of TinyViT."""
MASK_IN_CHANS = 16
"""Channels of the mask input where an export has left that path out; nothing uses it then."""


def infer(
    shapes: Mapping[str, Shape], decoder_heads: int = DECODER_HEADS, trunk: HieraConfig | None = None
) -> SamConfig:
    """Return the configuration of the network that has these parameters (Meta's names, Paddle's layout).

    The number of heads follows from the width of the relative positions, the window from their length: blocks whose
    relative positions span the whole embedding attend globally (Li et al., "Exploring Plain Vision Transformer
    Backbones for Object Detection", 2022).

    Args:
        shapes: of the parameters.
        decoder_heads: of the mask decoder.
        trunk: SAM 2's, where it is known from something other than the shapes; by default one of the published sizes.

    Raises:
        ValueError: a parameter that shows a size is missing or has another number of axes.
    """
    tokens, width = _shape(shapes, parameters.MASK_TOKENS, 2)
    encoder: VitConfig | TinyVitConfig | HieraConfig
    if _MOBILE in shapes:
        encoder, grid, patch = _mobile(shapes)
    else:
        encoder, grid, patch = _hiera(shapes, trunk) if hiera.POSITION in shapes else _vit(shapes)
    decoder_depth = _count(_DECODER_LAYER, shapes)
    if not decoder_depth:
        raise ValueError(f"expected parameters named {parameters.TRANSFORMER}.layers.0.*, got none")
    iou_depth = _count(_IOU_LAYER, shapes)
    mask_in = f"{parameters.MASK_DOWNSCALING}3.weight"
    config = SamConfig(
        name="sam",
        image_encoder=encoder,
        image_size=grid * patch,
        patch_size=patch,
        prompt_embed_dim=width,
        mask_in_chans=_shape(shapes, mask_in, 4)[0] if mask_in in shapes else MASK_IN_CHANS,
        decoder_depth=decoder_depth,
        decoder_num_heads=decoder_heads,
        decoder_mlp_dim=_shape(shapes, f"{parameters.TRANSFORMER}.layers.0.mlp.lin1.weight", 2)[1],
        iou_head_depth=iou_depth or 3,
        iou_head_hidden_dim=_shape(shapes, f"{parameters.IOU_HEAD}layers.0.weight", 2)[1] if iou_depth else width,
        num_multimask_outputs=tokens - 1,
    )
    return replace(config, name=_name(config))


def _mobile(shapes: Mapping[str, Shape]) -> tuple[TinyVitConfig, int, int]:
    """Return MobileSAM's encoder, with the side of its embedding in tokens and of a token in pixels."""
    stages = len({match[1] for match in map(_STAGE_BLOCK.match, shapes) if match})
    if stages != STAGES:
        raise ValueError(f"expected parameters named image_encoder.layers.*.blocks.* of {STAGES} stages, got {stages}")
    hidden, first = _shape(shapes, "image_encoder.layers.0.blocks.0.conv1.weight", 4)[:2]
    dims, heads, windows, ratios = [first], [], [], set()
    for stage in range(1, STAGES):
        block = f"image_encoder.layers.{stage}.blocks.0"
        width, inner = _shape(shapes, f"{block}.mlp.fc1.weight", 2)
        head_count, distances = _shape(shapes, f"{block}.attn.attention_biases", 2)
        dims.append(width)
        heads.append(head_count)
        windows.append(isqrt(distances))
        ratios.add(inner / width)
    depths = (
        _count(re.compile(rf"image_encoder\.layers\.{stage}\.blocks\.(\d+)\."), shapes) for stage in range(STAGES)
    )
    encoder = TinyVitConfig(
        tuple(dims), tuple(depths), tuple(heads), tuple(windows), mlp_ratio=max(ratios), expand_ratio=hidden / first
    )
    return encoder, MOBILE_IMAGE_SIZE // MOBILE_PATCH_SIZE, MOBILE_PATCH_SIZE


def _hiera(shapes: Mapping[str, Shape], trunk: HieraConfig | None) -> tuple[HieraConfig, int, int]:
    """Return SAM 2's encoder, with the side of its embedding in tokens and of a token in pixels."""
    return trunk or hiera.recognise(shapes), hiera.IMAGE_SIZE // hiera.PATCH_SIZE, hiera.PATCH_SIZE


def _vit(shapes: Mapping[str, Shape]) -> tuple[VitConfig, int, int]:
    """Return SAM's encoder, with the side of its embedding in tokens and of a token in pixels."""
    grid = _shape(shapes, "image_encoder.pos_embed", 4)[1]
    return _encoder(shapes, grid), grid, _shape(shapes, "image_encoder.patch_embed.proj.weight", 4)[2]


def _encoder(shapes: Mapping[str, Shape], grid: int) -> VitConfig:
    depth = _count(_BLOCK, shapes)
    if not depth:
        raise ValueError("expected parameters named image_encoder.blocks.0.*, got none")
    width, hidden = _shape(shapes, "image_encoder.blocks.0.mlp.lin1.weight", 2)
    positions = [_shape(shapes, f"image_encoder.blocks.{index}.attn.rel_pos_h", 2) for index in range(depth)]
    head_dim = positions[0][1]
    if width % head_dim:
        raise ValueError(f"expected relative positions as wide as a head of {width} channels, got {head_dim}")
    lengths = [length for length, _ in positions]
    global_length = _global_length(lengths, 2 * grid - 1)
    windows = {length for length in lengths if length != global_length}
    if len(windows) > 1 or any(length % 2 == 0 for length in windows):
        raise ValueError(f"expected relative positions of one odd window length, got lengths {sorted(set(lengths))}")
    return VitConfig(
        embed_dim=width,
        depth=depth,
        num_heads=width // head_dim,
        global_attn_indexes=tuple(index for index, length in enumerate(lengths) if length == global_length),
        window_size=(windows.pop() + 1) // 2 if windows else 14,
        mlp_ratio=hidden / width,
    )


def _global_length(lengths: list[int], full: int) -> int:
    """Return the length of the relative positions of global blocks, given that of the whole embedding.

    Weights made for a larger input keep longer ones, which Meta's code interpolates at every call.
    """
    if full in lengths or max(lengths) < full:
        return full
    return max(lengths)


def _name(config: SamConfig) -> str:
    encoder = config.image_encoder
    for preset in (vit_b(), vit_l(), vit_h(), mobile_sam(), *hiera.PUBLISHED):
        if preset.image_encoder == encoder:
            return preset.name
    if isinstance(encoder, VitConfig):
        return f"vit_{encoder.embed_dim}x{encoder.depth}"
    if isinstance(encoder, HieraConfig):
        return f"hiera_{encoder.embed_dim}x{sum(encoder.depths)}"
    assert isinstance(encoder, TinyVitConfig)
    return f"tiny_vit_{encoder.embed_dims[-1]}x{sum(encoder.depths)}"


def _shape(shapes: Mapping[str, Shape], name: str, axes: int) -> Shape:
    if name not in shapes:
        raise ValueError(f"expected parameter {name}, got none")
    if len(shapes[name]) != axes:
        raise ValueError(f"{name}: expected {axes} axes, got shape {shapes[name]}")
    if min(shapes[name]) < 1:
        raise ValueError(f"{name}: expected a parameter with elements, got shape {shapes[name]}")
    return shapes[name]


def _count(pattern: re.Pattern[str], shapes: Mapping[str, Shape]) -> int:
    indices = {int(match[1]) for match in map(pattern.match, shapes) if match}
    return len(indices)
