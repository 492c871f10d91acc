"""Makes one prediction per task: masks for the prompts that it holds, or for everything on its images.

The objects of an image are decoded in batches, and bulk work takes only one of the decoder's slots, which leaves the
others free for clicks. Answers are in pixels of the image itself, whatever copy of it the prompts were drawn on: that
is the size in which Label Studio shows a stored prediction.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.embeddings.local import Embeddings
from backend.errors import BackendError, Reason, RequestError, RetryLater
from backend.labeling import config, task_images
from backend.labeling.config_types import LabelConfig
from backend.labeling.output_choice import choose_output
from backend.labeling.task_prompts import TaskPrompts
from backend.segmentation import batches
from backend.segmentation.decoding import MaskService
from backend.shapes import OUTPUT_KINDS, ShapeKind
from backend.types import ImageRef, ObjectPrompt, Prediction, Priority, PromptRegion, Region, Skipped, Task
from model.types import Embedding, Mask, Prompt

logger = logging.getLogger(__name__)


class FoundMask(Protocol):
    """A mask that was found without prompts; see `model.automatic.AutomaticMask`."""

    @property
    def mask(self) -> Mask:
        """The object, of the photo's size."""
        ...

    @property
    def score(self) -> float:
        """The predicted quality of the mask, in [0, 1]."""
        ...


class Automatic(Protocol):
    """Finds all objects on an image, within its own limits; see `model.automatic.AutomaticMaskGenerator`."""

    def __call__(self, embedding: Embedding, /) -> Iterable[FoundMask]:
        """Return the masks of an image, the best first."""
        ...


@dataclass(frozen=True)
class _TaskImage:
    """One image of a task, with the part of the labeling config that applies to it."""

    ref: ImageRef
    to_name: str
    item_index: int | None
    controls: LabelConfig


_ImageKey: TypeAlias = tuple[str, int | None]  # to_name and item_index
_Segmented: TypeAlias = tuple[Sequence[Region], Sequence[Skipped]]


