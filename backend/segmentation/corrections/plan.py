"""Plans the corrections of a click: which accepted masks its negative points lie in, and how the answers are drawn."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.errors import ConfigError, PromptError, Reason
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.segmentation import shape_prompts
from backend.segmentation.corrections import accepted_masks
from backend.segmentation.corrections.accepted_masks import AcceptedMask
from backend.segmentation.shape_prompts import Point, Size
from backend.shapes import KeyPoint, Polygon, Vector
from backend.types import ObjectPrompt, PromptRegion, RecentAnswer, Skipped, Task
from model.types import Prompt

MOST_CLICKS = 16
"""Negative points of one click; older ones are dropped."""


@dataclass(frozen=True)
class Correction:
    """An accepted mask from which parts are taken."""

    accepted: AcceptedMask
    prompt: ObjectPrompt  # the negative points in the mask; the answer replaces the mask's region
    output: OutputTag  # the control of the mask's region, and its labels

    @property
    def clicks(self) -> tuple[Point, ...]:
        """The points in pixels of the mask's image, (x, y)."""
        assert self.prompt.prompt.point_coords is not None
        return tuple((x, y) for x, y in self.prompt.prompt.point_coords.tolist())


def plan(
    points: Sequence[PromptRegion],
    prompt_ids: Collection[str],
    to_name: str,
    controls: LabelConfig,
    task: Task,
    recent: Sequence[RecentAnswer],
    now: float,
    is_shown: Callable[[Size], bool],
) -> tuple[list[Correction], list[Skipped]]:
    """Return the corrections that negative points ask for, and the points that lie in no accepted mask of their label.

    Args:
        points: on one image, oldest first.
        prompt_ids: of all prompts of the click.
        to_name: the image's name in the labeling config.
        controls: of that image.
        task: of the click.
        recent: the last answers about the task, oldest first.
        now: seconds since 1970.
        is_shown: whether the image may be shown at a size (height, width); masks of others are not decoded, as they
            may take any time and memory.
    """
    outputs, item_index = Outputs(controls), points[0].item_index
    corrections: list[Correction] = []
    skipped = [Skipped(point.id, Reason.TOO_MANY_POINTS) for point in points[:-MOST_CLICKS]]
    left_by_labels: dict[tuple[str, ...], list[PromptRegion]] = {}
    for point in points[-MOST_CLICKS:]:
        left_by_labels.setdefault(outputs.choose(point.labels).labels, []).append(point)

    def fits(region: PromptRegion) -> bool:
        is_on_image = region.item_index == item_index and region.to_name in ("", to_name)
        left = left_by_labels.get(outputs.choose(region.labels).labels, ()) if is_on_image else ()
        size = region.original_size
        return size is not None and _may_hold(region, left, size) and is_shown(size)

    for accepted in accepted_masks.newest_first(task, recent, prompt_ids, fits, now):
        labels = outputs.choose(accepted.region.labels).labels
        inside = {point: at for point in left_by_labels[labels] if (at := _inside(point, accepted)) is not None}
        output = _own_output(accepted.region, controls) if inside else None
        if output is not None:
            corrections.append(_correction(accepted, inside, to_name, output))
            left_by_labels[labels] = [point for point in left_by_labels[labels] if point not in inside]
        if not any(left_by_labels.values()):
            break
    detail = "no positive point goes with it, and it lies in no accepted mask of its label"
    left = [point for points_left in left_by_labels.values() for point in points_left]
    return corrections, [*skipped, *(Skipped(point.id, Reason.ONLY_NEGATIVE_POINTS, detail) for point in left)]


def _may_hold(region: PromptRegion, points: Iterable[PromptRegion], size: Size) -> bool:
    """Whether points may lie in a mask of an image of ``size``, as far as can be known before it is decoded."""
    shapes = [point.shape for point in points if point.original_size in (None, size)]
    if not shapes or not isinstance(region.shape, Polygon | Vector):
        return bool(shapes)
    if not region.shape.points:
        return False
    (xs, ys), (height, width) = zip(*region.shape.points, strict=True), size
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    across, down = 100 / width, 100 / height  # a pixel: the point may lie anywhere in the one that is covered
    return any(
        isinstance(shape, KeyPoint)
        and left - across <= min(max(shape.x, 0), 100) <= right + across
        and top - down <= min(max(shape.y, 0), 100) <= bottom + down
        for shape in shapes
    )


def _inside(point: PromptRegion, accepted: AcceptedMask) -> Point | None:
    """Return where a point lies in a mask, (x, y) in pixels; None where it does not, or is of another picture."""
    size = accepted.mask.original_size
    try:
        [at] = shape_prompts.shape_to_prompt(point.shape, size).points
    except PromptError:
        return None
    return at if accepted.holds(int(at[0]), int(at[1])) else None


def _own_output(region: PromptRegion, controls: LabelConfig) -> OutputTag | None:
    """Return the control that a region was drawn with, and its labels; None where answers are not drawn with it."""
    own = tuple(control for control in controls.controls if control.name == region.from_name)
    try:
        return Outputs(replace(controls, controls=own)).choose(region.labels)
    except ConfigError:
        return None


def _correction(
    accepted: AcceptedMask, inside: Mapping[PromptRegion, Point], to_name: str, output: OutputTag
) -> Correction:
    region, newest = accepted.region, list(inside)[-1]
    prompt = ObjectPrompt(
        prompt=Prompt(point_coords=list(inside.values()), point_labels=[0] * len(inside)),  # type: ignore[arg-type]  # the constructor makes arrays of them
        region_ids=(region.id, *(point.id for point in inside)),
        labels=region.labels,
        from_name=newest.from_name,
        to_name=to_name,
        original_size=accepted.mask.original_size,
        image_rotation=newest.image_rotation,
        item_index=region.item_index,
        replaces=region.id,
    )
    return Correction(accepted, prompt, output)
