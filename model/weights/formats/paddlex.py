"""PaddleX inference directories: a program, its parameters without names, and a small description."""

from pathlib import Path

from model.weights.checkpoint import Checkpoint, assemble, digest_of, name_of
from model.weights.errors import WeightsError
from model.weights.formats import paddle_mapping, paddle_program, paddlex_yaml, pdiparams
from model.weights.formats.paddle_program import Program
from model.weights.tensors import LazyTensors, Stored

PIR, LEGACY, PARAMETERS, DESCRIPTION = "inference.json", "inference.pdmodel", "inference.pdiparams", "inference.yml"
FILES = (PIR, LEGACY, PARAMETERS, DESCRIPTION)
TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_FILES = (
    "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""What the folder holds in the directory of a detector that takes words."""


def is_inference_directory(path: Path) -> bool:
    """Whether the directory holds any of the files that PaddleX writes."""
    return any((path / file).exists() for file in FILES)


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read an inference directory of SAM: ``inference.json`` or ``inference.pdmodel``, ``inference.pdiparams``.

    An ``inference.yml`` may be absent; where it is there, its image size must be the program's. What our own export
    says in it of the network's sizes is taken, and is part of the digest then.

    Raises:
        WeightsError: a file is missing or truncated, the program is not SAM's, or the files do not belong together.
    """
    program_file = next((path / file for file in (PIR, LEGACY) if (path / file).is_file()), None)
    if program_file is None or not (path / PARAMETERS).is_file():
        raise WeightsError(f"{path}: expected {PIR} or {LEGACY} and {PARAMETERS}, got {_listing(path)}")
    parsed = _parse(program_file)
    described = paddlex_yaml.read(path / DESCRIPTION)
    stored = pdiparams.read(path / PARAMETERS, parsed.parameters)
    try:
        assigned = paddle_mapping.assign(parsed, described.config)
    except ValueError as error:
        raise WeightsError(f"{program_file}: {error}") from error
    other = [unique for unique in assigned if unique not in stored]
    if other:
        raise WeightsError(f"{path / PARAMETERS}: expected {other[0]} as floating point numbers as in the program")
    tensors: dict[str, Stored] = {meta: stored[unique] for unique, meta in assigned.items()}
    files = [path / PARAMETERS, program_file]
    if described.config is None:
        checkpoint = assemble(path, tensors, name=name, digest=digest_of(files), file_format="paddlex")
    else:
        digest = digest_of([*files, path / DESCRIPTION])
        config = described.config
        checkpoint = Checkpoint(name or name_of(path), config, LazyTensors(tensors, path), digest, "paddlex", path)
    _check_size(program_file, parsed, checkpoint.config.image_size)
    if described.image_size not in (None, checkpoint.config.image_size):
        raise WeightsError(
            f"{path / DESCRIPTION}: expected Processor.size {checkpoint.config.image_size} as in the weights, got "
            f"{described.image_size}"
        )
    return checkpoint


def _listing(path: Path) -> str:
    return ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "an empty directory"


def _parse(path: Path) -> Program:
    parse = paddle_program.parse_pir if path.name == PIR else paddle_program.parse_legacy
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path}: expected a whole program of Paddle, got: {error} (truncated?)") from error


def _check_size(path: Path, parsed: Program, image_size: int) -> None:
    images = [shape for shape in parsed.inputs.values() if len(shape) == 4]
    for shape in images:
        if any(side not in (-1, image_size) for side in shape[2:]):
            raise WeightsError(f"{path}: expected an image input of {image_size} as the weights say, got {shape}")
