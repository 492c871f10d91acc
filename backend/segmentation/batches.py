"""Plans the objects that a task's prompts mark on one image, and splits them into batches of bounded size.

A task may mark hundreds of objects on an image of many megapixels. A box takes a few numbers, but a polygon is
rasterized as a mask of the whole image for the model. So objects are planned with the boxes around polygons, and the
polygons are rasterized only when their batch is decoded.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from backend.errors import BackendError, PromptError, Reason
from backend.labeling import prompts, shape_prompts
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.labeling.task_prompts import TaskPrompts
from backend.segmentation.decoding import turn_of
from backend.shapes import OUTPUT_KINDS, KeyPoint, Polygon, ShapeKind, Vector
from backend.types import ObjectPrompt, PromptRegion, Skipped
from model.images import orientation
from model.types import Embedding

CHUNK = 16
"""Maximum number of objects decoded together. It bounds how long a click waits for the decoder."""

CHUNK_PIXELS = 1 << 28
"""Maximum pixels of all masks in memory at a time, one byte each, if every object filled its image."""


@dataclass(frozen=True)
class Plan:
    """The objects to segment on one image.

    Attributes:
        chosen: the objects, each with the control and labels of its answer; polygons as the boxes around them.
        skipped: prompts that mark no object, with their reasons.
        size: (H, W) of the image.
        regions: the prompts by their ids, in pixels of the image.
    """

    chosen: tuple[tuple[ObjectPrompt, OutputTag], ...]
    skipped: tuple[Skipped, ...]
    size: tuple[int, int]
    regions: dict[str, PromptRegion]

    def chunks(self) -> Iterator[list[tuple[ObjectPrompt, OutputTag]]]:
        """Yield the objects in batches to decode together."""
        step = batch_size(self.size)
        for start in range(0, len(self.chosen), step):
            yield [(self._exact(prompt), output) for prompt, output in self.chosen[start : start + step]]

    def _exact(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """Return an object with its polygon rasterized in place of the box around it."""
        regions = [self.regions[region_id] for region_id in prompt.region_ids]
        if all(prompts.outlined(region) is region for region in regions):
            return prompt
        objects = prompts.translate(regions, one_object_per_point=True).objects
        return objects[0] if objects else prompt


def batch_size(size: tuple[int, int], pixels: int = CHUNK_PIXELS) -> int:
    """Return how many objects to decode together, at least one, on an image of ``size`` (H, W).

    The masks of more than one object have at most ``pixels`` pixels together.

    >>> batch_size((1080, 1920))
    16
    >>> batch_size((8000, 8000))
    4
    """
    return min(CHUNK, max(1, pixels // math.prod(size)))


def plan(
    task_prompts: TaskPrompts, embedding: Embedding, controls: LabelConfig, outputs: Sequence[ShapeKind] = OUTPUT_KINDS
) -> Plan:
    """Return the objects that prompts mark on the one image of ``controls``.

    Args:
        task_prompts: prompts on that image alone.
        embedding: of the image; answers get its size, whatever copy of it the prompts were drawn on.
        controls: see `backend.labeling.config.on_image`.
        outputs: kinds of region that masks are drawn as, the preferred kinds first.

    Raises:
        ConfigError: no control on that image can hold an answer.
    """
    choice = Outputs(controls, outputs) if task_prompts.regions else None
    on_image, skipped = _in_pixels_of(embedding, controls.images[0].name, task_prompts.regions, choice)
    resolved = prompts.translate([prompts.outlined(region) for region in on_image], one_object_per_point=True)
    regions = {region.id: region for region in on_image}
    chosen: list[tuple[ObjectPrompt, OutputTag]] = []
    for prompt in resolved.objects:
        assert choice is not None  # objects are made of regions
        output = choice.choose(prompt.labels)
        skip_reason = _skip_reason([regions[name] for name in prompt.region_ids], output, task_prompts.areas_only)
        if skip_reason:
            skipped.append(Skipped(prompt.region_ids[0], Reason.NOT_A_PROMPT, skip_reason))
        else:
            chosen.append((prompt, output))
    return Plan(tuple(chosen), (*skipped, *resolved.skipped), embedding.original_size, regions)


def _in_pixels_of(
    embedding: Embedding, to_name: str, regions: Iterable[PromptRegion], choice: Outputs | None
) -> tuple[list[PromptRegion], list[Skipped]]:
    """Return the prompts in pixels of the image, in the orientation they were drawn in, and the unusable ones."""
    usable: list[PromptRegion] = []
    skipped: list[Skipped] = []
    for region in regions:
        try:
            turn = turn_of(embedding, region.original_size or embedding.original_size)
        except BackendError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        size = orientation.turned_size(embedding.original_size, turn)
        try:
            shape_prompts.check_area(region.shape, size)
        except PromptError as error:
            if choice is None or not _is_answer(region, choice.choose(region.labels)):
                skipped.append(Skipped(region.id, error.reason, str(error)))
                continue
        usable.append(replace(region, to_name=to_name, original_size=size))
    return usable, skipped


def _skip_reason(regions: Sequence[PromptRegion], output: OutputTag, areas_only: bool) -> str:
    """Return why an object is not segmented, empty where it is."""
    if areas_only and all(isinstance(region.shape, KeyPoint) for region in regions):
        return "a point that lies in no area"
    if any(_is_answer(region, output) for region in regions):
        return "it is drawn already as it would be answered"
    return ""


def _is_answer(region: PromptRegion, output: OutputTag) -> bool:
    """Whether a region already has the shape and control that its answer would have."""
    return isinstance(region.shape, Polygon | Vector) and region.from_name == output.control.name
