"""What a person wants to know of a detector before using it."""

from dataclasses import dataclass
from pathlib import Path

from model.detection import directory


@dataclass(frozen=True)
class DetectorSummary:
    """A detector in a few words.

    Attributes:
        path: its directory.
        model_version: name and the start of the digest.
        digest: SHA-256 of its files.
        kind: ``grounding_dino``, ``yolo_world`` or ``closed_vocabulary``.
        classes: the words that it knows, None where it takes any.
        threshold: the least score of a box, by default.
        operators: the operators of its program, all of which only compute.
        nbytes: bytes of its files on disk.
    """

    path: Path
    model_version: str
    digest: str
    kind: str
    classes: tuple[str, ...] | None
    threshold: float
    operators: tuple[str, ...]
    nbytes: int


def inspect(path: str | Path) -> DetectorSummary:
    """Return a summary of a detector, checked as `model.detection.directory.read` checks it; nothing is executed.

    Raises:
        WeightsError: it is not a detector, or its program does more than compute.
    """
    contents = directory.read(path)
    classes, threshold = contents.architecture.classes, contents.architecture.threshold
    operators = contents.program.operators
    return DetectorSummary(
        contents.path, contents.version, contents.digest, contents.kind, classes, threshold, operators, contents.nbytes
    )
