"""SAM 2's parameters under the names of their publishers, and under ours.

Ours are SAM's where they mean the same. What the image encoder does for the mask decoder (``conv_s0``, ``conv_s1``, "no
memory") belongs to it, and the parts that remember earlier frames of a video are left out.
"""

import re
from collections.abc import Iterable, Mapping

from model.weights import parameters
from model.weights.tensors import Stored

_TRUNK = "image_encoder.trunk."
_HUGGINGFACE_TRUNK = "vision_encoder.backbone."
_MEMORY = re.compile(
    r"(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial|mask_downsample|memory_attention|memory_encoder"
    r"|obj_ptr_proj|obj_ptr_tpos_proj"
    r"|memory_temporal_positional_encoding|no_memory_positional_encoding|no_object_pointer"
    r"|occlusion_spatial_embedding_parameter|object_pointer_proj|temporal_positional_encoding_projection_layer)(\.|$)"
)
_META = (
    (r"^no_mem_embed$", "image_encoder.no_mem_embed"),
    (r"^sam_mask_decoder\.conv_s", "image_encoder.conv_s"),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.layers\.0\.", r"\1.lin1."),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.layers\.1\.", r"\1.lin2."),
)
HUGGINGFACE_HEADS = (
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
)
"""Names of transformers' mask prompts and mask decoder, which SAM and SAM 2 share."""

_HUGGINGFACE = (
    (r"^no_memory_embedding$", "image_encoder.no_mem_embed"),
    (r"^shared_image_embedding\.positional_embedding$", parameters.GAUSSIAN),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", parameters.GAUSSIAN),
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", _TRUNK),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^mask_decoder\.conv_s", "image_encoder.conv_s"),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.proj_in\.", r"\1.lin1."),
    (r"((?:blocks|transformer\.layers)\.\d+\.mlp)\.proj_out\.", r"\1.lin2."),
    (r"\.o_proj\.", ".out_proj."),
    *HUGGINGFACE_HEADS,
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|\w+_head))\.layers\.(\d+)\.", r"\1.inner.\2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|\w+_head))\.proj_in\.", r"\1.layers.0."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)
_INNER = re.compile(r"^(mask_decoder\..+)\.inner\.(\d+)\.(\w+)$")
_LAST = re.compile(r"^(mask_decoder\..+)\.proj_out\.(\w+)$")
_POINTS = "prompt_encoder.point_embed.weight"


def is_meta(names: Iterable[str]) -> bool:
    """Whether these are the names of Meta's state dict."""
    return any(name.startswith(_TRUNK) for name in names)


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether these are the names of the library ``transformers``."""
    return any(name.startswith(_HUGGINGFACE_TRUNK) for name in names)


def from_meta(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors of Meta's state dict under our names, those of its memory left out."""
    return {_renamed(name, _META): value for name, value in stored.items() if not _MEMORY.match(name)}


def to_meta(name: str) -> str:
    """Return the name of a parameter of the prompt encoder or the mask decoder in Meta's state dict."""
    name = re.sub(r"^(prompt_encoder|mask_decoder)\.", r"sam_\1.", name)
    return re.sub(r"(transformer\.layers\.\d+\.mlp)\.lin([12])\.", lambda m: f"{m[1]}.layers.{int(m[2]) - 1}.", name)


def from_huggingface(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors of transformers' ``Sam2Model`` or ``Sam2VideoModel`` under our names, memory left out."""
    tensors: dict[str, Stored] = {}
    for name, value in stored.items():
        if name == _POINTS and len(value.shape) == 2 and value.shape[0] == 4:
            tensors |= {parameters.point_embedding(index): value.row(index) for index in range(4)}
        elif not _MEMORY.match(name):
            tensors[_renamed(name, _HUGGINGFACE)] = value
    depths: dict[str, int] = {}
    for name in tensors:
        if inner := _INNER.match(name):
            depths[inner[1]] = max(depths.get(inner[1], 0), int(inner[2]) + 1)
    return {_numbered(name, depths): value for name, value in tensors.items()}


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _numbered(name: str, depths: Mapping[str, int]) -> str:
    """Return the name of a layer of a head, whose first, inner and last layers are called differently."""
    if inner := _INNER.match(name):
        return f"{inner[1]}.layers.{int(inner[2]) + 1}.{inner[3]}"
    if last := _LAST.match(name):
        return f"{last[1]}.layers.{depths.get(last[1], 0) + 1}.{last[2]}"
    return name
