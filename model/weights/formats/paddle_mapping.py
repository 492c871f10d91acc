"""Which parameter of an exported program is which of SAM's.

A program knows its parameters only as ``linear_0.w_0``. Two independent orders tell them apart, and both must agree:

* the order of first use follows SAM's forward pass (Kirillov et al., "Segment Anything", 2023, fig. 4): image
  encoder, prompt encoder, decoder;
* the numbers in the names follow the order in which the layers of each type were created, which is Meta's order in
  every exporter. They also tell which of the eight embeddings a pruned export has kept.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from model.config import SamConfig
from model.weights import infer_config, parameters
from model.weights.formats.paddle_program import Program
from model.weights.tensors import Shape

_UNIQUE = re.compile(r"^(?P<layer>.+)_(?P<number>\d+)\.(?P<role>[wb])_(?P<index>\d+)$")
_EMBEDDINGS = (
    *map(parameters.point_embedding, range(4)),
    parameters.NOT_A_POINT,
    parameters.NO_MASK,
    parameters.IOU_TOKEN,
)
"""The tables of one row in the order of their creation; the mask tokens follow."""
_BLOCK = (
    *("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.rel_pos_h", "attn.rel_pos_w"),
    *("attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias"),
    *("mlp.lin1.weight", "mlp.lin1.bias", "mlp.lin2.weight", "mlp.lin2.bias"),
)
_STEM = ("patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed")
_NECK = ("neck.0.weight", "neck.1.weight", "neck.1.bias", "neck.2.weight", "neck.3.weight", "neck.3.bias")
_UPSCALING = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
_MASK_CONVS = [f"{parameters.MASK_DOWNSCALING}{at}.{part}" for at in (0, 3, 6) for part in ("weight", "bias")]
_MASK_NORMS = [f"{parameters.MASK_DOWNSCALING}{at}.{part}" for at in (1, 4) for part in ("weight", "bias")]


def assign(program: Program, config: SamConfig | None = None) -> dict[str, str]:
    """Return the program's unique names, each with Meta's name of the parameter.

    Parameters that the program keeps without using them are recognised by their numbers; those that are not SAM's are
    left out.

    Args:
        program: what was exported.
        config: the network's sizes, where they are known; without them the trunk is a Vision Transformer.

    Raises:
        ValueError: the program is not SAM's, or the two orders disagree.
    """
    trunk = {} if config is None else parameters.conv_trunk(config)
    image, prompt, decoder = _split(program.uses, program.parameters, len(trunk))
    assigned = dict(zip(image, trunk or _image_names(len(image)), strict=True))
    for unique, meta in assigned.items():
        if meta in trunk and program.parameters[unique] != trunk[meta]:
            raise ValueError(f"{meta}: expected shape {trunk[meta]}, got {program.parameters[unique]}")
    assigned.update(_prompt_names(prompt, program))
    tokens = program.parameters[prompt[-1]][0]
    assigned.update(zip(decoder, _decoder_names(decoder, program.parameters, tokens), strict=True))
    assigned.update(_unused_names(program, assigned))
    _check_creation_order(program, assigned, config)
    return assigned


def _split(
    uses: Sequence[str], shapes: Mapping[str, Shape], trunk: int
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Cut the uses into image encoder, prompt encoder with the output tokens, and the rest of the decoder.

    ``trunk`` is how many parameters the image encoder has, 0 where that is unknown.
    """
    convolutions = [at for at, name in enumerate(uses) if len(shapes[name]) == 4]
    # patch embedding, position embedding, two convolutions of the neck
    neck = [at for at in convolutions if at >= len(_STEM)]
    if convolutions[:1] != [0] or len(neck) < 2 or len(uses) < trunk:
        raise ValueError("expected a program that begins with SAM's image encoder, got another network")
    start = trunk or neck[0] + len(_NECK)
    rest = uses[start:]
    tokens = next((at for at, name in enumerate(rest) if _is_square(shapes[name])), None)
    if tokens is None:
        raise ValueError("expected SAM's mask decoder after the image encoder, got none")
    return uses[:start], rest[:tokens], rest[tokens:]


