"""The objects that a task's prompts mark on one image, a bounded number at a time.

A task may mark hundreds of objects on an image of many megapixels. A box takes a few numbers, but a
polygon is drawn as a mask of the whole image for the model. So objects are planned with the boxes around polygons, and
those are drawn only when it is their turn.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from backend.errors import BackendError, PromptError, Reason
from backend.images import orientation
from backend.labeling import prompts, shape_prompts
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.labeling.task_prompts import TaskPrompts
from backend.segmentation.decoding import turn_of
from backend.shapes import OUTPUT_KINDS, KeyPoint, Polygon, ShapeKind, Vector
from backend.types import ObjectPrompt, PromptRegion, Skipped
from model.types import Embedding

CHUNK = 16
"""Objects decoded together at most: about as long as a click may have to wait for its turn."""

CHUNK_PIXELS = 1 << 28
"""Pixels of all masks that are held at a time, a byte each, if every object filled its image."""


@dataclass(frozen=True)
class Plan:
    """What is to be segmented on one image.

    Attributes:
        chosen: the objects and how each is to be answered; polygons still as the boxes around them.
        skipped: prompts that mark none, with their reasons.
        size: (H, W) of the image.
        regions: the prompts by their ids, in pixels of the image.
    """

    chosen: tuple[tuple[ObjectPrompt, OutputTag], ...]
    skipped: tuple[Skipped, ...]
    size: tuple[int, int]
    regions: dict[str, PromptRegion]

    def chunks(self) -> Iterator[list[tuple[ObjectPrompt, OutputTag]]]:
        """Yield the objects as they are to be decoded together."""
        step = batch_size(self.size)
        for start in range(0, len(self.chosen), step):
            yield [(self._exact(one), output) for one, output in self.chosen[start : start + step]]

    def _exact(self, one: ObjectPrompt) -> ObjectPrompt:
        """Return an object with its polygon as it is."""
        regions = [self.regions[name] for name in one.region_ids]
        if all(prompts.outlined(region) is region for region in regions):
            return one
        found = prompts.translate(regions, one_object_per_point=True).objects
        return found[0] if found else one


def batch_size(size: tuple[int, int], pixels: int = CHUNK_PIXELS) -> int:
    """Return how many objects are to be decoded together at most, at least one, on an image of ``size`` (H, W).

    Their masks have no more than ``pixels`` together.
    """
    return min(CHUNK, max(1, pixels // math.prod(size)))


def plan(
    asked: TaskPrompts, embedding: Embedding, controls: LabelConfig, outputs: Sequence[ShapeKind] = OUTPUT_KINDS
) -> Plan:
    """Return the objects that prompts mark on the one image of ``controls``.

    Args:
        asked: prompts on that image alone.
        embedding: of the image; answers get its size, whatever copy of it the prompts were drawn on.
        controls: see `backend.labeling.config.on_image`.
        outputs: what masks are drawn as, the preferred kinds first.

    Raises:
        ConfigError: nothing on that image can hold an answer.
    """
    choice = Outputs(controls, outputs) if asked.regions else None
    on_image, skipped = _in_pixels_of(embedding, controls.images[0].name, asked.regions, choice)
    found = prompts.translate([prompts.outlined(region) for region in on_image], one_object_per_point=True)
    regions = {region.id: region for region in on_image}
    chosen: list[tuple[ObjectPrompt, OutputTag]] = []
    for one in found.objects:
        assert choice is not None  # objects are made of regions
        output = choice.choose(one.labels)
        needless = _skip_reason([regions[name] for name in one.region_ids], output, asked.areas_only)
        if needless:
            skipped.append(Skipped(one.region_ids[0], Reason.NOT_A_PROMPT, needless))
        else:
            chosen.append((one, output))
    return Plan(tuple(chosen), (*skipped, *found.skipped), embedding.original_size, regions)


def _in_pixels_of(
    embedding: Embedding, to_name: str, regions: Iterable[PromptRegion], choice: Outputs | None
) -> tuple[list[PromptRegion], list[Skipped]]:
    """Return the prompts as if drawn on the image itself, turned as they were, and those that cannot be used."""
    found: list[PromptRegion] = []
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
        found.append(replace(region, to_name=to_name, original_size=size))
    return found, skipped


def _skip_reason(regions: Sequence[PromptRegion], output: OutputTag, areas_only: bool) -> str:
    """Return why an object is not to be segmented, empty where it is."""
    if areas_only and all(isinstance(region.shape, KeyPoint) for region in regions):
        return "a point that lies in no area"
    if any(_is_answer(region, output) for region in regions):
        return "it is drawn already as it would be answered"
    return ""


def _is_answer(region: PromptRegion, output: OutputTag) -> bool:
    """Whether a region is drawn already as it would be answered."""
    return isinstance(region.shape, Polygon | Vector) and region.from_name == output.control.name
