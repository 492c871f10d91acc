"""What ``preannotate`` is asked to do, as its options say it."""

from dataclasses import dataclass
from pathlib import Path

EVERYTHING = "everything"
SOURCES = ("boxes", "keypoints", "predictions", EVERYTHING)


@dataclass(frozen=True)
class Choice:
    """What to make masks of, and what to do with them; see the options.

    Attributes:
        sources: of `SOURCES`; none where boxes come from a file.
        coco: a COCO file whose boxes are the prompts, in place of what tasks hold; None without one.
        replaces: whether predictions of this model that are there already are made anew.
        dry_run: the folder for overlays; None to store predictions.
        points_per_side: of the grid, with everything.
        max_masks: per image, with everything.
        min_score: least predicted IoU, with everything; None for what suits the weights.
        min_area: least percent of the image, with everything.
    """

    sources: tuple[str, ...]
    coco: Path | None
    replaces: bool
    dry_run: Path | None
    points_per_side: int
    max_masks: int
    min_score: float | None
    min_area: float
