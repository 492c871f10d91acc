"""One task, one prediction: masks for the prompts that it holds, or for everything on its images.

All objects of an image are decoded together, a bounded number at a time, and bulk work takes only one of the turns at
the decoder, so that clicks find the others free. Answers are in pixels of the image itself, whatever copy of it the
prompts were drawn on: that is the size in which Label Studio shows a stored prediction.
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
    """A mask that nobody asked for; see `model.automatic.AutomaticMask`."""

    @property
    def mask(self) -> Mask:
        """The object, of the photo's size."""
        ...

    @property
    def score(self) -> float:
        """How good it is likely to be, in [0, 1]."""
        ...


class Automatic(Protocol):
    """Finds everything on an image, within limits of its own; see `model.automatic.AutomaticMaskGenerator`."""

    def __call__(self, embedding: Embedding, /) -> Iterable[FoundMask]:
        """Return the masks of an image, the best first."""
        ...


@dataclass(frozen=True)
class _Place:
    """One image of a task, and what may be drawn on it."""

    ref: ImageRef
    to_name: str
    item_index: int | None
    controls: LabelConfig


_Where: TypeAlias = tuple[str, int | None]  # to_name and item_index
_Drawn: TypeAlias = tuple[Sequence[Region], Sequence[Skipped]]


