"""PaddleX inference directories: a program, its parameters without names, and a small description."""

from pathlib import Path

from model.weights import description, mapping, pdiparams, program
from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.errors import WeightsError
from model.weights.program import Program
from model.weights.tensors import Stored

PIR, LEGACY, PARAMETERS, DESCRIPTION = "inference.json", "inference.pdmodel", "inference.pdiparams", "inference.yml"
FILES = (PIR, LEGACY, PARAMETERS, DESCRIPTION)


def is_inference_directory(path: Path) -> bool:
    """Whether the directory holds any of the files that PaddleX writes."""
    return any((path / file).exists() for file in FILES)


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read an inference directory of SAM: ``inference.json`` or ``inference.pdmodel``, ``inference.pdiparams``.

    An ``inference.yml`` may be absent; where it is there, its image size must be the program's.

    Raises:
        WeightsError: a file is missing or truncated, the program is not SAM's, or the files do not belong together.
    """
    program_file = next((path / file for file in (PIR, LEGACY) if (path / file).is_file()), None)
    if program_file is None or not (path / PARAMETERS).is_file():
        raise WeightsError(f"{path}: expected {PIR} or {LEGACY} and {PARAMETERS}, got {_listing(path)}")
    parsed = _parse(program_file)
    stored = pdiparams.read(path / PARAMETERS, parsed.parameters)
    try:
        found = mapping.assign(parsed)
    except ValueError as error:
        raise WeightsError(f"{program_file}: {error}") from error
    other = [unique for unique in found if unique not in stored]
    if other:
        raise WeightsError(f"{path / PARAMETERS}: expected {other[0]} as floating point numbers as in the program")
    tensors: dict[str, Stored] = {meta: stored[unique] for unique, meta in found.items()}
    digest = digest_of([path / PARAMETERS, program_file])
    checkpoint = assemble(path, tensors, name=name, digest=digest, file_format="paddlex")
    _check_size(program_file, parsed, checkpoint.config.image_size)
    _check_description(path / DESCRIPTION, checkpoint.config.image_size)
    return checkpoint


def _listing(path: Path) -> str:
    return ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "an empty directory"


def _parse(path: Path) -> Program:
    parse = program.parse_pir if path.name == PIR else program.parse_legacy
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path}: expected a whole program of Paddle, got: {error} (truncated?)") from error


def _check_size(path: Path, parsed: Program, image_size: int) -> None:
    images = [shape for shape in parsed.inputs.values() if len(shape) == 4]
    for shape in images:
        if any(side not in (-1, image_size) for side in shape[2:]):
            raise WeightsError(f"{path}: expected an image input of {image_size} as the weights say, got {shape}")


def _check_description(path: Path, image_size: int) -> None:
    size = description.image_size(path) if path.is_file() else None
    if size not in (None, image_size):
        raise WeightsError(f"{path}: expected Processor.size {image_size} as in the weights, got {size}")
