"""A checkpoint: the parameters of one SAM network, whatever file they came from."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from model.config import PIXEL_MEAN, PIXEL_STD, HieraConfig, SamConfig, VitConfig
from model.weights import infer_config, parameters, tiny_vit
from model.weights.errors import WeightsError
from model.weights.parameters import Capability
from model.weights.tensors import FloatArray, Joined, LazyTensors, Shape, Stored, shapes_of

_BLOCK_BYTES = 1 << 20
_VAGUE_NAMES = {"model", "model_state", "inference", "pytorch_model", "sam", "weights", "checkpoint"}
_PIXELS = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of one network, every name and shape checked.

    Attributes:
        name: what people call the model, e.g. ``SAM-H_box``.
        config: the network's sizes.
        tensors: Meta's parameter names to float32 arrays in Paddle's layout (a Linear weight is [in, out]).
        digest: SHA-256 of the files, in hexadecimal (`digest_of`). The same weights in two formats differ in it.
        format: ``paddlex``, ``meta``, ``huggingface``, ``paddlemix``, ``native`` or ``merged``.
        path: the file or directory they came from.
        decoder_name: names the fine-tuned decoder among them, see `model.weights.decoder_weights`; empty for the
            decoder that came with the encoder.
        capabilities: what the parameters that are there allow; follows from ``tensors``.

    Raises:
        WeightsError: a parameter is missing, foreign or of another shape than ``config`` asks for.
    """

    name: str
    config: SamConfig
    tensors: Mapping[str, FloatArray]
    digest: str
    format: str
    path: Path
    decoder_name: str = ""
    capabilities: frozenset[Capability] = field(init=False)

    def __post_init__(self) -> None:
        try:
            capabilities = parameters.check(self.config, shapes_of(self.tensors))
        except ValueError as error:
            raise WeightsError(f"{self.path}: {error}") from error
        object.__setattr__(self, "capabilities", capabilities)

    @property
    def encoder_version(self) -> str:
        """Name and the first eight digits of the digest, e.g. ``SAM-H_box@1a2b3c4d``; embeddings carry it."""
        return f"{self.name}@{self.digest[:8]}"

    @property
    def model_version(self) -> str:
        """The encoder's version and the name of a fine-tuned decoder, e.g. ``SAM-H_box@1a2b3c4d+p12-9f8e7d6c``."""
        return f"{self.encoder_version}+{self.decoder_name}" if self.decoder_name else self.encoder_version


def assemble(
    path: Path,
    stored: Mapping[str, Stored],
    *,
    name: str | None,
    digest: str,
    file_format: str,
    decoder_heads: int = infer_config.DECODER_HEADS,
    trunk: HieraConfig | None = None,
    image_size: int | None = None,
) -> Checkpoint:
    """Return the checkpoint of these unread tensors, its configuration inferred from their shapes.

    Args:
        path: of the file.
        stored: our names of parameters to tensors in Paddle's layout.
        name: what to call the model; by default derived from the path.
        digest: of the file.
        file_format: see `Checkpoint`.
        decoder_heads: of the mask decoder.
        trunk: SAM 2's, where it is known from something other than the shapes.
        image_size: likewise, in pixels.

    Raises:
        WeightsError: they are not the parameters of a SAM network.
    """
    kept = {key: value for key, value in stored.items() if key not in _PIXELS}
    for key in _PIXELS.keys() & stored.keys():
        values = np.asarray(stored[key].load(), np.float32).ravel()
        if not np.allclose(values, _PIXELS[key]):
            raise WeightsError(f"{path}: expected {key} {_PIXELS[key]}, got {values.tolist()}")
    try:
        kept = tiny_vit.fold(kept)
        config = infer_config.infer({key: value.shape for key, value in kept.items()}, decoder_heads, trunk)
        config = replace(config, image_size=image_size or config.image_size)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}, among {parameters.listed(kept)}") from error
    fitted = _fit_relative_positions(kept, config)
    return Checkpoint(name or name_of(path), config, LazyTensors(fitted, path), digest, file_format, path)


def merge(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """Return one checkpoint with what both can do, from two pruned exports of the same weights.

    It is the same one, of the same version, in whichever order they are given: processes that share embeddings and
    predictions may name them in different orders.

    Raises:
        WeightsError: they differ in a parameter that both hold, so an embedding of one would mean nothing to the other.
    """
    first, second = sorted((first, second), key=merge_order)
    paths = f"{first.path} and {second.path}"
    configs = [checkpoint.config for checkpoint in (first, second)]
    sizes = [(config.image_encoder, config.image_size, config.decoder_num_heads) for config in configs]
    if sizes[0] != sizes[1]:
        raise WeightsError(f"{paths}: expected exports of one network, got {first.config} and {second.config}")
    for key in first.tensors.keys() & second.tensors.keys():
        if not np.array_equal(first.tensors[key], second.tensors[key]):
            raise WeightsError(f"{paths}: expected exports of the same weights, got two different {key}")
    tensors = Joined(first.tensors, second.tensors)
    digest = hashlib.sha256("".join(sorted((first.digest, second.digest))).encode()).hexdigest()
    # The fuller of the two knows the sizes of parts that the other has left out.
    config = first.config if "score" in first.capabilities or "score" not in second.capabilities else second.config
    return Checkpoint(f"{first.name}+{second.name}", config, tensors, digest, "merged", first.path)


def merge_order(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return what checkpoints are sorted by before they are merged."""
    return checkpoint.name, checkpoint.digest


def digest_of(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the files' contents, one after the other; for one file what ``sha256sum`` prints."""
    digest = hashlib.sha256()
    buffer = bytearray(_BLOCK_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def name_of(path: Path) -> str:
    """Return what people call the weights in this file or directory.

    ``SAM-H_box_infer`` is SAM-H_box, ``sam_vit_b_01ec64.pth`` is sam_vit_b; a file with a name of no meaning
    (``model.safetensors``) is called like its directory.
    """
    path = path.resolve()
    stem = path.name if path.is_dir() else path.stem
    if stem in _VAGUE_NAMES and path.parent.name:
        stem = path.parent.name
    stem = re.sub(r"_(infer|[0-9a-f]{6,8})$", "", stem)
    return re.sub(r"[^A-Za-z0-9._+-]", "-", stem)


def _fit_relative_positions(stored: Mapping[str, Stored], config: SamConfig) -> dict[str, Stored]:
    """Return the tensors with relative positions that were made for a larger input fitted to this one.

    Meta's ``get_rel_pos`` interpolates them at every call; once, here, is enough.
    """
    fitted = dict(stored)
    encoder = config.image_encoder
    if not isinstance(encoder, VitConfig):
        return fitted
    length = 2 * config.embedding_size - 1
    for index in encoder.global_attn_indexes:
        for axis in "hw":
            key = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            if key in fitted and fitted[key].shape[0] != length:
                fitted[key] = _resized(fitted[key], length)
    return fitted


def _resized(stored: Stored, length: int) -> Stored:
    shape: Shape = (length, stored.shape[1])

    def load() -> FloatArray:
        rows = np.asarray(stored.load(), np.float32)
        at = (np.arange(length) + 0.5) * len(rows) / length - 0.5  # linear interpolation, align_corners=False
        columns = [np.interp(at, np.arange(len(rows)), column) for column in rows.T]
        return np.stack(columns, axis=1).astype(np.float32)

    return Stored(shape, load)
