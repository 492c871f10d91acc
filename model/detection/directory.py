"""PaddleX's inference directories of detectors: which kind it is, what its ``inference.yml`` says, loaded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from model.detection.closed_vocabulary import ClosedVocabulary, Preprocessing
from model.detection.grounding_dino import GroundingDino
from model.detection.program import DetectorProgram, read_checked
from model.detection.types import Architecture
from model.detection.yolo_world import YoloWorld
from model.weights import WeightsError
from model.weights.checkpoint import digest_of
from model.weights.formats.paddlex import (
    DESCRIPTION,
    LEGACY,
    PARAMETERS,
    PIR,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
)

_LARGEST_DESCRIPTION_BYTES = 4 << 20
_GROUNDING_DINO, _YOLO_WORLD = "GroundingDINO", "YOLO-World"  # in the names that PaddleX gives
_SUPPORTED_STEPS = ("Resize", "NormalizeImage", "Permute")


class _Global(msgspec.Struct):
    model_name: str


class _Description(msgspec.Struct):
    """``inference.yml``, as far as detectors need it."""

    Global: _Global
    Preprocess: list[dict[str, Any]] = []
    label_list: list[str | int | float | bool] | None = None
    draw_threshold: float = 0.5
    box_threshold: float = 0.3
    threshold: float = 0.05


class _GroundingDinoStep(msgspec.Struct):
    text_max_words: int = 256


class _YoloWorldStep(msgspec.Struct):
    image_target_size: tuple[int, int] | int = (640, 640)
    image_mean: tuple[float, float, float] | float = 0.0
    image_std: tuple[float, float, float] | float = 1.0


class _Resize(msgspec.Struct):
    target_size: tuple[int, int] | int
    keep_ratio: bool = False
    interp: int = 2


class _Normalize(msgspec.Struct):
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    norm_type: str | None = None
    is_scale: bool = True


@dataclass(frozen=True)
class DetectorDirectory:
    """A detector on disk, read and checked; nothing of it has been executed.

    Attributes:
        path: the directory.
        name: what PaddleX calls the detector.
        kind: ``grounding_dino``, ``yolo_world`` or ``closed_vocabulary``.
        architecture: its inputs and outputs.
        program: what is executed.
        digest: SHA-256 of program, parameters, description and tokenizer.
        nbytes: bytes of these files.
    """

    path: Path
    name: str
    kind: str
    architecture: Architecture[Any]  # each kind has its own form of text
    program: DetectorProgram
    digest: str
    nbytes: int

    @property
    def parameters(self) -> Path:
        """The file with the program's numbers."""
        return self.path / PARAMETERS

    @property
    def version(self) -> str:
        """The name and the start of the digest."""
        return f"{self.name}@{self.digest[:8]}"


def read(path: str | Path) -> DetectorDirectory:
    """Read an inference directory of a detector and check its program.

    Raises:
        WeightsError: a file is missing or broken, the program uses an operator that does more than compute, or the
            directory is not that of a detector.
    """
    folder = Path(path)
    program_file = next((folder / file for file in (PIR, LEGACY) if (folder / file).is_file()), None)
    if program_file is None or not (folder / PARAMETERS).is_file() or not (folder / DESCRIPTION).is_file():
        raise WeightsError(
            f"{folder}: expected PaddleX's inference directory of a detector, with {PIR} or {LEGACY}, {PARAMETERS} and "
            f"{DESCRIPTION}, got {_listing(folder)}"
        )
    described = _describe(folder / DESCRIPTION)
    program = read_checked(program_file)
    kind, architecture = _architecture(folder, described, program)
    if len(program.inputs) not in architecture.input_counts or program.outputs != 2:
        counts = " or ".join(map(str, architecture.input_counts))
        raise WeightsError(
            f"{program_file}: expected {counts} inputs and 2 outputs, as {described.Global.model_name} has, got "
            f"{len(program.inputs)} and {program.outputs}"
        )
    words = [folder / TOKENIZER_FOLDER / file for file in TOKENIZER_FILES]
    files = [folder / PARAMETERS, program_file, folder / DESCRIPTION, *(file for file in words if file.is_file())]
    nbytes = sum(file.stat().st_size for file in files)
    return DetectorDirectory(folder, described.Global.model_name, kind, architecture, program, digest_of(files), nbytes)


