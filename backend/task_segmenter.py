"""One task, one prediction: masks for the prompts that it holds, or for everything on its images.

All objects of an image are decoded together, a bounded number at a time, and bulk work takes only one of the turns at
the decoder, so that clicks find the others free. Answers are in pixels of the image itself, whatever copy of it the
prompts were drawn on: that is the size in which Label Studio shows a stored prediction.
"""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from backend import label_config, task_images, task_objects
from backend.drawing import Drawing
from backend.embeddings import Embeddings, Priority
from backend.errors import BackendError, Reason, RetryLater
from backend.saved_prompts import TaskPrompts
from backend.shapes import ShapeKind
from backend.turns import Turns
from backend.types import (
    Controls,
    ImageRef,
    ObjectPrompt,
    Prediction,
    PromptRegion,
    Region,
    Skipped,
    Task,
)
from model.types import Embedding, Mask, Prompt

logger = logging.getLogger(__name__)


class FoundMask(Protocol):
    """A mask that nobody asked for; see `model.automatic`."""

    @property
    def mask(self) -> Mask:
        """The object, of the photo's size."""
        ...

    @property
    def predicted_iou(self) -> float:
        """How sure the model is, in [0, 1]."""
        ...


class Automatic(Protocol):
    """Finds everything on an image."""

    def __call__(self, embedding: Embedding, /) -> Iterable[FoundMask]:
        """Return the masks of an image, the best first."""
        ...


@dataclass(frozen=True)
class EverythingLimits:
    """How much of everything goes into one prediction, so that a project is not flooded.

    Attributes:
        most: masks per image; the surest stay.
        min_score: masks the model is less sure of are left out.
        min_area_percent: masks smaller than this part of the image are left out.
    """

    most: int = 100
    min_score: float = 0.88
    min_area_percent: float = 0.05


@dataclass(frozen=True)
class _Place:
    """One image of a task, and what may be drawn on it."""

    ref: ImageRef
    to_name: str
    item_index: int | None
    controls: Controls


