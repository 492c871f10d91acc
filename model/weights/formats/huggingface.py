"""Hugging Face's ``facebook/sam-vit-*`` and what was trained from them: the same parameters under other names."""

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path

from model.config import HieraConfig
from model.weights import infer_config, parameters, sam2_names
from model.weights.errors import WeightsError
from model.weights.tensors import Stored

_TIED = "shared_image_embedding.positional_embedding"
_RENAMES = (
    (r"^shared_image_embedding\.positional_embedding$", parameters.GAUSSIAN),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    *sam2_names.HUGGINGFACE_HEADS,
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)
_MLP = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.(proj_in|layers\.(\d+)|proj_out)\."
)


def has_its_names(stored: Mapping[str, Stored]) -> bool:
    """Whether these are the names that ``transformers`` gives the parameters of SAM."""
    return any(key.startswith("vision_encoder.") for key in stored)


def renamed(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors under Meta's names, in the layout that they have."""
    depths = _depths(stored)
    tensors: dict[str, Stored] = {}
    for key, value in stored.items():
        if key == "prompt_encoder.shared_embedding.positional_embedding" and _TIED in stored:
            continue  # the same numbers a second time: the two are tied
        tensors[meta_name(key, depths)] = value
    return tensors


def trunk(path: Path) -> tuple[HieraConfig | None, int | None]:
    """Return SAM 2's trunk and the side of its input as a ``config.json`` has them, None where it has not.

    Raises:
        WeightsError: its sizes make no network.
    """
    try:
        backbone = json.loads(path.read_bytes())["vision_config"]["backbone_config"]
        sizes = (
            backbone["hidden_size"],
            backbone["num_attention_heads"],
            tuple(backbone["blocks_per_stage"]),
            tuple(backbone["global_attention_blocks"]),
            backbone["window_positional_embedding_background_size"][0],
            tuple(backbone["window_size_per_stage"]),
        )
        image_size = backbone["image_size"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None, None  # none, some other file of that name, or one that leaves out what is as published
    try:
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"image_size: expected a whole number of at least 1, got {reprlib.repr(image_size)}")
        return HieraConfig(*sizes), image_size
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def meta_name(name: str, depths: Mapping[str, int]) -> str:
    """Return Meta's name of a parameter; ``depths`` says how many inner layers each MLP head has."""
    name = name.replace("prompt_encoder.shared_embedding.", "shared_image_embedding.")
    if match := _MLP.match(name):
        head, part, inner = match.groups()
        index = 0 if part == "proj_in" else int(inner) + 1 if inner else depths.get(head, 0) + 1
        return f"{head}.layers.{index}.{name[match.end() :]}"
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _depths(stored: Mapping[str, Stored]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name in stored:
        if (match := _MLP.match(name)) and match[3] is not None:
            depths[match[1]] = max(depths.get(match[1], 0), int(match[3]) + 1)
    return depths


def decoder_heads(path: Path) -> int:
    """Return the heads of the decoder's attention, which no shape shows but a ``config.json`` may.

    Raises:
        WeightsError: it has an impossible number.
    """
    if not path.is_file():
        return infer_config.DECODER_HEADS
    try:
        heads = json.loads(path.read_bytes())["mask_decoder_config"].get(
            "num_attention_heads", infer_config.DECODER_HEADS
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return infer_config.DECODER_HEADS  # some other file of that name
    if not isinstance(heads, int) or heads < 1:
        raise WeightsError(f"{path}: expected num_attention_heads of at least 1, got {reprlib.repr(heads)}")
    return heads
