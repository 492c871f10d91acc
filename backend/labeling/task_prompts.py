"""Reads the prompts that a task already holds: shapes that annotators or another model drew on it.

Which of several annotations is used:

- only one annotation: the same object marked by two annotators must not become two masks;
- a ground truth comes before all others, then the annotation that was changed last;
- skipped (cancelled) annotations are never used, nor are drafts, which have not been submitted;
- an annotation without prompts, or with masks only, is skipped for the next one.

Predictions are prompts only where no annotation is one, since people correct models and not the other way round. The
newest is used, but never one of this model, in any version: a mask must not be made from a mask.

Painted masks are no prompts, since they are what the prompts should produce. Points without a sign, which people and
other models draw, mark an object each; signed ones, left over from clicks, belong together as in a click.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from backend.protocol import annotations
from backend.protocol import regions as protocol_regions
from backend.protocol.annotations import Saved
from backend.shapes import KeyPoint, ShapeKind
from backend.types import PromptRegion, Skipped, Task

AREAS = frozenset((ShapeKind.RECTANGLE, ShapeKind.ELLIPSE, ShapeKind.POLYGON, ShapeKind.VECTOR))
"""Kinds of shapes that go around an object."""

PROMPT_KINDS = AREAS | {ShapeKind.KEYPOINT}


class PromptSource(str, Enum):
    """Where the prompts of a task come from.

    ``BOXES`` and ``KEYPOINTS`` are shapes in annotations: shapes around objects (rectangles, ellipses, polygons), and
    points on them. ``PREDICTIONS`` are shapes of both kinds that another model drew.
    """

    BOXES = "boxes"
    KEYPOINTS = "keypoints"
    PREDICTIONS = "predictions"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one task, on any of its images."""

    regions: tuple[PromptRegion, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    areas_only: bool = False  # whether points outside all areas are ignored; those inside one still refine it


def read(task: Task, sources: Collection[PromptSource], model_version: str) -> TaskPrompts:
    """Return the prompts that a task holds; predictions of the same model name as ``model_version`` are none."""
    skipped: tuple[Skipped, ...] = ()
    if not {PromptSource.BOXES, PromptSource.KEYPOINTS}.isdisjoint(sources):
        kinds = (AREAS if PromptSource.BOXES in sources else frozenset()) | {ShapeKind.KEYPOINT}
        usable = (annotation for annotation in annotations.read(task.annotations) if not annotation.is_cancelled)
        prompts = _newest(usable, kinds, areas_only=PromptSource.KEYPOINTS not in sources)
        if prompts.regions:
            return prompts
        skipped = prompts.skipped
    if PromptSource.PREDICTIONS in sources:
        others = (
            prediction
            for prediction in annotations.read(task.predictions)
            if not is_own(prediction.model_version, model_version)
        )
        prompts = _newest(others, PROMPT_KINDS)
        if prompts.regions:
            return prompts
        skipped += prompts.skipped
    return TaskPrompts((), skipped)


def is_own(model_version: str, own: str) -> bool:
    """Whether a prediction's version belongs to this model: these weights, or other ones of the same name.

    >>> is_own("sam_vit_b@0123", "sam_vit_b@4567"), is_own("", "sam_vit_b@4567")
    (True, False)
    """
    return bool(model_version) and model_version.partition("@")[0] == own.partition("@")[0]


def _newest(candidates: Iterable[Saved], kinds: Collection[ShapeKind], areas_only: bool = False) -> TaskPrompts:
    """Return the prompts of the first candidate that has any, else the reasons of the first that gives some."""
    best = TaskPrompts()
    for candidate in annotations.newest_first(candidates):
        regions, skipped = protocol_regions.read(candidate.result, kinds)
        prompts = TaskPrompts(regions, skipped, areas_only)
        if any(_marks(region, areas_only) for region in regions):
            return prompts
        best = best if best.skipped else TaskPrompts((), skipped)
    return best


def _marks(region: PromptRegion, areas_only: bool) -> bool:
    """Whether a region marks an object, alone or with others."""
    return not isinstance(region.shape, KeyPoint) or (region.is_positive is not False and not areas_only)