class TaskSegmenter:
    """Makes predictions for whole tasks; thread-safe.

    Attributes:
        model_version: name and digest of the weights, as in every prediction.
    """

    def __init__(
        self,
        masks: MaskService,
        embeddings: Embeddings,
        outputs: Sequence[ShapeKind] = OUTPUT_KINDS,
        automatic: Automatic | None = None,
    ) -> None:
        """Create the segmenter around its parts.

        Args:
            masks: decodes prompts and converts masks to regions.
            embeddings: of the tasks' images.
            outputs: kinds of region to answer with where a labeling config offers several, the preferred ones first.
            automatic: finds all objects on an image; None where only prompts are answered.
        """
        self.model_version = masks.model_version
        self._masks, self._embeddings, self._outputs = masks, embeddings, tuple(outputs)
        self._automatic, self._bulk_slot = automatic, FifoLimiter(1)

    def segment(
        self,
        task: Task,
        prompts: TaskPrompts,
        controls: LabelConfig,
        project_id: int | None,
        image_s: float,
        *,
        deadline_s: float = math.inf,
        wait: bool = True,
    ) -> Prediction:
        """Return the masks of a task's prompts, on all its images.

        Args:
            task: its data is read; its annotations and predictions are not, see ``prompts``.
            prompts: what to segment, see `backend.labeling.task_prompts.read`.
            controls: the project's labeling config.
            project_id: the task's project.
            image_s: how many seconds to wait for the embedding of each image.
            deadline_s: seconds from now by which it must be done; decodes that have begun are finished. Without a
                deadline the decodes are not limited: a task of hundreds of objects would start over at each retry.
            wait: whether to wait for images that are not encoded yet; if not, they are not fetched either.

        Returns:
            One prediction, whose score is the mean of its regions' scores. Its ``reasons`` name what failed permanently
            (a broken image, a prompt outside it); the other masks are in it. If an image failed, ``is_complete`` is
            false.

        Raises:
            RetryLater: some of it cannot be done at the moment; the call can be repeated.
        """
        deadline = time.monotonic() + deadline_s
        by_image: dict[_ImageKey, list[PromptRegion]] = {}
        for region in prompts.regions:
            by_image.setdefault((region.to_name, region.item_index), []).append(region)

        def on_image(key: _ImageKey) -> _Segmented:
            image = _task_image(controls, key, task, project_id)
            embedding = self._embedding(image.ref, min(image_s, deadline - time.monotonic()), wait)
            return self._segment_image(image, embedding, replace(prompts, regions=tuple(by_image[key])), deadline)

        regions, skipped, is_complete = _on_each(by_image, on_image, task)
        no_prompt = [] if prompts.regions else [Skipped("", Reason.NO_PROMPT)]
        return self._prediction(regions, [*no_prompt, *prompts.skipped, *skipped], is_complete)

    def segment_everything(
        self, task: Task, controls: LabelConfig, project_id: int | None, image_s: float
    ) -> Prediction:
        """Return masks of all objects on a task's images, within the limits.

        They carry no label, except where the labeling config offers only one: the model does not classify.

        Args:
            task: its data is read.
            controls: the project's labeling config.
            project_id: the task's project.
            image_s: how many seconds to wait for the embedding of each image.

        Raises:
            RetryLater: some of it cannot be done at the moment; the call can be repeated.
        """

        def on_image(key: _ImageKey) -> _Segmented:
            return self._everything_on(_task_image(controls, key, task, project_id), image_s), ()

        keys = task_images.places(controls, task)
        regions, skipped, is_complete = _on_each(keys, on_image, task)
        return self._prediction(regions, skipped if keys else [Skipped("", Reason.NO_IMAGE_IN_TASK)], is_complete)

    def _segment_image(
        self, image: _TaskImage, embedding: Embedding, prompts: TaskPrompts, deadline: float
    ) -> _Segmented:
        """Return the regions of all objects marked on one image, and what was left out."""
        plan = batches.plan(prompts, embedding, image.controls, self._outputs)
        regions: list[Region] = []
        for chunk in plan.chunks():
            if regions and time.monotonic() > deadline:
                raise RetryLater("there was no time for all objects", Reason.BUDGET_EXCEEDED)
            with self._bulk_slot.slot(deadline - time.monotonic()), self._masks.slot(deadline):
                regions += self._masks.segment(chunk, embedding)
        return regions, plan.skipped

    def _everything_on(self, image: _TaskImage, image_s: float) -> list[Region]:
        if self._automatic is None:
            raise BackendError("expected a model that finds everything, got none", Reason.UNSUPPORTED_PROMPT)
        output = choose_output(image.controls, (), self._outputs)
        embedding = self._embedding(image.ref, image_s)
        regions: list[Region] = []
        with self._bulk_slot:
            for number, found in enumerate(self._automatic(embedding)):
                mask = found.mask
                if mask.box is None:
                    continue
                prompt = ObjectPrompt(
                    prompt=Prompt(box=mask.box),  # type: ignore[arg-type]  # the constructor makes an array of it
                    region_ids=("everything", image.to_name, str(image.item_index), str(number)),
                    labels=(),
                    from_name="",
                    to_name=image.to_name,
                    original_size=embedding.original_size,
                    item_index=image.item_index,
                )
                regions += self._masks.to_regions(mask, prompt, output, found.score)
        return regions

    def _embedding(self, ref: ImageRef, image_s: float, wait: bool = True) -> Embedding:
        if wait:
            return self._embeddings.get(ref, max(0.0, image_s), Priority.BULK)
        embedding = self._embeddings.peek(ref)
        if embedding is None:
            raise RetryLater("the image is not encoded yet", Reason.BUDGET_EXCEEDED)
        return embedding

    def _prediction(self, regions: Sequence[Region], skipped: Iterable[Skipped], is_complete: bool) -> Prediction:
        reported = tuple(skip for skip in skipped if not (regions and skip.reason is Reason.NOT_A_PROMPT))
        reasons = tuple(dict.fromkeys(skip.reason for skip in reported))
        scores = [region.score for region in regions if region.score is not None]
        score = sum(scores) / len(scores) if scores else 0.0
        return Prediction(tuple(regions), score, self.model_version, reasons, reported, is_complete=is_complete)


def _on_each(
    keys: Iterable[_ImageKey], work: Callable[[_ImageKey], _Segmented], task: Task
) -> tuple[list[Region], list[Skipped], bool]:
    """Return the regions on a task's images, what was skipped, and whether no image failed.

    A prompt on an image that the task or the labeling config no longer has is skipped permanently: no later run finds
    that image. An image that cannot be fetched or decoded may be available later.

    Raises:
        RetryLater: see `TaskSegmenter.segment`.
    """
    segmented: list[Region] = []
    skipped: list[Skipped] = []
    is_complete = True
    for key in keys:
        try:
            regions, left_out = work(key)
        except BackendError as error:
            if error.retry:
                raise
            logger.info("event=task_failed task=%s reason=%s detail=%r", task.id, error.reason, str(error))
            skipped.append(Skipped("", error.reason, str(error)))
            is_complete = is_complete and isinstance(error, RequestError)
            continue
        except Exception as error:  # one task must not end a run
            logger.exception("event=defect task=%s", task.id)
            skipped.append(Skipped("", Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"))
            is_complete = False
            continue
        segmented += regions
        skipped += left_out if regions or left_out else [Skipped("", Reason.EMPTY_MASK)]
    return segmented, skipped, is_complete


def _task_image(controls: LabelConfig, key: _ImageKey, task: Task, project_id: int | None) -> _TaskImage:
    """Return an image of a task.

    Raises:
        ConfigError: no image of the labeling config has that name.
        RequestError: the task's data holds no such image.
    """
    to_name, item_index = key
    on_image = config.on_image(controls, to_name)
    [image] = on_image.images
    return _TaskImage(task_images.image_ref(image, task, project_id, item_index), image.name, item_index, on_image)
