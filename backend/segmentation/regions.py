"""Converts masks to the regions that a labeling config asks for: one per mask, or one per part for single rings.

Ids are derived from the prompts' ids: the same prompts give the same ids, so a repeated answer replaces the first one
in the editor instead of being added to it.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from backend.labeling.config_types import OutputTag
from backend.protocol import bitmask, rle
from backend.segmentation import polygons
from backend.shapes import DEFAULT_DETAIL, Bitmask, Brush, Detail, Ellipse, Polygon, Rectangle, Shape, ShapeKind, Vector
from backend.types import ObjectPrompt, Region
from model.automatic.small_regions import without_small_regions
from model.types import Mask

ID_LENGTH = 12
WIDEST_RADIUS = 50.0  # percent; label-studio-sdk refuses wider ellipses


def draw(
    mask: Mask, prompt: ObjectPrompt, output: OutputTag, score: float | None = None, detail: Detail = DEFAULT_DETAIL
) -> tuple[Region, ...]:
    """Return the regions that show the mask of ``prompt`` with a control and its labels; an empty mask has none.

    ``score``, the model's confidence, is clipped to [0, 1], and dropped if it is not a finite number. The first region
    takes the id of the one that ``prompt`` replaces. ``detail`` is how closely to follow the mask, where the control
    does not say.

    Raises:
        ValueError: the mask has another size, or the control's kind holds no mask.
    """
    if mask.original_size != prompt.original_size:
        raise ValueError(f"mask: expected size {prompt.original_size}, got {mask.original_size}")
    kind = output.control.kind
    if kind not in SHAPES:
        raise ValueError(f"control: expected one that holds a mask, got <{output.control.tag}>")
    if not mask.area:
        return ()
    detail = output.control.detail.over(detail)
    confidence = min(max(float(score), 0.0), 1.0) if score is not None and math.isfinite(score) else None
    return tuple(
        Region(
            id=(not part and prompt.replaces) or region_id(prompt.region_ids, output.control.name, part),
            control=output.control.name,
            type=output.control.type,
            to_name=prompt.to_name,
            shape=shape,
            labels=output.labels,
            original_size=prompt.original_size,
            labels_control=output.labels_control,
            score=confidence,
            image_rotation=prompt.image_rotation,
            item_index=prompt.item_index,
        )
        for part, shape in enumerate(SHAPES[kind](mask, detail))
    )


def region_id(prompt_ids: tuple[str, ...], control: str, part: int) -> str:
    """Return the id of one part of the object marked by prompts of these ids: 12 characters, safe in a URL.

    >>> region_id(("prompt",), "mask", 0) == region_id(("prompt",), "mask", 0) != region_id(("prompt",), "mask", 1)
    True
    """
    seed = json.dumps([prompt_ids, control, part], ensure_ascii=True).encode("ascii")
    return base64.urlsafe_b64encode(hashlib.sha256(seed).digest())[:ID_LENGTH].decode("ascii")


def _rings(mask: Mask, detail: Detail) -> Iterator[tuple[tuple[float, float], ...]]:
    """Yield the corners of each ring in percent."""
    height, width = mask.original_size
    for ring in polygons.rings(mask, detail):
        yield tuple((x, y) for x, y in np.clip(ring * (100 / width, 100 / height), 0.0, 100.0).tolist())


def _cleaned(shapes: Callable[[Mask], tuple[Shape, ...]]) -> Callable[[Mask, Detail], tuple[Shape, ...]]:
    """Return the function that drops specks and holes first, where that is asked for."""
    return lambda mask, detail: shapes(without_small_regions(mask, detail.min_area or 0)[0])


def _rectangle(mask: Mask) -> tuple[Shape, ...]:
    """Return the tight, axis-aligned box."""
    assert mask.box is not None  # the mask is not empty
    x1, y1, x2, y2 = mask.box
    height, width = mask.original_size
    return (Rectangle(100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height),)


def _ellipse(mask: Mask) -> tuple[Shape, ...]:
    """Return the ellipse of the same centre and second moments; if that is too wide, the one inside the tight box."""
    height, width = mask.original_size
    moments = cv2.moments(mask.crop.view(np.uint8), binaryImage=True)
    area = moments["m00"]
    x, y = (mask.offset[side] + moments[key] / area + 0.5 for side, key in enumerate(("m10", "m01")))
    # A pixel is a square, not a point: its own second moment is 1/12.
    xx, yy, xy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12, moments["mu11"] / area
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    spread, middle = math.hypot((xx - yy) / 2, xy), (xx + yy) / 2
    radius_x, radius_y = 2 * math.sqrt(middle + spread), 2 * math.sqrt(max(middle - spread, 1 / 12))
    if abs(angle) > math.pi / 4:  # the long axis is nearer to the vertical: make it y, which keeps the rotation small
        radius_x, radius_y = radius_y, radius_x
        angle -= math.copysign(math.pi / 2, angle)
    shape = Ellipse(
        100 * x / width,
        100 * y / height,
        100 * radius_x / width,
        100 * radius_y / height,
        round(math.degrees(angle), 6) % 360,
    )
    if max(shape.radius_x, shape.radius_y) <= WIDEST_RADIUS:
        return (shape,)
    [box] = _rectangle(mask)
    assert isinstance(box, Rectangle)
    return (Ellipse(box.x + box.width / 2, box.y + box.height / 2, box.width / 2, box.height / 2),)


SHAPES: dict[ShapeKind, Callable[[Mask, Detail], tuple[Shape, ...]]] = {
    ShapeKind.BRUSH: _cleaned(lambda mask: (Brush(rle.encode(mask)),)),
    ShapeKind.BITMASK: _cleaned(lambda mask: (Bitmask(bitmask.encode(mask)),)),
    ShapeKind.POLYGON: lambda mask, detail: tuple(map(Polygon, _rings(mask, detail))),
    ShapeKind.VECTOR: lambda mask, detail: tuple(map(Vector, _rings(mask, detail))),
    ShapeKind.RECTANGLE: _cleaned(_rectangle),
    ShapeKind.ELLIPSE: _cleaned(_ellipse),
}