def _is_square(shape: Shape) -> bool:
    return len(shape) == 2 and shape[0] == shape[1]


def _image_names(count: int) -> list[str]:
    depth, left = divmod(count - len(_STEM) - len(_NECK), len(_BLOCK))
    if left or depth < 1:
        raise ValueError(
            f"expected {len(_BLOCK)} parameters in each block of the image encoder, got {left} left over; of another "
            "trunk the description has to tell the sizes, as exports of today do"
        )
    blocks = [f"blocks.{index}.{part}" for index in range(depth) for part in _BLOCK]
    return [f"image_encoder.{part}" for part in (*_STEM, *blocks, *_NECK)]


def _prompt_names(uses: Sequence[str], program: Program) -> dict[str, str]:
    """Name the gaussian matrix, the embeddings in use and the output tokens, whatever order a forward takes them in."""
    shapes = program.parameters
    two_rows = [name for name in uses if len(shapes[name]) == 2 and shapes[name][0] == 2]
    singles = [name for name in uses if len(shapes[name]) == 2 and shapes[name][0] == 1]
    if len(two_rows) != 1 or len(uses) != len(singles) + 2 or uses[-1] in (*two_rows, *singles):
        used = [shapes[name] for name in uses]
        raise ValueError(f"expected SAM's prompt encoder and output tokens, got parameters of shapes {used}")
    assigned = {two_rows[0]: parameters.GAUSSIAN, uses[-1]: parameters.MASK_TOKENS}
    last = _number(uses[-1])
    for name in singles:
        back = last - _number(name)
        if not 1 <= back <= len(_EMBEDDINGS):
            raise ValueError(f"expected {name} among the eight embeddings before {uses[-1]}, got another number")
        assigned[name] = _EMBEDDINGS[-back]
    _check_prompt_order([assigned[name] for name in singles], program.inputs)
    return assigned


def _check_prompt_order(used: Sequence[str], inputs: Mapping[str, Shape]) -> None:
    """Check the roles that the numbers gave against the order of use and the kind of prompt."""
    corners = (parameters.point_embedding(2), parameters.point_embedding(3))
    point = {parameters.NOT_A_POINT, parameters.point_embedding(1)}
    prompts = [name for name in used if name not in (parameters.NO_MASK, parameters.IOU_TOKEN)]
    last_sides = {shape[-1] for name, shape in inputs.items() if len(shape) in (2, 3)}
    is_box = tuple(prompts) == corners and not last_sides & {2}
    is_point = set(prompts) - {parameters.point_embedding(0)} == point and not last_sides & {4}
    # The dense embedding joins the image before or after the sparse ones are made, never between them.
    between = parameters.NO_MASK in used[1:-2]
    if used[-1] != parameters.IOU_TOKEN or parameters.NO_MASK not in used or between or not (is_box or is_point):
        raise ValueError(f"expected the embeddings of one kind of prompt in SAM's order, got {', '.join(used)}")


def _decoder_names(uses: Sequence[str], shapes: Mapping[str, Shape], tokens: int) -> list[str]:
    attention = [f"{part}_proj.{role}" for part in "qkv" for role in ("weight", "bias")]
    attention += ["out_proj.weight", "out_proj.bias"]
    layer = list(_two_way_layer(attention))
    final = [f"final_attn_token_to_image.{part}" for part in attention]
    final += ["norm_final_attn.weight", "norm_final_attn.bias"]
    depth = 0
    while depth * len(layer) < len(uses) and _is_square(shapes[uses[depth * len(layer)]]):
        depth += 1  # the attention after the last layer begins with a projection to half the width
    names = [f"{parameters.TRANSFORMER}.layers.{index}.{part}" for index in range(depth) for part in layer]
    names += [f"{parameters.TRANSFORMER}.{part}" for part in final]
    rest = uses[len(names) :]
    # Some forwards make the hypernetworks' kernels before they upscale the image, Meta's after.
    start = next((at for at, name in enumerate(rest) if len(shapes[name]) == 4), None)
    if start is None or len(rest) < start + len(_UPSCALING):
        raise ValueError("expected two transposed convolutions after the transformer of the mask decoder, got none")
    heads = _heads(len(rest) - len(_UPSCALING), tokens)
    upscaling = [f"mask_decoder.output_upscaling.{part}" for part in _UPSCALING]
    return [*names, *heads[:start], *upscaling, *heads[start:]]


