"""Prompts that a task already holds: what annotators or another model drew on it, to be turned into masks.

Which of several annotations counts:

- one annotation alone, as a whole: the same object marked by two annotators must not become two masks;
- a ground truth goes before all others, then the one that was changed last;
- skipped (cancelled) annotations never count, nor do drafts: nobody has submitted them;
- an annotation that marks nothing gives way to the next. So does one that holds nothing but masks.

Predictions are prompts only where no annotation is one, since people correct models and not the other way round; of
several the newest counts, and never one of this model, whatever its version: a mask must not be made of a mask.

Painted masks are no prompts: they are what the prompts are for. Points without a sign, the ones that people and other
models draw, mark an object each; signed ones, left over from clicks, belong together as they do in a click.
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
"""Shapes that go around an object."""

PROMPT_KINDS = AREAS | {ShapeKind.KEYPOINT}


class Source(str, Enum):
    """Where the prompts of a task come from.

    ``BOXES`` and ``KEYPOINTS`` are what annotations hold: shapes around objects (rectangles, ellipses, polygons), and
    points on them. ``PREDICTIONS`` is whatever another model drew. ``EVERYTHING`` takes no prompts at all.
    """

    BOXES = "boxes"
    KEYPOINTS = "keypoints"
    PREDICTIONS = "predictions"
    EVERYTHING = "everything"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one task, on any of its images.

    Attributes:
        regions: what marks its objects.
        skipped: what was left out, each with its reason.
        areas_only: whether points that lie in no area are to be left out; those that lie in one still refine it.
    """

    regions: tuple[PromptRegion, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    areas_only: bool = False


def read(task: Task, sources: Collection[Source], model_version: str) -> TaskPrompts:
    """Return the prompts that a task holds.

    Args:
        task: its annotations and predictions are read as far as they must be.
        sources: which of them count; `Source.EVERYTHING` adds nothing.
        model_version: this model's, ``name@digest``: predictions of the same name are not prompts.
    """
    skipped: tuple[Skipped, ...] = ()
    if not {Source.BOXES, Source.KEYPOINTS}.isdisjoint(sources):
        kinds = (AREAS if Source.BOXES in sources else frozenset()) | {ShapeKind.KEYPOINT}
        usable = (one for one in annotations.read(task.annotations) if not one.is_cancelled)
        found = _newest(usable, kinds, areas_only=Source.KEYPOINTS not in sources)
        if found.regions:
            return found
        skipped = found.skipped
    if Source.PREDICTIONS in sources:
        others = (one for one in annotations.read(task.predictions) if not is_own(one.model_version, model_version))
        found = _newest(others, PROMPT_KINDS)
        if found.regions:
            return found
        skipped += found.skipped
    return TaskPrompts((), skipped)


def is_own(model_version: str, own: str) -> bool:
    """Whether a prediction's version is one of this model's, of these weights or of earlier ones of the same name."""
    return bool(model_version) and model_version.partition("@")[0] == own.partition("@")[0]


def _newest(candidates: Iterable[Saved], kinds: Collection[ShapeKind], areas_only: bool = False) -> TaskPrompts:
    """Return the prompts of the first candidate that holds any; the best candidate's reasons where none does."""
    best = TaskPrompts()
    for one in annotations.newest_first(candidates):
        regions, skipped = protocol_regions.read(one.result, kinds)
        found = TaskPrompts(regions, skipped, areas_only)
        if any(_marks(region, areas_only) for region in regions):
            return found
        best = best if best.skipped else TaskPrompts((), skipped)
    return best


def _marks(region: PromptRegion, areas_only: bool) -> bool:
    """Whether a region can begin an object."""
    return not isinstance(region.shape, KeyPoint) or (region.is_positive is not False and not areas_only)