class TaskSegmenter:
    """Makes predictions for whole tasks; safe from many threads.

    Attributes:
        model_version: name and digest of the weights, as every prediction carries it.
    """

    def __init__(
        self,
        drawing: Drawing,
        embeddings: Embeddings,
        outputs: Sequence[ShapeKind] = label_config.PREFERENCE,
        automatic: Automatic | None = None,
        limits: EverythingLimits | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            drawing: decodes and draws.
            embeddings: of the tasks' images.
            outputs: what masks are drawn as when a labeling config offers several kinds, the preferred ones first.
            automatic: finds everything; None where only prompts are answered.
            limits: of what is found so.
        """
        self.model_version = drawing.model_version
        self._drawing, self._embeddings, self._outputs = drawing, embeddings, tuple(outputs)
        self._automatic, self._limits = automatic, limits or EverythingLimits()
        self._turns = Turns(1)

    def segment(
        self,
        task: Task,
        asked: TaskPrompts,
        controls: Controls,
        project_id: int | None,
        deadline_s: float,
    ) -> Prediction:
        """Return the masks of a task's prompts, on all its images.

        Args:
            task: its data is read; prompts come from ``asked`` alone.
            asked: what to segment, see `backend.saved_prompts.read`.
            controls: the project's labeling config.
            project_id: the task's project.
            deadline_s: seconds from now by which it must be done; what has begun is finished.

        Returns:
            One prediction, its score the mean of its regions'. What failed for good (a broken image, a prompt outside
            it) is told in its ``reasons``, and the rest is there.

        Raises:
            RetryLater: not all of it could be done for now; nothing is lost by asking again.
        """
        deadline = time.monotonic() + deadline_s
        found: list[Region] = []
        reasons = [one.reason for one in asked.skipped]
        for (to_name, item_index), regions in _by_image(asked.regions).items():
            try:
                drawn, skipped = self._segment_image(
                    _place(controls, to_name, item_index, task, project_id),
                    replace(asked, regions=tuple(regions)),
                    deadline,
                )
            except BackendError as error:
                reasons.append(_noted(error, task))
                continue
            found += drawn
            reasons += [one.reason for one in skipped]
            reasons += [] if drawn or skipped else [Reason.EMPTY_MASK]
        if not asked.regions:
            reasons.insert(0, Reason.NO_PROMPT)
        return self._prediction(found, reasons)

    def segment_everything(
        self, task: Task, controls: Controls, project_id: int | None, deadline_s: float
    ) -> Prediction:
        """Return masks of everything on a task's images, within the limits.

        They carry no label, except where the labeling config offers only one: which of several it is, nobody knows.

        Args:
            task: its data is read.
            controls: the project's labeling config.
            project_id: the task's project.
            deadline_s: seconds from now by which it must be done; what has begun is finished.

        Raises:
            RetryLater: not all of it could be done for now; nothing is lost by asking again.
        """
        deadline = time.monotonic() + deadline_s
        found: list[Region] = []
        reasons: list[Reason] = []
        places = [
            _place(controls, to_name, item_index, task, project_id)
            for to_name, item_index in task_images.places(controls, task)
        ]
        for place in places:
            try:
                drawn = self._everything_on(place, deadline)
            except BackendError as error:
                reasons.append(_noted(error, task))
                continue
            found += drawn
            reasons += [] if drawn else [Reason.EMPTY_MASK]
        return self._prediction(found, reasons if places else [Reason.NO_IMAGE_IN_TASK])

    def _segment_image(
        self, place: _Place, asked: TaskPrompts, deadline: float
    ) -> tuple[list[Region], tuple[Skipped, ...]]:
        """Return the regions of all objects marked on one image, and what was left out."""
        embedding = self._embedding(place.ref, deadline)
        plan = task_objects.plan(asked, embedding, place.controls, self._outputs)
        found: list[Region] = []
        for chunk in plan.chunks():
            if found and time.monotonic() > deadline:
                raise RetryLater("there was no time for all objects", Reason.BUDGET_EXCEEDED)
            with self._turns, self._drawing.turns:
                found += self._drawing.draw(chunk, embedding)
        return found, plan.skipped

    def _everything_on(self, place: _Place, deadline: float) -> list[Region]:
        if self._automatic is None:
            raise BackendError("expected a model that finds everything, got none", Reason.UNSUPPORTED_PROMPT)
        output = label_config.choose_output(place.controls, (), self._outputs)
        embedding = self._embedding(place.ref, deadline)
        found: list[Region] = []
        with self._turns:
            for number, one in enumerate(self._kept(self._automatic(embedding), embedding.original_size)):
                marked = ObjectPrompt(
                    prompt=Prompt(box=one.mask.box),  # type: ignore[arg-type]  # the constructor makes an array of it
                    region_ids=("everything", place.to_name, str(place.item_index), str(number)),
                    labels=(),
                    from_name="",
                    to_name=place.to_name,
                    original_size=embedding.original_size,
                    item_index=place.item_index,
                )
                found += self._drawing.show(one.mask, marked, output, one.predicted_iou)
        return found

    def _kept(self, found: Iterable[FoundMask], size: tuple[int, int]) -> list[FoundMask]:
        smallest = max(1.0, self._limits.min_area_percent / 100 * math.prod(size))
        wanted = [one for one in found if one.predicted_iou >= self._limits.min_score and one.mask.area >= smallest]
        return sorted(wanted, key=lambda one: one.predicted_iou, reverse=True)[: self._limits.most]

    def _embedding(self, ref: ImageRef, deadline: float) -> Embedding:
        return self._embeddings.get(ref, max(0.0, deadline - time.monotonic()), Priority.BULK)

    def _prediction(self, found: Sequence[Region], reasons: Iterable[Reason]) -> Prediction:
        told = tuple(dict.fromkeys(reason for reason in reasons if not (found and reason is Reason.NOT_A_PROMPT)))
        scores = [region.score for region in found if region.score is not None]
        return Prediction(tuple(found), sum(scores) / len(scores) if scores else 0.0, self.model_version, told)


def _by_image(regions: Iterable[PromptRegion]) -> dict[tuple[str, int | None], list[PromptRegion]]:
    found: dict[tuple[str, int | None], list[PromptRegion]] = {}
    for region in regions:
        found.setdefault((region.to_name, region.item_index), []).append(region)
    return found


def _place(controls: Controls, to_name: str, item_index: int | None, task: Task, project_id: int | None) -> _Place:
    """Return where prompts lie.

    Raises:
        ConfigError: no image of the labeling config has that name.
        RequestError: the task's data holds no such image.
    """
    here = label_config.on_image(controls, to_name)
    [image] = here.images
    return _Place(task_images.image_ref(image, task, project_id, item_index), image.name, item_index, here)


def _noted(error: BackendError, task: Task) -> Reason:
    """Return why an image of a task gets nothing; what may pass is raised again."""
    if error.retry:
        raise error
    logger.info("event=task_failed task=%s reason=%s detail=%r", task.id, error.reason, str(error))
    return error.reason