def is_detector(path: str | Path) -> bool:
    """Whether a directory describes itself as one of a detector."""
    description = Path(path) / DESCRIPTION
    try:
        described = _describe(description) if description.is_file() else None
    except WeightsError:
        return False
    return described is not None and (described.label_list is not None or _takes_words(described.Global.model_name))


def _takes_words(name: str) -> bool:
    return _GROUNDING_DINO in name or _YOLO_WORLD in name


def _architecture(folder: Path, described: _Description, program: DetectorProgram) -> tuple[str, Architecture[Any]]:
    name, description = described.Global.model_name, folder / DESCRIPTION
    if _GROUNDING_DINO in name:
        dino = _step(description, described, "GroundingDINOProcessor", _GroundingDinoStep)
        return "grounding_dino", GroundingDino(folder, described.box_threshold, dino.text_max_words)
    if _YOLO_WORLD in name:
        yolo = _step(description, described, "YOLOWorldProcessor", _YoloWorldStep)
        mean, std = _three(yolo.image_mean), _three(yolo.image_std)
        return "yolo_world", YoloWorld(folder, described.threshold, _pair(yolo.image_target_size), mean, std)
    if not described.label_list:
        raise WeightsError(
            f"{description}: expected a detector, with a label_list that names its classes, got {name:.60}"
        )
    classes = tuple(str(label) for label in described.label_list)
    steps = _preprocessing(description, described)
    return "closed_vocabulary", ClosedVocabulary(classes, described.draw_threshold, steps, len(program.inputs) == 3)


def _describe(path: Path) -> _Description:
    if path.stat().st_size > _LARGEST_DESCRIPTION_BYTES:
        raise WeightsError(f"{path}: expected at most {_LARGEST_DESCRIPTION_BYTES >> 20} MiB, got more")
    try:
        return msgspec.convert(yaml.safe_load(path.read_bytes()), _Description)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: expected a description of PaddleX (YAML), got other text") from error
    except msgspec.ValidationError as error:
        raise WeightsError(f"{path}: expected a description of a detector: {error}") from error


def _step(path: Path, described: _Description, kind: str, into: type[Any]) -> Any:  # noqa: ANN401 - one of the structs
    """Return one step of ``Preprocess``, the defaults where it is not there."""
    steps = [step for step in described.Preprocess if step.get("type") == kind]
    try:
        return msgspec.convert(steps[0] if steps else {}, into)
    except msgspec.ValidationError as error:
        raise WeightsError(f"{path}: {kind}: {error}") from error


def _preprocessing(path: Path, described: _Description) -> Preprocessing:
    kinds = [step.get("type") for step in described.Preprocess]
    for kind in kinds:
        if kind not in _SUPPORTED_STEPS:
            raise WeightsError(f"{path}: Preprocess: expected {', '.join(_SUPPORTED_STEPS)}, got {kind!r:.60}")
    steps = Preprocessing(None, scale=1.0)
    if "Resize" in kinds:
        resize = _step(path, described, "Resize", _Resize)
        if not 0 <= resize.interp <= 4:
            raise WeightsError(f"{path}: Resize: expected interp from 0 to 4, got {resize.interp}")
        steps = replace(
            steps, target_size=_pair(resize.target_size), keep_ratio=resize.keep_ratio, interpolation=resize.interp
        )
    if "NormalizeImage" in kinds:
        normalize = _step(path, described, "NormalizeImage", _Normalize)
        steps = replace(steps, scale=1.0 / 255.0 if normalize.is_scale else 1.0)
        if normalize.norm_type in (None, "", "none", "mean_std"):
            steps = replace(steps, mean=normalize.mean, std=normalize.std)
    return steps


def _pair(value: tuple[int, int] | int) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _three(value: tuple[float, float, float] | float) -> tuple[float, float, float]:
    return value if isinstance(value, tuple) else (value, value, value)


def _listing(path: Path) -> str:
    if not path.is_dir():
        return "no such directory"
    return ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "an empty directory"
