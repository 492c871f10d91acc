"""The shape of a SAM network, which must be known before the weights of a checkpoint can be used."""

import json
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
UNIT_MEAN = (0.485, 0.456, 0.406)
UNIT_STD = (0.229, 0.224, 0.225)
"""The same as SAM 2 writes them, for pixels from 0 to 1."""

LEAST_DIVIDED = 1 << 19
"""Numbers in an embedding from which on one prompt's decode is divided among cores. Below that, as in the demo model
(98,000; SAM has a million), handing parts to threads takes as long as computing them.
"""

_LARGEST = 1 << 16
_DEEPEST = 1 << 10
"""No network is as large, or as deep; numbers beyond them would only fill the memory."""


@dataclass(frozen=True)
class VitConfig:
    """The plain Vision Transformer of the paper (windowed blocks with a few global ones)."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    mlp_ratio: float = 4.0
    kind: Literal["vit"] = "vit"

    def __post_init__(self) -> None:
        _check_sizes(self, "embed_dim", "num_heads", "window_size")
        _check_sizes(self, "depth", most=_DEEPEST)
        _check_list("global_attn_indexes", self.global_attn_indexes, least=0)
        if not isinstance(self.mlp_ratio, int | float) or not 1 / self.embed_dim <= self.mlp_ratio <= _LARGEST:
            raise ValueError(f"mlp_ratio: expected a positive number, got {reprlib.repr(self.mlp_ratio)}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim: expected a multiple of num_heads={self.num_heads}, got {self.embed_dim}")
        indexes = self.global_attn_indexes
        if len(indexes) > self.depth or any(index >= self.depth for index in indexes):
            raise ValueError(f"global_attn_indexes: expected blocks 0 to {self.depth - 1}, got {reprlib.repr(indexes)}")


@dataclass(frozen=True)
class ConvConfig:
    """A small convolutional trunk with attention at its coarsest stage (the ``demo`` model).

    ``widths`` are the channels at strides 4, 8 and 16, ``depths`` the blocks at each of them, ``attn_depth`` the
    number of global attention blocks at stride 16, ``fuse_depth`` that of the convolution blocks that merge strides
    16 and 8. The embedding leaves at stride 8, which is ``SamConfig.patch_size``.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attn_depth: int
    attn_heads: int
    fuse_depth: int = 2
    kind: Literal["conv"] = "conv"

    def __post_init__(self) -> None:
        _check_sizes(self, "attn_heads")
        _check_sizes(self, "attn_depth", "fuse_depth", least=0, most=_DEEPEST)
        _check_list("widths", self.widths, least=2, length=3)
        _check_list("depths", self.depths, least=0, most=_DEEPEST, length=3)
        if self.widths[2] % self.attn_heads:
            raise ValueError(f"attn_heads: expected a divisor of {self.widths[2]}, got {self.attn_heads}")


