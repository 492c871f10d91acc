"""Translates a click's context into prompts for the model, one for each object that it marks.

The rules, from what the editor sends: points of one label accumulate into one object; every rectangle, ellipse, polygon
and painted mask is a separate object; points inside one of those refine it; negative points alone mark nothing. Of two
points on one pixel the later one counts. Ordinary points that an annotator drew by hand have no sign, and the editor
sends them along when a smart point of their label is drawn: where other points have a sign, they are no prompts. In the
annotations of a task there was no click, so with ``one_object_per_point`` each point without a sign is an object.

An area that is rasterised for the model takes a byte for each pixel of the image, and a small body may hold hundreds.
So `sketch` plans a context first, with boxes for areas, and each area is rasterised when it is decoded.

Coordinates are not rotated: with a rotated view the editor still stores them, and masks, for the upright image (it maps
the pointer through the inverse of the view's transform); ``image_rotation`` is only echoed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backend.errors import PromptError, Reason
from backend.labeling import shape_prompts
from backend.labeling.shape_prompts import Box, Point, ShapePrompt, Size, mark
from backend.shapes import Bitmask, Brush, KeyPoint, Polygon, Rectangle, Vector
from backend.types import ObjectPrompt, PromptRegion, Skipped
from model.types import Prompt

MOST_POINTS = 64  # of one object; older ones are dropped
MOST_OBJECTS = 256  # of one click; older ones are dropped
MOST_PIXELS = 1 << 28  # of an image; a rough mask takes a byte for each


@dataclass(frozen=True)
class ResolvedPrompts:
    """The objects that a context marks, in the order of their first regions, and the regions that mark none."""

    objects: tuple[ObjectPrompt, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class PromptPlan:
    """The objects that a context marks, before any area is rasterised.

    Attributes:
        objects: as in `ResolvedPrompts`, but with boxes for the areas that are rasterised later.
        skipped: the regions that mark no object.
        regions: the context's regions by their ids.
    """

    objects: tuple[ObjectPrompt, ...]
    skipped: tuple[Skipped, ...]
    regions: dict[str, PromptRegion]

    def newest(self) -> tuple[ObjectPrompt, ...]:
        """Return the newest objects within the limits of one click: `MOST_OBJECTS`, and the work to rasterise areas."""
        objects = self.objects[-MOST_OBJECTS:]
        affordable = _affordable([[self.regions[name] for name in planned.region_ids] for planned in objects])
        return tuple(planned for planned, is_affordable in zip(objects, affordable, strict=True) if is_affordable)

    def draw(self, planned: ObjectPrompt) -> ResolvedPrompts:
        """Return one of the objects with its area rasterised; none, and the reason, if the area is empty."""
        regions = [self.regions[name] for name in planned.region_ids]
        is_drawn = any(_is_painted(region) or outlined(region) is not region for region in regions)
        return translate(regions) if is_drawn else ResolvedPrompts((planned,))


@dataclass(frozen=True)
class _Point:
    """A point that an annotator drew, at (x, y) in pixels."""

    region: PromptRegion
    at: Point
    is_positive: bool

    @property
    def pixel(self) -> tuple[int, int]:
        return int(self.at[0]), int(self.at[1])


@dataclass
class _ObjectBuilder:
    """An object whose points are being collected; ``index`` is that of its first region."""

    index: int
    mark: ShapePrompt
    region: PromptRegion | None
    points: list[_Point] = field(default_factory=list)


def translate(
    context: Sequence[PromptRegion], image_size: Size | None = None, *, one_object_per_point: bool = False
) -> ResolvedPrompts:
    """Return the prompts of a context.

    >>> size = (100, 200)
    >>> point = PromptRegion("a", KeyPoint(50, 50), "point", "image", is_positive=True, original_size=size)
    >>> translate([point]).objects[0].prompt.point_coords.tolist()
    [[100.0, 50.0]]

    Args:
        context: the click's regions, oldest first.
        image_size: (H, W) of the image the model sees, where it differs from the regions' ``original_size``; prompts
            are in its pixels. Answers still have the ``original_size``.
        one_object_per_point: whether each point without a sign marks an object, unless it lies in an area.
    """
    are_signed = not one_object_per_point and any(
        isinstance(region.shape, KeyPoint) and region.is_positive is not None for region in context
    )
    skipped: list[Skipped] = []
    groups: dict[object, list[tuple[int, PromptRegion, ShapePrompt]]] = {}
    for index, region in enumerate(context):
        try:
            prompt = _mark(region, image_size, are_signed)
        except PromptError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        image = (region.to_name, region.item_index, region.original_size)
        groups.setdefault(image, []).append((index, region, prompt))
    builders: list[_ObjectBuilder] = []
    for group in groups.values():
        builders.extend(_builders(group, skipped, one_object_per_point))
    builders.sort(key=lambda builder: builder.index)
    return ResolvedPrompts(tuple(_object(builder, image_size, skipped) for builder in builders), tuple(skipped))


def sketch(context: Sequence[PromptRegion]) -> PromptPlan:
    """Return the objects of a click's context, as `translate` does, but without rasterised areas.

    Args:
        context: the click's regions, oldest first, each with its ``original_size``.
    """
    has_to_look = needs_masks(context)
    stand_ins: list[PromptRegion] = []
    skipped: list[Skipped] = []
    affordable = _affordable([[region] if has_to_look and _is_painted(region) else [] for region in context])
    for region, is_affordable in zip(context, affordable, strict=True):
        try:
            if not is_affordable:
                raise PromptError("drawing this area takes too much, or the newer ones did", Reason.TOO_COMPLEX)
            stand_ins.append(_around(region, has_to_look) if _is_painted(region) else outlined(region))
        except PromptError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
    resolved = translate(stand_ins)
    return PromptPlan(resolved.objects, (*skipped, *resolved.skipped), {region.id: region for region in context})


def _affordable(groups: Sequence[Sequence[PromptRegion]]) -> list[bool]:
    """Return which groups of regions can be rasterised within the work of one click, chosen from last to first."""
    left = shape_prompts.MOST_WORK
    are_affordable: list[bool] = []
    for regions in reversed(groups):
        steps = sum(shape_prompts.work(region.shape, region.original_size or (1, 1)) for region in regions)
        are_affordable.append(
            steps <= left or left == shape_prompts.MOST_WORK
        )  # one area alone may be as large as any image
        left -= steps if are_affordable[-1] else 0
    return are_affordable[::-1]


def needs_masks(context: Iterable[PromptRegion]) -> bool:
    """Whether masks must be decoded to find the points inside them."""
    shapes = [region.shape for region in context]
    return any(isinstance(shape, KeyPoint) for shape in shapes) and any(
        isinstance(shape, Brush | Bitmask) for shape in shapes
    )


def outlined(region: PromptRegion) -> PromptRegion:
    """Return a polygon replaced with the box around it, which holds the same points; any other region unchanged."""
    match region.shape:
        case Polygon(points) | Vector(points, True) if len(points) >= 3:
            xs, ys = zip(*points, strict=True)
            return replace(region, shape=Rectangle(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
    return region


def _is_painted(region: PromptRegion) -> bool:
    return isinstance(region.shape, Brush | Bitmask)


def _around(region: PromptRegion, has_to_look: bool) -> PromptRegion:
    """Return a mask replaced with the box around it, or around the whole image if its extent is not needed.

    Raises:
        PromptError: the mask cannot be a prompt.
    """
    x1, y1, x2, y2 = 0.0, 0.0, 100.0, 100.0
    if has_to_look and region.original_size is not None:
        height, width = region.original_size
        extent = _mark(region, None, are_signed=False).extent
        assert extent is not None  # `mark` raises for an empty mask
        x1, y1, x2, y2 = (100 * pixels / side for pixels, side in zip(extent, (width, height) * 2, strict=True))
    return replace(region, shape=Rectangle(x1, y1, x2 - x1, y2 - y1))


def _mark(region: PromptRegion, image_size: Size | None, are_signed: bool) -> ShapePrompt:
    is_point = isinstance(region.shape, KeyPoint)
    if is_point and region.is_positive is None and are_signed:
        raise PromptError("a point without a sign among signed ones", Reason.NOT_A_PROMPT)
    if not is_point and region.is_positive is False:
        raise PromptError("only points can be negative", Reason.UNSUPPORTED_PROMPT)
    original_size = region.original_size or image_size
    if original_size is None:
        raise PromptError("expected original_width and original_height, got none", Reason.BAD_GEOMETRY)
    size = image_size or original_size
    if max(math.prod(size), math.prod(original_size)) > MOST_PIXELS:
        raise PromptError(f"expected at most {MOST_PIXELS} pixels, got {original_size}", Reason.BAD_GEOMETRY)
    if shape_prompts.outline_work(region.shape, size) > shape_prompts.MOST_WORK:
        raise PromptError("expected a shape of fewer corners or strokes", Reason.TOO_COMPLEX)
    return mark(region.shape, size, original_size)


def _builders(
    group: Iterable[tuple[int, PromptRegion, ShapePrompt]], skipped: list[Skipped], one_object_per_point: bool
) -> list[_ObjectBuilder]:
    """Return the objects marked on one image."""
    areas: list[_ObjectBuilder] = []
    points: list[tuple[int, _Point]] = []
    for index, region, prompt in group:
        if isinstance(region.shape, KeyPoint):
            points.append((index, _Point(region, prompt.points[0], region.is_positive is not False)))
        else:
            areas.append(_ObjectBuilder(index, prompt, region))
    unassigned: list[tuple[int, _Point]] = []
    nested: dict[tuple[str, ...], _Nested] = {}
    for index, point in points:
        labels = point.region.labels
        if labels not in nested:
            nested[labels] = _Nested(areas, labels)
        enclosing_area = nested[labels].smallest_around(point.at)
        if enclosing_area is None:
            unassigned.append((index, point))
        else:
            enclosing_area.points.append(point)
    loose = _outside_areas(unassigned, one_object_per_point)
    for builder in (*areas, *loose.values()):
        builder.points = _later_wins(builder.points)
    for (labels, _), builder in loose.items():
        if any(point.is_positive for point in builder.points):
            areas.append(builder)
        elif len(areas) == 1 and areas[0].region is not None and _share(labels, areas[0].region.labels):
            areas[0].points.extend(builder.points)
        else:
            skipped.extend(
                Skipped(point.region.id, Reason.ONLY_NEGATIVE_POINTS, "no positive point goes with it")
                for point in builder.points
            )
    return areas


def _outside_areas(
    points: Iterable[tuple[int, _Point]], one_object_per_point: bool
) -> dict[tuple[tuple[str, ...], str], _ObjectBuilder]:
    """Return objects of the points that lie in no area: one per label, or one per point (``one_object_per_point``)."""
    points = list(points)
    unsigned = Counter(
        point.region.labels for _, point in points if one_object_per_point and point.region.is_positive is None
    )
    builders: dict[tuple[tuple[str, ...], str], _ObjectBuilder] = {}
    for index, point in points:
        is_alone = unsigned[point.region.labels] > 1 and point.region.is_positive is None
        name = point.region.id if is_alone else ""
        builders.setdefault((point.region.labels, name), _ObjectBuilder(index, ShapePrompt(), None)).points.append(
            point
        )
    return builders


class _Nested:
    """Finds the smallest area around a point, among the areas of one label; fast for thousands of both."""

    def __init__(self, areas: Iterable[_ObjectBuilder], labels: tuple[str, ...]) -> None:
        sharing = [
            (_size(area.mark.extent), area.index, area.mark.extent, area)
            for area in areas
            if area.region is not None and area.mark.extent is not None and _share(labels, area.region.labels)
        ]
        sharing.sort(key=lambda entry: entry[:2])
        self._areas = [area for *_, area in sharing]
        self._boxes = np.array([extent for _, _, extent, _ in sharing]).reshape(-1, 4).T

    def smallest_around(self, at: Point) -> _ObjectBuilder | None:
        """Return the smallest area that a point lies in."""
        x1, y1, x2, y2 = self._boxes
        around = (x1 <= at[0]) & (at[0] <= x2) & (y1 <= at[1]) & (at[1] <= y2)
        index = int(around.argmax()) if around.size else 0
        return self._areas[index] if around.size and around[index] else None


def _share(labels: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return not labels or labels == others


def _size(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _later_wins(points: Iterable[_Point]) -> list[_Point]:
    """Return the points, oldest first, without those that share a pixel with a later one."""
    newest: dict[tuple[int, int], _Point] = {}
    for point in points:
        newest.pop(point.pixel, None)
        newest[point.pixel] = point
    return list(newest.values())


def _newest(points: list[_Point], skipped: list[Skipped]) -> list[_Point]:
    """Return at most ``MOST_POINTS`` points, a positive one among them if there is any."""
    if len(points) <= MOST_POINTS:
        return points
    older, kept = points[:-MOST_POINTS], points[-MOST_POINTS:]
    positive = next((point for point in reversed(older) if point.is_positive), None)
    if positive is not None and not any(point.is_positive for point in kept):
        older = [point for point in older if point is not positive] + kept[:1]
        kept = [positive, *kept[1:]]
    skipped.extend(
        Skipped(point.region.id, Reason.TOO_MANY_POINTS, f"only the newest {MOST_POINTS} count") for point in older
    )
    return kept


def _object(builder: _ObjectBuilder, image_size: Size | None, skipped: list[Skipped]) -> ObjectPrompt:
    drawn = _newest(builder.points, skipped)
    covered = {point.pixel for point in drawn}
    own = [at for at in builder.mark.points if (int(at[0]), int(at[1])) not in covered]
    coords = [*own, *(point.at for point in drawn)]
    signs = [*(1 for _ in own), *(int(point.is_positive) for point in drawn)]
    positive = [point.region for point in drawn if point.is_positive]
    main = builder.region or positive[-1]
    regions = [*([builder.region] if builder.region is not None else []), *(point.region for point in drawn)]
    original_size = main.original_size or image_size
    assert original_size is not None  # a region without a size was skipped
    return ObjectPrompt(
        prompt=Prompt(
            point_coords=coords or None,  # type: ignore[arg-type]  # the constructor makes an array of it
            point_labels=signs or None,  # type: ignore[arg-type]  # likewise
            box=builder.mark.box,  # type: ignore[arg-type]  # likewise
            rough_mask=builder.mark.rough_mask,
        ),
        region_ids=tuple(region.id for region in regions),
        labels=main.labels,
        from_name=main.from_name,
        to_name=main.to_name,
        original_size=original_size,
        image_rotation=main.image_rotation,
        item_index=main.item_index,
    )
