"""A fine-tuned decoder as one small file: mask decoder and prompt encoder, without the image encoder.

The file is safetensors with Meta's names, Paddle's layout and float32, about 16 MB for every published SAM. Its
metadata has one entry, `KEY`: a `DecoderInfo` as JSON, which names the weights that the decoder was made from.

    >>> from model import weights
    >>> from model.weights.catalogue import DEMO_WEIGHTS
    >>> base = weights.read(DEMO_WEIGHTS)
    >>> info = DecoderInfo(base.name, base.digest, base.config.family, project=12, created="2026-01-31T12:00:00Z")
    >>> decoder = parse(dump(info, own_tensors(base)))
    >>> apply(base, decoder).model_version == f"{base.model_version}+{decoder.name}"
    True
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.tensors import FloatArray, Joined, shapes_of

FORMAT_VERSION = 1
KEY = "paddle-sam-decoder"
"""The one key of the file's metadata."""
PREFIXES = ("prompt_encoder.", "mask_decoder.")
"""What the names of the parameters in such a file begin with."""
MOST_BYTES = 64 << 20
"""Size of a file above which it is not read; that of the largest published SAM has 17 MB."""
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TrainingFigures:
    """What a decoder was trained on, and what that changed.

    Attributes:
        images: how many images were used, the ones kept aside included.
        annotations: how many masks they had.
        before: mean IoU on the images kept aside with the base's decoder, by kind of prompt (``click``, ``box``,
            ``corrected``).
        after: the same with this decoder.
    """

    images: int = 0
    annotations: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DecoderInfo:
    """Where a decoder comes from.

    Attributes:
        base_name: name of the weights that it was made from.
        base_digest: their digest, see `Checkpoint.digest`.
        family: `SamConfig.family` of their network.
        project: number of the Label Studio project whose annotations it learned from.
        created: the time in UTC, ISO 8601.
        figures: of the training.
        format_version: of the file.
    """

    base_name: str
    base_digest: str
    family: str
    project: int
    created: str
    figures: TrainingFigures = field(default_factory=TrainingFigures)
    format_version: int = FORMAT_VERSION

    @property
    def base_version(self) -> str:
        """The base's ``model_version``."""
        return f"{self.base_name}@{self.base_digest[:8]}"


@dataclass(frozen=True, eq=False)
class DecoderWeights:
    """A decoder that was read from a file.

    Attributes:
        info: where it comes from.
        tensors: Meta's parameter names to float32 arrays in Paddle's layout.
        digest: SHA-256 of the file, in hexadecimal.
    """

    info: DecoderInfo
    tensors: Mapping[str, FloatArray]
    digest: str

    @property
    def name(self) -> str:
        """What ``model_version`` calls it: the project and the first eight digits of the digest, ``p12-9f8e7d6c``."""
        return f"p{self.info.project}-{self.digest[:8]}"

    @cached_property
    def nbytes(self) -> int:
        """Bytes that its numbers take."""
        return sum(array.nbytes for array in self.tensors.values())


def own_tensors(checkpoint: Checkpoint) -> dict[str, FloatArray]:
    """Return the parameters of a checkpoint's mask decoder and prompt encoder."""
    return {name: checkpoint.tensors[name] for name in checkpoint.tensors if name.startswith(PREFIXES)}


def dump(info: DecoderInfo, tensors: Mapping[str, FloatArray]) -> bytes:
    """Return the contents of a decoder's file; the same values give the same bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}
    return safetensors_numpy.save(arrays, {KEY: msgspec.json.encode(info).decode()})


def parse(data: bytes, where: object = "decoder") -> DecoderWeights:
    """Return the decoder in the contents of a file; nothing in them is executed.

    Args:
        data: what `dump` returned.
        where: names the contents in errors.

    Raises:
        WeightsError: they are damaged, no decoder, or of another format version.
    """
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"{len(data)} bytes")
        tensors = safetensors_numpy.load(data)  # checks the header and every length
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
        info = msgspec.json.decode(header["__metadata__"][KEY], type=DecoderInfo)
    except KeyError as error:
        raise WeightsError(f"{where}: expected a fine-tuned decoder, with {KEY} in its metadata, got none") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{where}: expected a fine-tuned decoder's safetensors file, got: {error}") from error
    if info.format_version != FORMAT_VERSION:
        raise WeightsError(
            f"{where}: expected a decoder of format version {FORMAT_VERSION}, got {info.format_version}; "
            "another release of this program has written it"
        )
    for name, array in tensors.items():
        if not name.startswith(PREFIXES) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise WeightsError(
                f"{where}: {name:.80}: expected a decoder's parameter, finite float32, got other numbers"
            )
        array.flags.writeable = False
    return DecoderWeights(info, tensors, hashlib.sha256(data).hexdigest())


def read(path: str | Path) -> DecoderWeights:
    """Read a decoder's file.

    Raises:
        WeightsError: it cannot be read, or as `parse`.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: expected a fine-tuned decoder's file, got: {error.strerror}") from error
    return parse(data, path)


def apply(checkpoint: Checkpoint, decoder: DecoderWeights) -> Checkpoint:
    """Return a checkpoint with the base's image encoder and this decoder.

    Its ``model_version`` names both, its ``encoder_version`` is the base's, so `model.build.load_decoder` makes a
    decoder of it that takes the base's embeddings.

    Raises:
        WeightsError: the decoder was made from other weights.
    """
    info, base = decoder.info, shapes_of(checkpoint.tensors)
    expected = {name: shape for name, shape in base.items() if name.startswith(PREFIXES)}
    if info.base_digest != checkpoint.digest or info.family != checkpoint.config.family:
        raise WeightsError(
            f"decoder {decoder.name}: expected its base {info.base_version}, got {checkpoint.encoder_version}; "
            "use those weights, or fine-tune again from these"
        )
    if shapes_of(decoder.tensors) != expected:
        raise WeightsError(f"decoder {decoder.name}: expected the parameters of {info.base_version}, got others")
    return replace(checkpoint, tensors=Joined(decoder.tensors, checkpoint.tensors), decoder_name=decoder.name)