@dataclass(frozen=True)
class TinyVitConfig:
    """MobileSAM's trunk: a convolutional stage and three that attend within windows (Wu et al., "TinyViT", 2022).

    ``embed_dims`` are the channels of the four stages, ``depths`` their blocks; ``num_heads`` and ``window_sizes``
    those of the last three. The stages are at strides 4, 8, 16 and 16; the embedding leaves at the last, which is
    ``SamConfig.patch_size``.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    mlp_ratio: float = 4.0
    expand_ratio: float = 4.0
    kind: Literal["tiny_vit"] = "tiny_vit"

    def __post_init__(self) -> None:
        _check_list("embed_dims", self.embed_dims, least=2, length=4)
        _check_list("depths", self.depths, least=1, most=_DEEPEST, length=4)
        _check_list("num_heads", self.num_heads, least=1, length=3)
        _check_list("window_sizes", self.window_sizes, least=1, most=_DEEPEST, length=3)
        for name in ("mlp_ratio", "expand_ratio"):
            ratio = getattr(self, name)
            if not isinstance(ratio, int | float) or not 1 / min(self.embed_dims) <= ratio <= _LARGEST:
                raise ValueError(f"{name}: expected a positive number, got {reprlib.repr(ratio)}")
        for dim, heads in zip(self.embed_dims[1:], self.num_heads, strict=True):
            if dim % heads:
                raise ValueError(f"num_heads: expected a divisor of {dim}, got {heads}")


@dataclass(frozen=True)
class HieraConfig:
    """SAM 2's trunk: stages at strides 4, 8, 16 and 32, each with twice the channels and heads of the one before.

    ``depths`` are the blocks of the four stages, ``window_sizes`` the sides of their windows in tokens (the first block
    of a stage still has the window of the stage before), ``global_attn_indexes`` the blocks that attend over the whole
    grid. ``background_size`` is the side of the coarse half of the position embedding. ``SamConfig``'s ``patch_size``
    is the stride of the image embedding, 16.
    """

    embed_dim: int
    num_heads: int
    depths: tuple[int, ...]
    global_attn_indexes: tuple[int, ...]
    background_size: int
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    mlp_ratio: float = 4.0
    kind: Literal["hiera"] = "hiera"

    def __post_init__(self) -> None:
        _check_sizes(self, "embed_dim", "num_heads", "background_size")
        _check_list("depths", self.depths, least=1, most=_DEEPEST, length=4)
        _check_list("window_sizes", self.window_sizes, least=1, most=_DEEPEST, length=4)
        _check_list("global_attn_indexes", self.global_attn_indexes, least=0)
        if not isinstance(self.mlp_ratio, int | float) or not 1 / self.embed_dim <= self.mlp_ratio <= _LARGEST:
            raise ValueError(f"mlp_ratio: expected a positive number, got {reprlib.repr(self.mlp_ratio)}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim: expected a multiple of num_heads={self.num_heads}, got {self.embed_dim}")
        if any(side % 2 for side in self.window_sizes[:3]):
            raise ValueError(f"window_sizes: expected even sides but for the last, got {self.window_sizes}")
        able = set(range(1, sum(self.depths))) - set(self.stage_starts)
        if not able >= set(self.global_attn_indexes):
            raise ValueError(
                f"global_attn_indexes: expected blocks below {sum(self.depths)} that begin no stage, "
                f"got {reprlib.repr(self.global_attn_indexes)}"
            )

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """The first blocks of the second, third and fourth stage, which halve the grid."""
        return tuple(sum(self.depths[:stage]) for stage in (1, 2, 3))


@dataclass(frozen=True)
class SamConfig:
    """One SAM network; sizes in pixels of the model's square input, widths in channels."""

    name: str
    image_encoder: VitConfig | ConvConfig | TinyVitConfig | HieraConfig
    image_size: int = 1024
    patch_size: int = 16
    prompt_embed_dim: int = 256
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_num_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    num_multimask_outputs: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name: expected text, got {reprlib.repr(self.name)}")
        _check_sizes(self, "image_size", "patch_size", "decoder_num_heads", "decoder_mlp_dim", "iou_head_hidden_dim")
        _check_sizes(self, "decoder_depth", "iou_head_depth", most=_DEEPEST)
        _check_sizes(self, "num_multimask_outputs", least=0, most=_DEEPEST)
        _check_sizes(self, "mask_in_chans", least=4)
        _check_sizes(self, "prompt_embed_dim", least=8)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size: expected a multiple of patch_size={self.patch_size}, got {self.image_size}")
        if isinstance(self.image_encoder, HieraConfig):
            self._check_hiera(self.image_encoder)
        # Attention between tokens and image has half the width.
        if self.prompt_embed_dim % 2 or self.prompt_embed_dim // 2 % self.decoder_num_heads:
            half = self.prompt_embed_dim / 2
            raise ValueError(f"decoder_num_heads: expected a divisor of {half:g}, got {self.decoder_num_heads}")

    def _check_hiera(self, encoder: HieraConfig) -> None:
        if self.patch_size != 16:
            raise ValueError(f"patch_size: expected 16 for a Hiera encoder, got {self.patch_size}")
        if self.image_size % 32 or self.image_size // 4 % encoder.window_sizes[0]:
            window = encoder.window_sizes[0]
            raise ValueError(f"image_size: expected a multiple of 32 and of 4 x {window}, got {self.image_size}")

    @property
    def embedding_size(self) -> int:
        """Side of the square image embedding, in tokens."""
        return self.image_size // self.patch_size

    @property
    def low_res_size(self) -> int:
        """Side of the square low-resolution logits and of a mask input."""
        return 4 * self.embedding_size

    @property
    def divides_decodes(self) -> bool:
        """Whether cores share the decode of one prompt; see `LEAST_DIVIDED`."""
        return self.embedding_size**2 * self.prompt_embed_dim >= LEAST_DIVIDED

    def decodes_at_once(self, cores: int) -> int:
        """Return how many threads decode at a time: where cores, up to four, share a decode, another takes idle ones.

        Decodes of a small network would wait for each other in Python.
        """
        return max(1, cores // 4) + (cores > 1 and self.divides_decodes)

    @property
    def family(self) -> str:
        """The kind of network, ``sam`` or ``sam2``: the decoder of one has no use for an embedding of the other."""
        return "sam2" if isinstance(self.image_encoder, HieraConfig) else "sam"

    @property
    def keeps_shape(self) -> bool:
        """Whether a photo keeps its shape inside the square input; SAM 2 stretches it to the square."""
        return self.family != "sam2"

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Names and shapes (C, h, w) of an embedding's maps, the main one first."""
        width, side = self.prompt_embed_dim, self.embedding_size
        shapes = {"image_embedding": (width, side, side)}
        if self.family == "sam2":
            shapes["high_res_feat_s0"] = (width // 8, 4 * side, 4 * side)
            shapes["high_res_feat_s1"] = (width // 4, 2 * side, 2 * side)
        return shapes

    def to_json(self) -> str:
        """Return the configuration as one line of JSON (what our safetensors files carry as metadata)."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "SamConfig":
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is not JSON or describes no network.
        """
        try:
            fields: dict[str, Any] = json.loads(text)  # Any: unvalidated JSON, checked by the constructors below
            encoder: dict[str, Any] = fields.pop("image_encoder")  # Any: likewise
            encoder = {k: tuple(v) if isinstance(v, list) else v for k, v in encoder.items()}
            return cls(image_encoder=_KINDS[encoder["kind"]](**encoder), **fields)
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"expected a SAM configuration as JSON, got {text[:80]!r}") from error


_KINDS: Mapping[str, type[VitConfig] | type[ConvConfig] | type[TinyVitConfig] | type[HieraConfig]] = {
    "vit": VitConfig,
    "conv": ConvConfig,
    "tiny_vit": TinyVitConfig,
    "hiera": HieraConfig,
}


def _check_sizes(config: object, *names: str, least: int = 1, most: int = _LARGEST) -> None:
    for name in names:
        _check_size(name, getattr(config, name), least, most)


def _check_list(
    name: str, values: Collection[int], *, least: int, most: int = _LARGEST, length: int | None = None
) -> None:
    if not isinstance(values, tuple) or (length is not None and len(values) != length):
        raise ValueError(f"{name}: expected {length or 'some'} whole numbers, got {reprlib.repr(values)}")
    for value in values:
        _check_size(name, value, least, most)


def _check_size(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {reprlib.repr(value)}")


def vit_b(image_size: int = 1024) -> SamConfig:
    """Return the configuration of ``sam_vit_b`` (91 M encoder parameters)."""
    return SamConfig("vit_b", VitConfig(768, 12, 12, (2, 5, 8, 11)), image_size)


def vit_l(image_size: int = 1024) -> SamConfig:
    """Return the configuration of ``sam_vit_l`` (308 M encoder parameters)."""
    return SamConfig("vit_l", VitConfig(1024, 24, 16, (5, 11, 17, 23)), image_size)


def vit_h(image_size: int = 1024) -> SamConfig:
    """Return the configuration of ``sam_vit_h`` (636 M encoder parameters)."""
    return SamConfig("vit_h", VitConfig(1280, 32, 16, (7, 15, 23, 31)), image_size)


def mobile_sam() -> SamConfig:
    """Return the configuration of ``mobile_sam`` (6 M encoder parameters): for CPUs."""
    return SamConfig("mobile_sam", TinyVitConfig((64, 128, 160, 320), (2, 2, 6, 2), (4, 5, 10), (7, 14, 7)))


def sam2_1_hiera_tiny() -> SamConfig:
    """Return the configuration of ``sam2.1_hiera_tiny`` (27 M encoder parameters)."""
    return SamConfig("sam2.1_hiera_tiny", HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9), 7))


def sam2_1_hiera_small() -> SamConfig:
    """Return the configuration of ``sam2.1_hiera_small`` (34 M encoder parameters)."""
    return SamConfig("sam2.1_hiera_small", HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13), 7))


def sam2_1_hiera_base_plus() -> SamConfig:
    """Return the configuration of ``sam2.1_hiera_base_plus`` (69 M encoder parameters)."""
    return SamConfig("sam2.1_hiera_base_plus", HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), 14))


def sam2_1_hiera_large() -> SamConfig:
    """Return the configuration of ``sam2.1_hiera_large`` (212 M encoder parameters)."""
    return SamConfig("sam2.1_hiera_large", HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), 7, (8, 4, 16, 8)))


def demo() -> SamConfig:
    """Return the configuration of the model that ships: for trying things out, not for labelling photographs."""
    return SamConfig(
        "demo",
        ConvConfig(widths=(48, 96, 160), depths=(2, 2, 1), attn_depth=4, attn_heads=5),
        image_size=256,
        patch_size=8,
        prompt_embed_dim=96,
        decoder_num_heads=4,
        decoder_mlp_dim=256,
        iou_head_hidden_dim=96,
    )
