"""Reads the masks of a task's annotation, image by image, and counts the results that are no masks.

Of several annotations one counts, as in `backend.labeling.task_prompts`: a ground truth, else the one changed last;
skipped annotations, drafts and predictions do not count. Sizes are those in which the annotator saw the image, so that
images need not be fetched.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from backend.errors import BackendError, PromptError, Reason
from backend.labeling import config, file_names, task_images
from backend.labeling.config_types import LabelConfig
from backend.protocol import annotations as protocol_annotations
from backend.protocol import regions as protocol_regions
from backend.segmentation import polygons as segmentation_polygons
from backend.segmentation import shape_masks
from backend.segmentation.prompts import MOST_PIXELS
from backend.shapes import Bitmask, Brush, KeyPoint, ShapeKind, Vector
from backend.types import ImageRef, PromptRegion, Skipped, Task
from model.coco import rle as coco_rle
from model.coco.rle import Rle
from model.types import Mask

Polygons: TypeAlias = tuple[tuple[float, ...], ...]

UNLABELLED = "object"  # the category of all masks if a labeling config has no labels; COCO requires one
KEYPOINTS = "keypoints left out"
WITHOUT_SHAPE = "results without a shape left out"
OTHER_SHAPES = "shapes left out that are no masks"
OTHERS = "further annotations of a task left out"
UNANNOTATED = "tasks without an annotation"
EMPTY_IMAGES = "images left out that nothing is drawn on"
BOXES = "of the masks, boxes of a smart tool"
"""Rectangles and ellipses that may be leftover prompts; an intended one looks the same."""

_BOXES = (ShapeKind.RECTANGLE, ShapeKind.ELLIPSE)
_BETTER = (ShapeKind.BRUSH, ShapeKind.BITMASK, ShapeKind.POLYGON, ShapeKind.VECTOR)

DIGITS = 3


@dataclass(frozen=True, eq=False)
class LabelledMask:
    """One object."""

    labels: tuple[str, ...]  # its labels, at least one
    rle: Rle
    # its outlines, x and y of the corners of each in turn, in pixels; None if they are not requested
    polygons: Polygons | None = None


@dataclass(frozen=True)
class ImageMasks:
    """One annotated image."""

    file_name: str  # its folders and name
    ref: ImageRef  # its address
    size: tuple[int, int]  # (H, W) as the annotator saw it
    masks: tuple[LabelledMask, ...]  # its masks that cover at least one pixel


@dataclass(frozen=True)
class TaskMasks:
    """A task's masks."""

    images: tuple[ImageMasks, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)  # how many results are no masks and no failures, by kind
    skipped: tuple[Skipped, ...] = ()  # masks that cannot be read, each with its reason


def labels_of(controls: LabelConfig) -> tuple[str, ...]:
    """Return the labels that masks may have, in the config's order."""
    own = [
        control.own
        for control in controls.controls
        if control.own is not None and control.kind is not ShapeKind.KEYPOINT
    ]
    tags = [*controls.labels, *own]
    labels = tuple(dict.fromkeys(label for tag in tags for label in tag.labels))
    return labels if labels or any(tag.labels_vary for tag in tags) else (UNLABELLED,)


def read(
    task: Task,
    annotations: msgspec.Raw,
    controls: LabelConfig,
    *,
    as_polygons: bool = False,
    drawn_as: tuple[type, ...] = (object,),
) -> TaskMasks:
    """Return the masks of a task's annotation; a damaged mask is skipped rather than raised, to keep the others.

    Args:
        task: its data is read.
        annotations: all of its annotations.
        controls: the project's labeling config.
        as_polygons: whether to return outlines too.
        drawn_as: the types of shape that count as masks; others are counted.
    """
    submitted = protocol_annotations.newest_first(
        annotation for annotation in protocol_annotations.read(annotations) if not annotation.is_cancelled
    )
    if not submitted:
        return TaskMasks(counts={UNANNOTATED: 1})
    regions, left_out = protocol_regions.read(submitted[0].result)
    counts = Counter({OTHERS: len(submitted) - 1})
    skipped: list[Skipped] = []
    for result in left_out:
        if result.reason is Reason.NOT_A_PROMPT:
            counts[WITHOUT_SHAPE] += 1
        else:
            skipped.append(result)
    drawn_on = _by_image(regions, task, controls, skipped)
    images: list[ImageMasks] = []
    for ref, drawn in drawn_on.items():
        counts[KEYPOINTS] += sum(isinstance(region.shape, KeyPoint) for region in drawn)
        shapes = [region for region in drawn if not isinstance(region.shape, KeyPoint)]
        counts[OTHER_SHAPES] += sum(not isinstance(region.shape, drawn_as) for region in shapes)
        shapes = [region for region in shapes if isinstance(region.shape, drawn_as)]
        sizes = Counter(region.original_size for region in drawn if region.original_size is not None)
        if not sizes:
            text = "expected original_width and original_height, got none"
            skipped += [Skipped(region.id, Reason.BAD_GEOMETRY, text) for region in shapes]
            continue
        [(size, _)] = sizes.most_common(1)
        masks = list(_masks(shapes, size, controls, skipped, as_polygons=as_polygons))
        counts[BOXES] += sum(_may_be_prompt(region, controls) for region, _ in masks)
        images.append(ImageMasks(_file_name(ref), ref, size, tuple(mask for _, mask in masks)))
    uris_drawn_on = {ref.uri for ref in drawn_on}
    counts[EMPTY_IMAGES] = sum(ref.uri not in uris_drawn_on for ref in task_images.image_refs(controls, task))
    return TaskMasks(tuple(images), +counts, tuple(skipped))


