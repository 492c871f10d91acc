"""What a person wants to know of weights before using them."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from model.config import SamConfig
from model.weights import formats
from model.weights.parameters import CAPABILITIES, Capability
from model.weights.tensors import shapes_of


@dataclass(frozen=True)
class Summary:
    """Weights in a few words.

    Attributes:
        path: the file or directory.
        format: which of the formats it has.
        model_version: name and the start of the digest.
        digest: SHA-256 of its files.
        config: the network's sizes.
        input_size: (height, width) in pixels of the square that the network sees.
        capabilities: which prompts these weights can answer, and whether with a score.
        parameter_count: numbers in all parameters.
        nbytes: bytes of the files on disk.
    """

    path: Path
    format: str
    model_version: str
    digest: str
    config: SamConfig
    input_size: tuple[int, int]
    capabilities: tuple[Capability, ...]
    parameter_count: int
    nbytes: int


def inspect(path: str | Path, name: str | None = None) -> Summary:
    """Return a summary of the weights in a file or directory, checked as `model.weights.read` checks them.

    Raises:
        WeightsError: they are not weights of a SAM network.
    """
    checkpoint = formats.read(Path(path), name)
    side = checkpoint.config.image_size
    source = checkpoint.path
    files = [file for file in source.iterdir() if file.is_file()] if source.is_dir() else [source]
    return Summary(
        path=source,
        format=checkpoint.format,
        model_version=checkpoint.model_version,
        digest=checkpoint.digest,
        config=checkpoint.config,
        input_size=(side, side),
        capabilities=tuple(capability for capability in CAPABILITIES if capability in checkpoint.capabilities),
        parameter_count=sum(prod(shape) for shape in shapes_of(checkpoint.tensors).values()),
        nbytes=sum(file.stat().st_size for file in files),
    )
