"""The options of ``preannotate``, as values."""

from dataclasses import dataclass
from pathlib import Path

from backend.labeling.task_prompts import PromptSource

EVERYTHING = "everything"
LABELS, TEXT = "labels", "text"
SOURCES = (*map(str, PromptSource), EVERYTHING, LABELS, TEXT)


@dataclass(frozen=True)
class Choice:
    """Which prompts to use, and how to deliver the masks."""

    sources: tuple[str, ...]  # of `SOURCES`; empty if boxes come from a file
    coco: Path | None  # a COCO file whose boxes are the prompts, instead of the tasks' own; None without one
    replaces: bool  # whether existing predictions of this model are made again
    dry_run: Path | None  # the folder for overlays; None to store predictions
    points_per_side: int  # of the grid, with everything
    max_masks: int | None  # per image, with everything and with words; None for 100, and for all that words name
    # minimum predicted IoU with everything, minimum score of a box with words; None for the default of the weights or
    # of the detector
    min_score: float | None
    min_area: float  # minimum percent of the image, with everything
    words: str | None = None

    @property
    def names_objects(self) -> bool:
        """Whether words say what to make masks of."""
        return not {LABELS, TEXT}.isdisjoint(self.sources)