def _two_way_layer(attention: Sequence[str]) -> Iterator[str]:
    parts = ("self_attn", "norm1", "cross_attn_token_to_image", "norm2", "mlp", "norm3")
    for part in (*parts, "cross_attn_image_to_token", "norm4"):
        if "attn" in part:
            yield from (f"{part}.{name}" for name in attention)
        elif part == "mlp":
            yield from ("mlp.lin1.weight", "mlp.lin1.bias", "mlp.lin2.weight", "mlp.lin2.bias")
        else:
            yield from (f"{part}.weight", f"{part}.bias")


def _heads(count: int, tokens: int) -> list[str]:
    """Name three layers of each token's hypernetwork, then the layers of the IoU head if the program has kept it."""
    names = [
        f"mask_decoder.output_hypernetworks_mlps.{index}.layers.{at}.{part}"
        for index in range(tokens)
        for at in range(3)
        for part in ("weight", "bias")
    ]
    left = count - len(names)
    if left < 0 or left % 2:
        raise ValueError(f"expected {len(names)} parameters in SAM's {tokens} hypernetworks, got {count}")
    return names + _iou_head(left // 2)


def _iou_head(depth: int) -> list[str]:
    return [f"{parameters.IOU_HEAD}layers.{at}.{part}" for at in range(depth) for part in ("weight", "bias")]


def _unused_names(program: Program, assigned: Mapping[str, str]) -> dict[str, str]:
    """Name what the program carries without using it: all of a part of SAM, or none."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted((n for n in program.parameters if n not in assigned and _UNIQUE.match(n)), key=_key):
        groups[_layer(name)].append(name)
    meta = {value: key for key, value in assigned.items()}
    unused: dict[str, str] = {}
    linears = groups.get(_layer(meta[f"{parameters.TRANSFORMER}.layers.0.self_attn.q_proj.weight"]), [])
    if f"{parameters.IOU_HEAD}layers.0.weight" not in meta and len(linears) % 2 == 0:
        unused.update(zip(linears, _iou_head(len(linears) // 2), strict=True))
    convolutions = groups.get(_layer(meta["image_encoder.neck.0.weight"]), [])
    norms = groups.get(_layer(meta["image_encoder.neck.1.weight"]), [])
    if len(convolutions) == len(_MASK_CONVS) and len(norms) == len(_MASK_NORMS):
        unused.update(zip([*convolutions, *norms], [*_MASK_CONVS, *_MASK_NORMS], strict=True))
    last = _number(meta[parameters.MASK_TOKENS])
    for name in groups.get(_layer(meta[parameters.MASK_TOKENS]), []):
        back = last - _number(name)
        if 1 <= back <= len(_EMBEDDINGS):
            unused[name] = _EMBEDDINGS[-back]
    return unused


def _check_creation_order(program: Program, assigned: Mapping[str, str], config: SamConfig | None) -> None:
    shapes = {meta: program.parameters[name] for name, meta in assigned.items()}
    config = config or infer_config.infer(shapes)
    rank = {name: at for at, name in enumerate([*parameters.conv_trunk(config), *parameters.parameters(config)])}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in assigned:
        if _UNIQUE.match(name):
            groups[_layer(name)].append(name)
    for group in groups.values():
        created = [assigned[name] for name in sorted(group, key=_key)]
        for earlier, later in pairwise(created):
            if rank.get(earlier, -1) >= rank.get(later, len(rank)):
                raise ValueError(f"expected {earlier} to be created after {later} as it is used, got the opposite")


def _key(name: str) -> tuple[int, bool, int]:
    match = _UNIQUE.match(name)
    assert match is not None
    return int(match["number"]), match["role"] == "b", int(match["index"])


def _layer(name: str) -> str:
    match = _UNIQUE.match(name)
    return match["layer"] if match else name


def _number(name: str) -> int:
    match = _UNIQUE.match(name)
    if match is None:
        raise ValueError(f"expected an embedding with a number, got {name}")
    return int(match["number"])
