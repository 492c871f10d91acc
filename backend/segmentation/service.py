"""The use cases: answer a click, answer opened tasks, warm up what comes next. Orchestration only.

Nothing here raises for what a request asks: each task gets its own answer, and where that is empty its reasons say why.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from backend import shapes
from backend.budget import Budget
from backend.embeddings.local import Embeddings
from backend.errors import BackendError, Reason, RetryLater
from backend.labeling import config as labeling_config
from backend.labeling import config_problems, prompts, task_images
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.metrics import Metrics
from backend.segmentation import batches
from backend.segmentation.clicks import Click, Clicks
from backend.segmentation.decoding import MaskService, at_size
from backend.segmentation.retrieval import Retrieval
from backend.shapes import ShapeKind
from backend.types import (
    ImageRef,
    ObjectPrompt,
    Prediction,
    PredictRequest,
    Priority,
    PromptRegion,
    Region,
    SetupRequest,
    Task,
    WebhookEvent,
)
from model.types import Embedding

logger = logging.getLogger(__name__)

MOST_IMAGES = 16
"""Of one click, which comes from one image; a caller may ask about several at once."""

CLICK_PIXELS = 1 << 27
"""Pixels of all masks of a click that are held at a time: a caller's word for a size may exceed the photo's."""

REMEMBERED_TASKS = 1000
"""For how many tasks it is remembered that those after them were asked for."""


class Background(Protocol):
    """Runs small errands after the answer has gone out."""

    def submit(self, errand: Callable[[], None], /) -> None:
        """Run ``errand`` soon, in another thread; drop it when too many wait."""


class NextTasks(Protocol):
    """Knows which tasks an annotator will meet next; see `backend.label_studio.client.LabelStudio`."""

    def next_tasks(self, project_id: int, after_task_id: int, count: int, /) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks after one."""


@dataclass(frozen=True)
class ClickPolicy:
    """How answers are given.

    Attributes:
        budget_s: how long a click may wait, for its embedding, the decoder and its turn there together.
        output_preference: what an answer is drawn as when a labeling config offers several kinds; those that are not
            named come last.
        prefetch_tasks: how many of a project's next tasks are encoded ahead.
        max_pixels: of a picture; a click's own word for a size counts no further than that.
    """

    budget_s: float = 90.0
    output_preference: tuple[ShapeKind, ...] = ()
    prefetch_tasks: int = 3
    max_pixels: int | None = None

    @property
    def outputs(self) -> tuple[ShapeKind, ...]:
        """Every kind of output, the preferred ones first."""
        return shapes.in_order(self.output_preference)


