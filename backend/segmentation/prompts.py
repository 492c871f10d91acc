"""Translates marked regions into prompts for the model, one for each object that they mark.

The rules, from what the editor sends: points of one label accumulate into one object; every rectangle, ellipse, polygon
and painted mask is a separate object; points inside one of those refine it; negative points alone mark nothing. Of two
points on one pixel the later one counts. Ordinary points that an annotator drew by hand have no sign, and the editor
sends them along when a smart point of their label is drawn: where other points have a sign, they are no prompts. In the
annotations of a task there was no click, so each point without a sign is an object.

Coordinates are not rotated: with a rotated view the editor still stores them, and masks, for the upright image (it maps
the pointer through the inverse of the view's transform); ``image_rotation`` is only echoed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.errors import PromptError, Reason
from backend.segmentation import shape_prompts
from backend.segmentation.shape_prompts import Box, Point, ShapePrompt
from backend.shapes import KeyPoint
from backend.types import ObjectPrompt, PromptRegion, Skipped
from model.types import Prompt

MOST_POINTS = 64  # of one object; older ones are dropped
MOST_OBJECTS = 256  # of one click; older ones are dropped
MOST_PIXELS = 1 << 28  # of an image; a painted mask takes a byte for each


@dataclass(frozen=True)
class ResolvedPrompts:
    """The objects that regions mark, in the order of their first regions, and the regions that mark none."""

    objects: tuple[ObjectPrompt, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class _Point:
    """A point at (x, y) in pixels; ``index`` is that of its region."""

    index: int
    region: PromptRegion
    at: Point

    @property
    def is_positive(self) -> bool:
        return self.region.is_positive is not False

    @property
    def pixel(self) -> tuple[int, int]:
        return int(self.at[0]), int(self.at[1])


@dataclass
class _ObjectBuilder:
    """An object whose points are being collected; ``index`` is that of its first region, ``area`` the region if any."""

    index: int
    shape: ShapePrompt
    area: PromptRegion | None
    points: list[_Point] = field(default_factory=list)


def translate(regions: Sequence[PromptRegion], *, is_click: bool = True) -> ResolvedPrompts:
    """Return the prompts of regions, oldest first, in pixels of their ``original_size``.

    Of a click, the newest objects are answered, as many as its limits allow; of a task, each point without a sign marks
    an object, unless it lies in an area.

    >>> size = (100, 200)
    >>> point = PromptRegion("a", KeyPoint(50, 50), "point", "image", is_positive=True, original_size=size)
    >>> translate([point]).objects[0].prompt.point_coords.tolist()
    [[100.0, 50.0]]
    """
    are_signed = is_click and any(
        isinstance(region.shape, KeyPoint) and region.is_positive is not None for region in regions
    )
    skipped: list[Skipped] = []
    images: dict[object, list[tuple[int, PromptRegion, ShapePrompt]]] = {}
    affordable = _affordable(regions) if is_click else [True] * len(regions)
    for index, (region, is_affordable) in enumerate(zip(regions, affordable, strict=True)):
        try:
            if not is_affordable:
                raise PromptError("drawing this area takes too much, or the newer ones did", Reason.TOO_COMPLEX)
            prompt = _prompt(region, are_signed)
        except PromptError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        image = (region.to_name, region.item_index, region.original_size)
        images.setdefault(image, []).append((index, region, prompt))
    builders = [builder for marked in images.values() for builder in _builders(marked, skipped, is_click)]
    builders.sort(key=lambda builder: builder.index)
    if is_click:
        skipped += [
            Skipped((old.area or old.points[0].region).id, Reason.TOO_COMPLEX, "only the newest objects count")
            for old in builders[:-MOST_OBJECTS]
        ]
        builders = builders[-MOST_OBJECTS:]
    return ResolvedPrompts(tuple(_object(builder, skipped) for builder in builders), tuple(skipped))


def _affordable(regions: Sequence[PromptRegion]) -> list[bool]:
    """Return which regions are among the newest that can be rasterised within the work and memory of one click."""
    areas, left = 0, shape_prompts.MOST_WORK
    are_affordable: list[bool] = []
    for region in reversed(regions):
        areas += not isinstance(region.shape, KeyPoint)
        steps = shape_prompts.work(region.shape, region.original_size or (1, 1))
        # Shapes without an area cost nothing, and one area alone may be as large as any image.
        is_affordable = not steps or (areas <= MOST_OBJECTS and (steps <= left or left == shape_prompts.MOST_WORK))
        left -= steps if is_affordable else 0
        are_affordable.append(is_affordable)
    return are_affordable[::-1]


def _prompt(region: PromptRegion, are_signed: bool) -> ShapePrompt:
    is_point, size = isinstance(region.shape, KeyPoint), region.original_size
    if is_point and region.is_positive is None and are_signed:
        raise PromptError("a point without a sign among signed ones", Reason.NOT_A_PROMPT)
    if not is_point and region.is_positive is False:
        raise PromptError("only points can be negative", Reason.UNSUPPORTED_PROMPT)
    if size is None:
        raise PromptError("expected original_width and original_height, got none", Reason.BAD_GEOMETRY)
    if math.prod(size) > MOST_PIXELS:
        raise PromptError(f"expected at most {MOST_PIXELS} pixels, got {size}", Reason.BAD_GEOMETRY)
    if shape_prompts.outline_work(region.shape, size) > shape_prompts.MOST_WORK:
        raise PromptError("expected a shape of fewer corners, codes or strokes", Reason.TOO_COMPLEX)
    return shape_prompts.shape_to_prompt(region.shape, size)


def _builders(
    marked: Iterable[tuple[int, PromptRegion, ShapePrompt]], skipped: list[Skipped], is_click: bool
) -> list[_ObjectBuilder]:
    """Return the objects marked on one image."""
    areas: list[_ObjectBuilder] = []
    points: list[_Point] = []
    for index, region, prompt in marked:
        if isinstance(region.shape, KeyPoint):
            points.append(_Point(index, region, prompt.points[0]))
        else:
            areas.append(_ObjectBuilder(index, prompt, region))
    unassigned: list[_Point] = []
    nested: dict[tuple[str, ...], _NestedAreas] = {}
    for point in points:
        labels = point.region.labels
        if labels not in nested:
            nested[labels] = _NestedAreas(areas, labels)
        enclosing_area = nested[labels].smallest_around(point.at)
        (unassigned if enclosing_area is None else enclosing_area.points).append(point)
    loose = _outside_areas(unassigned, is_click)
    for builder in (*areas, *loose):
        builder.points = _later_wins(builder.points)
    for builder in loose:
        if any(point.is_positive for point in builder.points):
            areas.append(builder)
        elif len(areas) == 1 and areas[0].area and _share(builder.points[0].region.labels, areas[0].area.labels):
            areas[0].points.extend(builder.points)
        else:
            skipped.extend(
                Skipped(point.region.id, Reason.ONLY_NEGATIVE_POINTS, "no positive point goes with it")
                for point in builder.points
            )
    return areas


def _outside_areas(points: Sequence[_Point], is_click: bool) -> list[_ObjectBuilder]:
    """Return objects of the points that lie in no area: one per label, or one per point without a sign (in a task)."""
    unsigned = Counter(point.region.labels for point in points if not is_click and point.region.is_positive is None)
    builders: dict[tuple[tuple[str, ...], str], _ObjectBuilder] = {}
    for point in points:
        labels = point.region.labels
        name = point.region.id if unsigned[labels] > 1 and point.region.is_positive is None else ""
        builder = builders.setdefault((labels, name), _ObjectBuilder(point.index, ShapePrompt(), None))
        builder.points.append(point)
    return list(builders.values())


class _NestedAreas:
    """Finds the smallest area around a point, among the areas of one label; fast for thousands of both."""

    def __init__(self, areas: Iterable[_ObjectBuilder], labels: tuple[str, ...]) -> None:
        sharing = [
            (_size(area.shape.bounds), area.index, area.shape.bounds, area)
            for area in areas
            if area.area is not None and area.shape.bounds is not None and _share(labels, area.area.labels)
        ]
        sharing.sort(key=lambda entry: entry[:2])
        self._areas = [area for *_, area in sharing]
        self._boxes = np.array([bounds for _, _, bounds, _ in sharing]).reshape(-1, 4).T

    def smallest_around(self, at: Point) -> _ObjectBuilder | None:
        """Return the smallest area that a point lies in."""
        x1, y1, x2, y2 = self._boxes
        around = np.flatnonzero((x1 <= at[0]) & (at[0] <= x2) & (y1 <= at[1]) & (at[1] <= y2))
        return self._areas[around[0]] if around.size else None


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


def _object(builder: _ObjectBuilder, skipped: list[Skipped]) -> ObjectPrompt:
    points = _newest(builder.points, skipped)
    covered = {point.pixel for point in points}
    own = [at for at in builder.shape.points if (int(at[0]), int(at[1])) not in covered]
    coords = [*own, *(point.at for point in points)]
    signs = [*(1 for _ in own), *(int(point.is_positive) for point in points)]
    main = builder.area or [point.region for point in points if point.is_positive][-1]
    regions = [*([builder.area] if builder.area else []), *(point.region for point in points)]
    assert main.original_size is not None  # a region without a size was skipped
    return ObjectPrompt(
        prompt=Prompt(
            point_coords=coords or None,  # type: ignore[arg-type]  # the constructor makes an array of it
            point_labels=signs or None,  # type: ignore[arg-type]  # likewise
            box=builder.shape.box,  # type: ignore[arg-type]  # likewise
            rough_mask=builder.shape.rough_mask,
        ),
        region_ids=tuple(region.id for region in regions),
        labels=main.labels,
        from_name=main.from_name,
        to_name=main.to_name,
        original_size=main.original_size,
        image_rotation=main.image_rotation,
        item_index=main.item_index,
        score=main.score,
    )
