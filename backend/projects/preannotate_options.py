"""The options of ``preannotate``, as values."""

from dataclasses import dataclass
from pathlib import Path

EVERYTHING = "everything"
SOURCES = ("boxes", "keypoints", "predictions", EVERYTHING)


@dataclass(frozen=True)
class Choice:
    """Which prompts to use, and how to deliver the masks.

    Attributes:
        sources: of `SOURCES`; empty if boxes come from a file.
        coco: a COCO file whose boxes are the prompts, instead of the tasks' own; None without one.
        replaces: whether existing predictions of this model are made again.
        dry_run: the folder for overlays; None to store predictions.
        points_per_side: of the grid, with everything.
        max_masks: per image, with everything.
        min_score: minimum predicted IoU, with everything; None for the default of the weights.
        min_area: minimum percent of the image, with everything.
    """

    sources: tuple[str, ...]
    coco: Path | None
    replaces: bool
    dry_run: Path | None
    points_per_side: int
    max_masks: int
    min_score: float | None
    min_area: float
