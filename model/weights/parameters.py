"""The parameters of a SAM network: their names (Meta's), shapes (Paddle's layout) and what each makes possible.

A Linear weight is [in, out] as in Paddle; everything else has the same shape in PyTorch and in Paddle.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Literal

from model.config import ConvConfig, HieraConfig, SamConfig, TinyVitConfig, VitConfig
from model.weights import hiera, tiny_vit
from model.weights.tensors import Shape

Capability = Literal["points", "negative_points", "boxes", "mask_input", "score"]

CAPABILITIES: tuple[Capability, ...] = ("points", "negative_points", "boxes", "mask_input", "score")

GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
NOT_A_POINT = "prompt_encoder.not_a_point_embed.weight"
NO_MASK = "prompt_encoder.no_mask_embed.weight"
IOU_TOKEN = "mask_decoder.iou_token.weight"  # noqa: S105  # a parameter, not a secret
MASK_TOKENS = "mask_decoder.mask_tokens.weight"
TRANSFORMER = "mask_decoder.transformer"
IOU_HEAD = "mask_decoder.iou_prediction_head."
MASK_DOWNSCALING = "prompt_encoder.mask_downscaling."

_LONGEST_KEY, _LONGEST_LIST = 60, 140
_LINEAR_PARENTS = ("qkv", "proj", "q_proj", "k_proj", "v_proj", "out_proj", "lin1", "lin2", "fc1", "fc2")


def point_embedding(index: int) -> str:
    """Return the name of a point embedding: 0 off the object, 1 on it, 2 and 3 the corners of a box."""
    return f"prompt_encoder.point_embeddings.{index}.weight"


def capability_of(name: str) -> Capability | None:
    """Return the capability that needs this parameter, None for one that every network needs."""
    if name.startswith(IOU_HEAD):
        return "score"
    if name.startswith(MASK_DOWNSCALING):
        return "mask_input"
    singles: dict[str, Capability] = {
        point_embedding(0): "negative_points",
        point_embedding(1): "points",
        NOT_A_POINT: "points",
        point_embedding(2): "boxes",
        point_embedding(3): "boxes",
    }
    return singles.get(name)


def is_linear_weight(name: str) -> bool:
    """Whether this is the matrix of a Linear layer, which PyTorch keeps transposed."""
    *parents, last = name.split(".")
    if last != "weight" or not parents:
        return False
    if parents[-1] in _LINEAR_PARENTS:
        return "patch_embed" not in parents
    # The hypernetworks and the IoU head are MLPs whose Linear layers are numbered.
    return parents[-1].isdigit() and len(parents) > 1 and parents[-2] == "layers" and "transformer" not in parents


def parameters(config: SamConfig) -> dict[str, Shape]:
    """Return name and shape of all parameters, in the order in which Meta's code creates its layers.

    SAM 2's have the names of SAM's where they mean the same; `model.weights.sam2_names` distinguishes them.

    For a convolutional trunk the ``image_encoder.*`` names are not SAM's and are left out.
    """
    shapes: dict[str, Shape] = {}
    if isinstance(config.image_encoder, VitConfig):
        shapes.update(_image_encoder(config, config.image_encoder))
    elif isinstance(config.image_encoder, TinyVitConfig):
        shapes.update(tiny_vit.parameters(config, config.image_encoder))
    elif isinstance(config.image_encoder, HieraConfig):
        shapes.update(hiera.image_encoder(config, config.image_encoder))
    shapes.update(_prompt_encoder(config))
    shapes.update(_transformer(config))
    shapes.update(_mask_decoder(config))
    if isinstance(config.image_encoder, HieraConfig):
        shapes.update(hiera.object_score(config))
    return shapes


def conv_trunk(config: SamConfig) -> dict[str, Shape]:
    """Return name and shape of the parameters of a convolutional trunk, in the order of creation, which is that of use.

    It is empty for a Vision Transformer.
    """
    encoder = config.image_encoder
    return dict(_conv_encoder(config, encoder)) if isinstance(encoder, ConvConfig) else {}


def listed(keys: Iterable[object]) -> str:
    """Return how many there are and the first few, in bounded length: ``190 entries: model.a, model.b, ...``."""
    texts = [f"{key!s:.{_LONGEST_KEY}}" for key in keys]
    lengths = accumulate(len(text) + 2 for text in texts)
    shown = [text for text, length in zip(texts, lengths, strict=True) if length <= _LONGEST_LIST]
    return f"{len(texts)} entries: {', '.join(shown)}{', ...' if len(shown) < len(texts) else ''}"


def check(config: SamConfig, shapes: Mapping[str, Shape]) -> frozenset[Capability]:
    """Return what these parameters can do.

    Raises:
        ValueError: a name is missing or foreign, a shape is wrong, or a capability is there by half.
    """
    expected = parameters(config)
    foreign = [name for name in shapes if name not in expected and not _is_trunk(config, name)]
    if foreign:
        raise ValueError(f"expected the parameters of a SAM network, got {foreign[0]} ({len(foreign)} unknown names)")
    missing = [name for name in expected if name not in shapes and capability_of(name) is None]
    if missing:
        raise ValueError(f"expected parameter {missing[0]}, got none ({len(missing)} missing)")
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {shapes[name]}")
    if isinstance(config.image_encoder, ConvConfig) and not any(_is_trunk(config, name) for name in shapes):
        raise ValueError("expected image_encoder.* parameters, got none")
    capabilities = _capabilities(expected, shapes)
    if not capabilities & {"points", "boxes"}:
        raise ValueError("expected the embeddings for points or boxes, got neither")
    return capabilities


def _capabilities(expected: Collection[str], present: Collection[str]) -> frozenset[Capability]:
    capabilities: set[Capability] = set()
    for capability in CAPABILITIES:
        names = [name for name in expected if capability_of(name) == capability]
        missing = [name for name in names if name not in present]
        if missing and len(missing) < len(names):
            raise ValueError(f"{capability}: expected all of its {len(names)} parameters or none, got no {missing[0]}")
        if not missing:
            capabilities.add(capability)
    return frozenset(capabilities)


def _is_trunk(config: SamConfig, name: str) -> bool:
    return isinstance(config.image_encoder, ConvConfig) and name.startswith("image_encoder.")


def _linear(name: str, width_in: int, width_out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width_in, width_out)
    yield f"{name}.bias", (width_out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _image_encoder(config: SamConfig, encoder: VitConfig) -> Iterator[tuple[str, Shape]]:
    width, grid, out = encoder.embed_dim, config.embedding_size, config.prompt_embed_dim
    hidden, head_dim = int(width * encoder.mlp_ratio), width // encoder.num_heads
    yield "image_encoder.pos_embed", (1, grid, grid, width)
    yield "image_encoder.patch_embed.proj.weight", (width, 3, config.patch_size, config.patch_size)
    yield "image_encoder.patch_embed.proj.bias", (width,)
    for index in range(encoder.depth):
        block = f"image_encoder.blocks.{index}"
        side = grid if index in encoder.global_attn_indexes else encoder.window_size
        yield from _norm(f"{block}.norm1", width)
        yield f"{block}.attn.rel_pos_h", (2 * side - 1, head_dim)
        yield f"{block}.attn.rel_pos_w", (2 * side - 1, head_dim)
        yield from _linear(f"{block}.attn.qkv", width, 3 * width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _norm(f"{block}.norm2", width)
        yield from _linear(f"{block}.mlp.lin1", width, hidden)
        yield from _linear(f"{block}.mlp.lin2", hidden, width)
    yield "image_encoder.neck.0.weight", (out, width, 1, 1)
    yield from _norm("image_encoder.neck.1", out)
    yield "image_encoder.neck.2.weight", (out, out, 3, 3)
    yield from _norm("image_encoder.neck.3", out)


def _conv(name: str, width_in: int, width_out: int, side: int = 3) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width_out, width_in, side, side)
    yield f"{name}.bias", (width_out,)


def _conv_blocks(name: str, depth: int, width: int) -> Iterator[tuple[str, Shape]]:
    for index in range(depth):
        yield from _conv(f"{name}.{index}.conv1", width, width)
        yield from _conv(f"{name}.{index}.conv2", width, width)


def _conv_encoder(config: SamConfig, encoder: ConvConfig) -> Iterator[tuple[str, Shape]]:
    root, out, side = "image_encoder", config.prompt_embed_dim, config.image_size // 16
    (width4, width8, width16), (depth4, depth8, depth16) = encoder.widths, encoder.depths
    yield from _conv(f"{root}.stem.0", 3, width4 // 2)
    yield from _conv(f"{root}.stem.2", width4 // 2, width4)
    yield from _conv_blocks(f"{root}.stage4", depth4, width4)
    yield from _conv(f"{root}.down8", width4, width8)
    yield from _conv_blocks(f"{root}.stage8", depth8, width8)
    yield from _conv(f"{root}.down16", width8, width16)
    yield from _conv_blocks(f"{root}.stage16", depth16, width16)
    yield f"{root}.pos_embed", (1, side, side, width16)
    for index in range(encoder.attn_depth):
        block = f"{root}.blocks.{index}"
        yield from _norm(f"{block}.norm1", width16)
        yield from _linear(f"{block}.attn.qkv", width16, 3 * width16)
        yield from _linear(f"{block}.attn.proj", width16, width16)
        yield from _norm(f"{block}.norm2", width16)
        yield from _linear(f"{block}.mlp.lin1", width16, 4 * width16)
        yield from _linear(f"{block}.mlp.lin2", 4 * width16, width16)
    yield from _conv(f"{root}.lateral", width16, width8, 1)
    yield from _conv_blocks(f"{root}.fuse", encoder.fuse_depth, width8)
    yield f"{root}.neck.0.weight", (out, width8, 1, 1)
    yield from _norm(f"{root}.neck.1", out)
    yield f"{root}.neck.2.weight", (out, out, 3, 3)
    yield from _norm(f"{root}.neck.3", out)


def _prompt_encoder(config: SamConfig) -> Iterator[tuple[str, Shape]]:
    width, chans = config.prompt_embed_dim, config.mask_in_chans
    yield GAUSSIAN, (2, width // 2)
    for index in range(4):
        yield point_embedding(index), (1, width)
    yield NOT_A_POINT, (1, width)
    yield f"{MASK_DOWNSCALING}0.weight", (chans // 4, 1, 2, 2)
    yield f"{MASK_DOWNSCALING}0.bias", (chans // 4,)
    yield from _norm(f"{MASK_DOWNSCALING}1", chans // 4)
    yield f"{MASK_DOWNSCALING}3.weight", (chans, chans // 4, 2, 2)
    yield f"{MASK_DOWNSCALING}3.bias", (chans,)
    yield from _norm(f"{MASK_DOWNSCALING}4", chans)
    yield f"{MASK_DOWNSCALING}6.weight", (width, chans, 1, 1)
    yield f"{MASK_DOWNSCALING}6.bias", (width,)
    yield NO_MASK, (1, width)


def _attention(name: str, width: int, inner: int) -> Iterator[tuple[str, Shape]]:
    for projection in ("q_proj", "k_proj", "v_proj"):
        yield from _linear(f"{name}.{projection}", width, inner)
    yield from _linear(f"{name}.out_proj", inner, width)


def _transformer(config: SamConfig) -> Iterator[tuple[str, Shape]]:
    width = config.prompt_embed_dim
    for index in range(config.decoder_depth):
        layer = f"{TRANSFORMER}.layers.{index}"
        yield from _attention(f"{layer}.self_attn", width, width)
        yield from _norm(f"{layer}.norm1", width)
        yield from _attention(f"{layer}.cross_attn_token_to_image", width, width // 2)
        yield from _norm(f"{layer}.norm2", width)
        yield from _linear(f"{layer}.mlp.lin1", width, config.decoder_mlp_dim)
        yield from _linear(f"{layer}.mlp.lin2", config.decoder_mlp_dim, width)
        yield from _norm(f"{layer}.norm3", width)
        yield from _norm(f"{layer}.norm4", width)
        yield from _attention(f"{layer}.cross_attn_image_to_token", width, width // 2)
    yield from _attention(f"{TRANSFORMER}.final_attn_token_to_image", width, width // 2)
    yield from _norm(f"{TRANSFORMER}.norm_final_attn", width)


def _mlp(name: str, widths: tuple[int, ...]) -> Iterator[tuple[str, Shape]]:
    for index, (width_in, width_out) in enumerate(pairwise(widths)):
        yield from _linear(f"{name}.layers.{index}", width_in, width_out)


def _mask_decoder(config: SamConfig) -> Iterator[tuple[str, Shape]]:
    width, tokens = config.prompt_embed_dim, config.num_multimask_outputs + 1
    yield IOU_TOKEN, (1, width)
    yield MASK_TOKENS, (tokens, width)
    yield "mask_decoder.output_upscaling.0.weight", (width, width // 4, 2, 2)
    yield "mask_decoder.output_upscaling.0.bias", (width // 4,)
    yield from _norm("mask_decoder.output_upscaling.1", width // 4)
    yield "mask_decoder.output_upscaling.3.weight", (width // 4, width // 8, 2, 2)
    yield "mask_decoder.output_upscaling.3.bias", (width // 8,)
    for index in range(tokens):
        yield from _mlp(f"mask_decoder.output_hypernetworks_mlps.{index}", (width, width, width, width // 8))
    inner = (config.iou_head_hidden_dim,) * (config.iou_head_depth - 1)
    yield from _mlp(IOU_HEAD.rstrip("."), (width, *inner, tokens))