class TaskSegmenter:
    """Makes predictions for whole tasks; safe from many threads.

    Attributes:
        model_version: name and digest of the weights, as every prediction carries it.
    """

    def __init__(
        self,
        drawing: MaskService,
        embeddings: Embeddings,
        outputs: Sequence[ShapeKind] = OUTPUT_KINDS,
        automatic: Automatic | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            drawing: decodes and draws.
            embeddings: of the tasks' images.
            outputs: what masks are drawn as when a labeling config offers several kinds, the preferred ones first.
            automatic: finds everything; None where only prompts are answered.
        """
        self.model_version = drawing.model_version
        self._drawing, self._embeddings, self._outputs = drawing, embeddings, tuple(outputs)
        self._automatic, self._turns = automatic, FifoLimiter(1)

    def segment(
        self,
        task: Task,
        asked: TaskPrompts,
        controls: LabelConfig,
        project_id: int | None,
        image_s: float,
        *,
        deadline_s: float = math.inf,
        wait: bool = True,
    ) -> Prediction:
        """Return the masks of a task's prompts, on all its images.

        Args:
            task: its data is read; prompts come from ``asked`` alone.
            asked: what to segment, see `backend.labeling.task_prompts.read`.
            controls: the project's labeling config.
            project_id: the task's project.
            image_s: for how many seconds the embedding of each image is waited for.
            deadline_s: seconds from now by which it must be done; decodes that have begun are finished. Without one,
                masks take as long as they take: asked again, a task of hundreds of objects would only begin from the
                start.
            wait: whether images that are not encoded yet are waited for; if not, nothing is begun for them.

        Returns:
            One prediction, its score the mean of its regions'. What failed for good (a broken image, a prompt outside
            it) is told in its ``reasons``, and the rest is there; where an image failed, it is not whole.

        Raises:
            RetryLater: not all of it could be done for now; nothing is lost by asking again.
        """
        deadline = time.monotonic() + deadline_s
        by_image: dict[_Where, list[PromptRegion]] = {}
        for region in asked.regions:
            by_image.setdefault((region.to_name, region.item_index), []).append(region)

        def on_image(where: _Where) -> _Drawn:
            place = _place(controls, where, task, project_id)
            embedding = self._embedding(place.ref, min(image_s, deadline - time.monotonic()), wait)
            return self._segment_image(place, embedding, replace(asked, regions=tuple(by_image[where])), deadline)

        found, skipped, is_complete = _on_each(by_image, on_image, task)
        nothing = [] if asked.regions else [Skipped("", Reason.NO_PROMPT)]
        return self._prediction(found, [*nothing, *asked.skipped, *skipped], is_complete)

    def segment_everything(
        self, task: Task, controls: LabelConfig, project_id: int | None, image_s: float
    ) -> Prediction:
        """Return masks of everything on a task's images, within the limits.

        They carry no label, except where the labeling config offers only one: which of several it is, nobody knows.

        Args:
            task: its data is read.
            controls: the project's labeling config.
            project_id: the task's project.
            image_s: for how many seconds the embedding of each image is waited for.

        Raises:
            RetryLater: not all of it could be done for now; nothing is lost by asking again.
        """

        def on_image(where: _Where) -> _Drawn:
            return self._everything_on(_place(controls, where, task, project_id), image_s), ()

        places = task_images.places(controls, task)
        found, skipped, is_complete = _on_each(places, on_image, task)
        return self._prediction(found, skipped if places else [Skipped("", Reason.NO_IMAGE_IN_TASK)], is_complete)

    def _segment_image(self, place: _Place, embedding: Embedding, asked: TaskPrompts, deadline: float) -> _Drawn:
        """Return the regions of all objects marked on one image, and what was left out."""
        plan = batches.plan(asked, embedding, place.controls, self._outputs)
        found: list[Region] = []
        for chunk in plan.chunks():
            if found and time.monotonic() > deadline:
                raise RetryLater("there was no time for all objects", Reason.BUDGET_EXCEEDED)
            with self._turns.within(deadline - time.monotonic()), self._drawing.turn(deadline):
                found += self._drawing.draw(chunk, embedding)
        return found, plan.skipped

    def _everything_on(self, place: _Place, image_s: float) -> list[Region]:
        if self._automatic is None:
            raise BackendError("expected a model that finds everything, got none", Reason.UNSUPPORTED_PROMPT)
        output = choose_output(place.controls, (), self._outputs)
        embedding = self._embedding(place.ref, image_s)
        found: list[Region] = []
        with self._turns:
            for number, one in enumerate(self._automatic(embedding)):
                mask = one.mask
                if mask.box is None:
                    continue
                marked = ObjectPrompt(
                    prompt=Prompt(box=mask.box),  # type: ignore[arg-type]  # the constructor makes an array of it
                    region_ids=("everything", place.to_name, str(place.item_index), str(number)),
                    labels=(),
                    from_name="",
                    to_name=place.to_name,
                    original_size=embedding.original_size,
                    item_index=place.item_index,
                )
                found += self._drawing.show(mask, marked, output, one.score)
        return found

    def _embedding(self, ref: ImageRef, image_s: float, wait: bool = True) -> Embedding:
        if wait:
            return self._embeddings.get(ref, max(0.0, image_s), Priority.BULK)
        found = self._embeddings.peek(ref)
        if found is None:
            raise RetryLater("the image is not encoded yet", Reason.BUDGET_EXCEEDED)
        return found

    def _prediction(self, found: Sequence[Region], skipped: Iterable[Skipped], is_complete: bool) -> Prediction:
        told = tuple(one for one in skipped if not (found and one.reason is Reason.NOT_A_PROMPT))
        reasons = tuple(dict.fromkeys(one.reason for one in told))
        scores = [region.score for region in found if region.score is not None]
        score = sum(scores) / len(scores) if scores else 0.0
        return Prediction(tuple(found), score, self.model_version, reasons, told, is_complete=is_complete)


def _on_each(
    places: Iterable[_Where], work: Callable[[_Where], _Drawn], task: Task
) -> tuple[list[Region], list[Skipped], bool]:
    """Return what is drawn on a task's images, what is not, and whether no image failed.

    Prompts on an image that the task or the labeling config no longer has fail for their own reason: no later run will
    find it. An image that cannot be had, or decoded, may be there again.

    Raises:
        RetryLater: see `TaskSegmenter.segment`.
    """
    found: list[Region] = []
    skipped: list[Skipped] = []
    is_complete = True
    for where in places:
        try:
            drawn, left_out = work(where)
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
        found += drawn
        skipped += left_out if drawn or left_out else [Skipped("", Reason.EMPTY_MASK)]
    return found, skipped, is_complete


def _place(controls: LabelConfig, where: _Where, task: Task, project_id: int | None) -> _Place:
    """Return where prompts lie.

    Raises:
        ConfigError: no image of the labeling config has that name.
        RequestError: the task's data holds no such image.
    """
    to_name, item_index = where
    here = config.on_image(controls, to_name)
    [image] = here.images
    return _Place(task_images.image_ref(image, task, project_id, item_index), image.name, item_index, here)