class Segmenter:
    """Answers Label Studio, over whatever embeddings and decoder it is given; safe from many threads.

    Attributes:
        model_version: name and digest of the weights.
    """

    def __init__(
        self,
        drawing: MaskService,
        embeddings: Embeddings,
        metrics: Metrics,
        background: Background,
        next_tasks: NextTasks | None,
        policy: ClickPolicy,
        retrieval: Retrieval,
    ) -> None:
        self.model_version = drawing.model_version
        self._drawing, self._embeddings, self._metrics = drawing, embeddings, metrics
        self._background, self._next_tasks, self._policy = background, next_tasks, policy
        self._retrieval, self._clicks = retrieval, Clicks()
        self._followed: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._lock = threading.Lock()

    def predict(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one answer per task, in order: masks for a click, or for what the tasks themselves hold."""
        if request.context is None:
            answers = self._retrieval.answer(request)
            self._warm(request, [task for task, one in zip(request.tasks, answers, strict=True) if not one.result])
            return answers
        if not request.context:
            self._warm(request, request.tasks)
            reasons = [skipped.reason for skipped in request.skipped] or [Reason.NO_PROMPT]
            return tuple(self._empty(reasons) for _ in request.tasks)
        first, *others = request.tasks or (Task(None),)
        with self._clicks.enter((request.project_id, first.id), (region.id for region in request.context)) as click:
            answer = self._click(request, first, click)
        return (answer, *(self._empty((Reason.NO_PROMPT,)) for _ in others))

    def setup(self, request: SetupRequest) -> None:
        """Take note of a project that is being connected or opened; says in the log what its config lacks."""
        try:
            problems = config_problems.problems(labeling_config.parse(request.label_config), self._policy.outputs)
        except BackendError as error:
            problems = (str(error),)
        for problem in problems:
            logger.warning("event=label_config project=%s problem=%r", request.project_id, problem)
        self._metrics.configured(request.project_id, problems)

    def webhook(self, event: WebhookEvent) -> None:
        """Encode the images of tasks that were just created; everything else needs no answer."""
        if event.action == "TASKS_CREATED" and event.label_config:
            self._prefetch(event.label_config, event.project_id, event.tasks)

    def _click(self, request: PredictRequest, task: Task, click: Click) -> Prediction:
        deadline = time.monotonic() + self._policy.budget_s
        reasons = [skipped.reason for skipped in request.skipped]
        found: list[Region] = []
        budget = Budget()
        by_image = list(_by_image(request.context or ()).items())
        reasons += [Reason.TOO_COMPLEX] if len(by_image) > MOST_IMAGES else []
        for (to_name, item_index), context in by_image[-MOST_IMAGES:]:
            try:
                controls = labeling_config.on_image(labeling_config.parse(request.label_config), to_name)
                [image] = controls.images
                context = [replace(region, to_name=image.name) for region in context]  # it may have named none
                ref = task_images.image_ref(image, task, request.project_id, item_index, budget)
                sketch = self._sketch(context, ref, deadline)
                reasons += [one.reason for one in sketch.skipped]
                drawn, left_out = self._segment(sketch, controls, ref, deadline, click)
            except BackendError as error:
                logger.warning(
                    "click failed: task=%s reason=%s detail=%r event=click_failed", task.id, error.reason, str(error)
                )
                reasons.append(error.reason)
                continue
            except Exception:  # an error status would only hide the annotator's prompt
                logger.exception("event=defect task=%s", task.id)
                reasons.append(Reason.INTERNAL_ERROR)
                continue
            found += drawn
            reasons += left_out or ([Reason.EMPTY_MASK] if sketch.objects and not drawn else [])
        self._warm(request)
        if not found:
            return self._empty(reasons)
        scores = [region.score for region in found if region.score is not None]
        score = sum(scores) / len(scores) if scores else 0.0
        return Prediction(tuple(found), score, self.model_version, tuple(dict.fromkeys(reasons)))

    def _sketch(self, context: Sequence[PromptRegion], ref: ImageRef, deadline: float) -> prompts.PromptPlan:
        """Return the objects marked on one image.

        That is looked at where a caller gives no sizes, and before masks are read, which may claim to be of any size.
        """
        if any(region.original_size is None for region in context) or prompts.needs_masks(context):
            embedding = self._embedding(ref, deadline)
            size = embedding.original_size
            context = [replace(region, original_size=region.original_size or size) for region in context]
            for claimed in dict.fromkeys(region.original_size for region in context):
                at_size(embedding, claimed or size, self._policy.max_pixels)
        return prompts.sketch(context)

    def _segment(
        self, sketch: prompts.PromptPlan, controls: LabelConfig, ref: ImageRef, deadline: float, click: Click
    ) -> tuple[list[Region], list[Reason]]:
        """Return the regions of objects that lie on one image, the only one of ``controls``, and why some have none.

        Areas are drawn for the model only when it is their turn, a bounded number of them at a time.
        """
        if not sketch.objects:
            return [], []
        outputs = Outputs(controls, self._policy.outputs)
        objects = sketch.newest()
        asked = [(one, outputs.choose(one.labels)) for one in objects]
        embedding = self._embedding(ref, deadline)
        sizes = dict.fromkeys(one.original_size for one in objects)
        for size in sizes:
            at_size(embedding, size, self._policy.max_pixels)
        step = batches.batch_size(max(sizes, key=math.prod), CLICK_PIXELS)
        found: list[Region] = []
        left_out: list[Reason] = [Reason.TOO_COMPLEX] if len(objects) < len(sketch.objects) else []
        for start in range(0, len(asked), step):
            if start and time.monotonic() > deadline:
                left_out.append(Reason.BUDGET_EXCEEDED)
                break
            try:
                with self._drawing.turn(deadline):
                    if click.is_superseded:
                        raise RetryLater("the annotator has added to this click meanwhile", Reason.SUPERSEDED)
                    regions, reasons = self._draw(sketch, asked[start : start + step], embedding)
            except RetryLater as error:
                if not start or error.reason is not Reason.BUDGET_EXCEEDED:
                    raise
                left_out.append(error.reason)
                break
            found += regions
            left_out += reasons
        return found, left_out

    def _draw(
        self, sketch: prompts.PromptPlan, asked: Sequence[tuple[ObjectPrompt, OutputTag]], embedding: Embedding
    ) -> tuple[list[Region], list[Reason]]:
        """Return the regions of a few objects, and why some have none; what was drawn for the model is gone after."""
        drawn = [(sketch.draw(one), output) for one, output in asked]
        chunk = [(one, output) for exact, output in drawn for one in exact.objects]
        reasons = [skipped.reason for exact, _ in drawn for skipped in exact.skipped]
        return self._drawing.draw(chunk, embedding), reasons

    def _embedding(self, ref: ImageRef, deadline: float) -> Embedding:
        return self._embeddings.get(ref, max(0.0, deadline - time.monotonic()), Priority.INTERACTIVE)

    def _warm(self, request: PredictRequest, opened: Sequence[Task] = ()) -> None:
        """Encode what the annotator meets next: the images of tasks that are opened, and of the tasks after them."""
        try:
            self._prefetch(request.label_config, request.project_id, opened)
            if len(request.tasks) == 1:
                self._warm_next(request, request.tasks[0].id)
        except Exception:  # the answer does not depend on it
            logger.exception("event=defect where=prefetch")

    def _warm_next(self, request: PredictRequest, task_id: int | None) -> None:
        """Encode the tasks after this one: once when it is opened, and at a click if that never happened."""
        source, count, config, project_id = (
            self._next_tasks, self._policy.prefetch_tasks, request.label_config, request.project_id,
        )  # fmt: skip
        if source is None or not count or not config or project_id is None or task_id is None:
            return
        key = project_id, task_id
        with self._lock:
            if request.context and key in self._followed:
                return
            self._followed[key] = None
            self._followed.move_to_end(key)
            while len(self._followed) > REMEMBERED_TASKS:
                self._followed.popitem(last=False)

        def errand() -> None:
            try:
                tasks = source.next_tasks(project_id, task_id, count)
            except BackendError as error:
                logger.info("event=next_tasks_unknown project=%s reason=%s", project_id, error.reason)
                with self._lock:
                    self._followed.pop(key, None)
                return
            self._prefetch(config, project_id, tasks)

        self._background.submit(errand)

    def _prefetch(self, config: str, project_id: int | None, tasks: Iterable[Task]) -> None:
        try:
            controls = labeling_config.parse(config)
        except BackendError:
            return  # a click will say so
        budget = Budget()
        refs: list[ImageRef] = []
        try:
            for task in tasks:
                refs += task_images.image_refs(controls, task, project_id, budget)
        except BackendError as error:
            logger.warning("event=prefetch_cut project=%s reason=%s detail=%r", project_id, error.reason, str(error))
        if refs:
            self._embeddings.prefetch(refs)

    def _empty(self, reasons: Iterable[Reason]) -> Prediction:
        return Prediction((), 0.0, self.model_version, tuple(dict.fromkeys(reasons)))


def _by_image(context: Iterable[PromptRegion]) -> dict[tuple[str, int | None], list[PromptRegion]]:
    """Return a click's regions by the image they lie on."""
    found: dict[tuple[str, int | None], list[PromptRegion]] = {}
    for region in context:
        found.setdefault((region.to_name, region.item_index), []).append(region)
    return found
