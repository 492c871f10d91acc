"""Plans the prompts of one image: which objects they mark, in its pixels, and what each is answered with.

Prompts are planned once, when the image's embedding is there: the size that a browser shows is compared with the
photo's before anything is drawn of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.errors import BackendError, PromptError, Reason
from backend.labeling.config_types import OutputTag
from backend.labeling.output_choice import Outputs
from backend.segmentation import prompts, shape_prompts
from backend.segmentation.decoding import check_size, turn_of
from backend.shapes import KeyPoint, Polygon, Vector
from backend.types import ObjectPrompt, PromptRegion, Skipped
from model.images import orientation
from model.types import Embedding


@dataclass(frozen=True)
class Rules:
    """How prompts are read."""

    # whether the prompts belong to a click or to a whole task. Answers to a click have the size that its browser shows.
    # Answers to a task have the image's own size, and omit objects that are already drawn with the control that would
    # answer them
    is_click: bool
    areas_only: bool = False  # whether points that lie in no area mark nothing
    max_pixels: int | None = None  # largest image size in pixels accepted from a click; None sets no limit


@dataclass(frozen=True)
class PromptPlan:
    """The objects to segment on one image, each with the control and labels of its answer, and the unused prompts."""

    objects: tuple[tuple[ObjectPrompt, OutputTag], ...]
    skipped: tuple[Skipped, ...]


def plan(
    regions: Sequence[PromptRegion], embedding: Embedding, to_name: str, outputs: Outputs, rules: Rules
) -> PromptPlan:
    """Return the objects that regions (oldest first) mark on one image, which answers call ``to_name``."""
    usable: list[PromptRegion] = []
    skipped: list[Skipped] = []
    for region in regions:
        try:
            size = _size(region, embedding, outputs, rules)
        except BackendError as error:
            skipped.append(Skipped(region.id, error.reason, str(error)))
            continue
        usable.append(replace(region, to_name=to_name, original_size=size))
    resolved = prompts.translate(usable, is_click=rules.is_click)
    skipped += resolved.skipped
    if rules.is_click:
        answered = tuple((prompt, outputs.choose(prompt.labels)) for prompt in resolved.objects)
        return PromptPlan(answered, tuple(skipped))
    by_id = {region.id: region for region in usable}
    objects: list[tuple[ObjectPrompt, OutputTag]] = []
    for prompt in resolved.objects:
        output = outputs.choose(prompt.labels)
        skip_reason = _skip_reason([by_id[name] for name in prompt.region_ids], output, rules.areas_only)
        if skip_reason:
            skipped.append(Skipped(prompt.region_ids[0], Reason.NOT_A_PROMPT, skip_reason))
        else:
            objects.append((prompt, output))
    return PromptPlan(tuple(objects), tuple(skipped))


def _size(region: PromptRegion, embedding: Embedding, outputs: Outputs, rules: Rules) -> tuple[int, int]:
    """Return the (H, W) in which a region is read and answered.

    Raises:
        ImageError: the region was drawn on another picture, or on a copy that is too large.
        PromptError: in a task, it covers less than a pixel of the image.
    """
    claimed = region.original_size or embedding.original_size
    if rules.is_click:
        check_size(embedding, claimed, rules.max_pixels)
        return claimed
    size = orientation.turned_size(embedding.original_size, turn_of(embedding, claimed))
    try:
        shape_prompts.check_area(region.shape, size)
    except PromptError:
        if not _is_answer(region, outputs.choose(region.labels)):
            raise
    return size


def _skip_reason(regions: Sequence[PromptRegion], output: OutputTag, areas_only: bool) -> str:
    """Return why an object of a task is not segmented, empty where it is."""
    if areas_only and all(isinstance(region.shape, KeyPoint) for region in regions):
        return "a point that lies in no area"
    if any(_is_answer(region, output) for region in regions):
        return "it is drawn already as it would be answered"
    return ""


def _is_answer(region: PromptRegion, output: OutputTag) -> bool:
    """Whether a region already has the shape and control that its answer would have."""
    return isinstance(region.shape, Polygon | Vector) and region.from_name == output.control.name