def _by_image(
    regions: Iterable[PromptRegion], task: Task, controls: LabelConfig, skipped: list[Skipped]
) -> dict[ImageRef, list[PromptRegion]]:
    by_image: dict[ImageRef, list[PromptRegion]] = {}
    for region in regions:
        try:
            [image] = config.on_image(controls, region.to_name).images
            index = (region.item_index or 0) if image.value_list else None
            ref = task_images.image_ref(image, task, None, index)
        except BackendError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        by_image.setdefault(ref, []).append(region)
    return by_image


def _may_be_prompt(region: PromptRegion, controls: LabelConfig) -> bool:
    """Whether a region is a box of a smart tool while the config has a control that can hold a mask."""
    on_image = config.on_image(controls, region.to_name).controls
    drawn_with = [control for control in on_image if control.name == region.from_name and control.kind in _BOXES]
    is_smart = any(control.is_smart for control in drawn_with)
    return is_smart and any(control.is_output and control.kind in _BETTER for control in on_image)


def _file_name(ref: ImageRef) -> str:
    name = file_names.name_of(ref.uri)
    if name:
        return name
    kind = ref.uri.partition("image/")[2].partition(";")[0].partition(",")[0]
    number = f"-{ref.item_index}" if ref.item_index is not None else ""
    return f"task-{ref.task_id}{number}.{kind if kind.isalnum() else 'image'}"


def _masks(
    shapes: Iterable[PromptRegion],
    size: tuple[int, int],
    controls: LabelConfig,
    skipped: list[Skipped],
    *,
    as_polygons: bool,
) -> Iterator[tuple[PromptRegion, LabelledMask]]:
    """Yield the regions on an image of ``size`` with their masks; others are added to ``skipped``."""
    offered = labels_of(controls)
    for region in shapes:
        try:
            mask = _mask(region, size)
            labels = region.labels or (offered if offered == (UNLABELLED,) else ())
            if not labels:
                raise PromptError("a mask without a label", Reason.UNKNOWN_LABEL)
        except BackendError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        outlines = _polygons(region, mask, size) if as_polygons else None
        yield region, LabelledMask(labels, coco_rle.encode(mask), outlines)


def _mask(region: PromptRegion, size: tuple[int, int]) -> Mask:
    """Return the pixels that a region covers; `PromptError` if it is damaged, is no area, or covers none."""
    if math.prod(size) > MOST_PIXELS:
        raise PromptError(f"expected at most {MOST_PIXELS} pixels, got {size}", Reason.BAD_GEOMETRY)
    own = region.original_size or size
    if own != size and isinstance(region.shape, Brush | Bitmask):
        text = f"a mask of {own[1]} × {own[0]} pixels among others of {size[1]} × {size[0]}"
        raise PromptError(text, Reason.SIZE_MISMATCH)
    if isinstance(region.shape, Vector) and region.shape.curved:
        raise PromptError("a path with curves is not read", Reason.UNSUPPORTED_PROMPT)
    mask = shape_masks.mask(region.shape, size)
    if not mask.area:
        raise PromptError("it covers no pixel of the image", Reason.EMPTY_MASK)
    return mask


def _polygons(region: PromptRegion, mask: Mask, size: tuple[int, int]) -> Polygons:
    """Return a region's outlines as drawn; for a painted mask, or a shape beyond the border, those of its mask."""
    rings = shape_masks.rings(region.shape, size) if not isinstance(region.shape, Brush | Bitmask) else ()
    if not rings or any((ring < 0).any() or (ring > size[::-1]).any() for ring in rings):
        rings = segmentation_polygons.rings(mask)
    return tuple(tuple(ring.round(DIGITS).ravel().tolist()) for ring in rings)
