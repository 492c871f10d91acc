"""Answers clicks and opened tasks, and prefetches the images that come next.

No request raises an error for its content: each task gets its own answer, and an empty answer carries its reasons.
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
"""Maximum number of images of one click. The editor sends one; an API caller may send several."""

CLICK_PIXELS = 1 << 27
"""Maximum pixels of a click's masks in memory at a time: the size that a caller gives may exceed the photo's."""

REMEMBERED_TASKS = 1000
"""For how many tasks the service remembers that the tasks after them were prefetched."""


class Background(Protocol):
    """Runs short functions in another thread; see `backend.concurrency.background.BackgroundTasks`."""

    def submit(self, function: Callable[[], None], /) -> None:
        """Run ``function`` soon, in another thread; drop it if too many are waiting."""


class NextTasks(Protocol):
    """Returns the tasks that an annotator opens next; see `backend.label_studio.client.LabelStudio`."""

    def next_tasks(self, project_id: int, after_task_id: int, count: int, /) -> tuple[Task, ...]:
        """Return up to ``count`` unfinished tasks after a task."""


@dataclass(frozen=True)
class ClickPolicy:
    """Settings for answering clicks and prefetching.

    Attributes:
        budget_s: how long a click may wait, for its embedding, the decoder and a decoder slot together.
        output_preference: the kinds of region to answer with, preferred first, where a labeling config offers several;
            kinds that are not named come last.
        prefetch_tasks: how many of a project's next tasks are encoded ahead.
        max_pixels: largest image size, in pixels, accepted from a click; None sets no limit.

    >>> ClickPolicy(output_preference=(ShapeKind.POLYGON,)).outputs[0].value
    'polygon'
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
    """Answers Label Studio's requests; thread-safe.

    Attributes:
        model_version: name and digest of the weights.
    """

    def __init__(
        self,
        masks: MaskService,
        embeddings: Embeddings,
        metrics: Metrics,
        background: Background,
        next_tasks: NextTasks | None,
        policy: ClickPolicy,
        retrieval: Retrieval,
    ) -> None:
        """Create the service around its parts.

        Args:
            masks: decodes prompts and converts masks to regions.
            embeddings: of the images.
            metrics: counts problems of labeling configs.
            background: runs the prefetching of next tasks.
            next_tasks: returns the tasks to prefetch; None prefetches only the requested ones.
            policy: how clicks are answered.
            retrieval: answers requests about whole tasks.
        """
        self.model_version = masks.model_version
        self._masks, self._embeddings, self._metrics = masks, embeddings, metrics
        self._background, self._next_tasks, self._policy = background, next_tasks, policy
        self._retrieval, self._clicks = retrieval, Clicks()
        self._prefetched_after: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._lock = threading.Lock()

    def predict(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one answer per task, in order: masks for a click, or for the prompts that the tasks hold."""
        if request.context is None:
            answers = self._retrieval.answer(request)
            unanswered = [task for task, answer in zip(request.tasks, answers, strict=True) if not answer.result]
            self._prefetch_around(request, unanswered)
            return answers
        if not request.context:
            self._prefetch_around(request, request.tasks)
            reasons = [skipped.reason for skipped in request.skipped] or [Reason.NO_PROMPT]
            return tuple(self._empty(reasons) for _ in request.tasks)
        first, *others = request.tasks or (Task(None),)
        with self._clicks.enter((request.project_id, first.id), (region.id for region in request.context)) as click:
            answer = self._click(request, first, click)
        return (answer, *(self._empty((Reason.NO_PROMPT,)) for _ in others))

    def setup(self, request: SetupRequest) -> None:
        """Record a project that is being connected or opened, and log the problems of its labeling config."""
        try:
            problems = config_problems.problems(labeling_config.parse(request.label_config), self._policy.outputs)
        except BackendError as error:
            problems = (str(error),)
        for problem in problems:
            logger.warning("event=label_config project=%s problem=%r", request.project_id, problem)
        self._metrics.configs.record(request.project_id, problems)

    def webhook(self, event: WebhookEvent) -> None:
        """Prefetch the images of tasks that were just created; other events are ignored."""
        if event.action == "TASKS_CREATED" and event.label_config:
            self._prefetch(event.label_config, event.project_id, event.tasks)

    def _click(self, request: PredictRequest, task: Task, click: Click) -> Prediction:
        deadline = time.monotonic() + self._policy.budget_s
        reasons = [skipped.reason for skipped in request.skipped]
        answered: list[Region] = []
        budget = Budget()
        by_image = list(_by_image(request.context or ()).items())
        reasons += [Reason.TOO_COMPLEX] if len(by_image) > MOST_IMAGES else []
        for (to_name, item_index), context in by_image[-MOST_IMAGES:]:
            try:
                controls = labeling_config.on_image(labeling_config.parse(request.label_config), to_name)
                [image] = controls.images
                context = [replace(region, to_name=image.name) for region in context]  # a region may name no image
                ref = task_images.image_ref(image, task, request.project_id, item_index, budget)
                plan = self._plan(context, ref, deadline)
                reasons += [skipped.reason for skipped in plan.skipped]
                regions, left_out = self._segment(plan, controls, ref, deadline, click)
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
            answered += regions
            reasons += left_out or ([Reason.EMPTY_MASK] if plan.objects and not regions else [])
        self._prefetch_around(request)
        if not answered:
            return self._empty(reasons)
        scores = [region.score for region in answered if region.score is not None]
        score = sum(scores) / len(scores) if scores else 0.0
        return Prediction(tuple(answered), score, self.model_version, tuple(dict.fromkeys(reasons)))

    def _plan(self, context: Sequence[PromptRegion], ref: ImageRef, deadline: float) -> prompts.PromptPlan:
        """Return the objects marked on one image.

        The image's embedding is needed where a caller gives no sizes, and before masks are read, whose claimed sizes
        are compared with the image's.
        """
        if any(region.original_size is None for region in context) or prompts.needs_masks(context):
            embedding = self._embedding(ref, deadline)
            size = embedding.original_size
            context = [replace(region, original_size=region.original_size or size) for region in context]
            for claimed in dict.fromkeys(region.original_size for region in context):
                at_size(embedding, claimed or size, self._policy.max_pixels)
        return prompts.sketch(context)

    def _segment(
        self, plan: prompts.PromptPlan, controls: LabelConfig, ref: ImageRef, deadline: float, click: Click
    ) -> tuple[list[Region], list[Reason]]:
        """Return the regions of objects that lie on one image, the only one of ``controls``, and why some have none.

        Areas are rasterized for the model batch by batch, so that few masks are in memory at a time.
        """
        if not plan.objects:
            return [], []
        outputs = Outputs(controls, self._policy.outputs)
        objects = plan.newest()
        with_outputs = [(prompt, outputs.choose(prompt.labels)) for prompt in objects]
        embedding = self._embedding(ref, deadline)
        sizes = dict.fromkeys(prompt.original_size for prompt in objects)
        for size in sizes:
            at_size(embedding, size, self._policy.max_pixels)
        step = batches.batch_size(max(sizes, key=math.prod), CLICK_PIXELS)
        segmented: list[Region] = []
        left_out: list[Reason] = [Reason.TOO_COMPLEX] if len(objects) < len(plan.objects) else []
        for start in range(0, len(with_outputs), step):
            if start and time.monotonic() > deadline:
                left_out.append(Reason.BUDGET_EXCEEDED)
                break
            try:
                with self._masks.slot(deadline):
                    if click.is_superseded:
                        raise RetryLater("the annotator has added to this click meanwhile", Reason.SUPERSEDED)
                    regions, reasons = self._segment_batch(plan, with_outputs[start : start + step], embedding)
            except RetryLater as error:
                if not start or error.reason is not Reason.BUDGET_EXCEEDED:
                    raise
                left_out.append(error.reason)
                break
            segmented += regions
            left_out += reasons
        return segmented, left_out

    def _segment_batch(
        self, plan: prompts.PromptPlan, batch: Sequence[tuple[ObjectPrompt, OutputTag]], embedding: Embedding
    ) -> tuple[list[Region], list[Reason]]:
        """Return the regions of a few objects, and why some have none; their rasterized areas are freed afterwards."""
        rasterized = [(plan.draw(prompt), output) for prompt, output in batch]
        objects = [(prompt, output) for resolved, output in rasterized for prompt in resolved.objects]
        reasons = [skipped.reason for resolved, _ in rasterized for skipped in resolved.skipped]
        return self._masks.segment(objects, embedding), reasons

    def _embedding(self, ref: ImageRef, deadline: float) -> Embedding:
        return self._embeddings.get(ref, max(0.0, deadline - time.monotonic()), Priority.INTERACTIVE)

    def _prefetch_around(self, request: PredictRequest, opened: Sequence[Task] = ()) -> None:
        """Prefetch the images of opened tasks, and of the tasks after a single requested one."""
        try:
            self._prefetch(request.label_config, request.project_id, opened)
            if len(request.tasks) == 1:
                self._prefetch_next(request, request.tasks[0].id)
        except Exception:  # the answer does not depend on it
            logger.exception("event=defect where=prefetch")

    def _prefetch_next(self, request: PredictRequest, task_id: int | None) -> None:
        """Prefetch the tasks after this one: whenever it is opened, and at a click if that has not happened before."""
        source, count, config, project_id = (
            self._next_tasks, self._policy.prefetch_tasks, request.label_config, request.project_id,
        )  # fmt: skip
        if source is None or not count or not config or project_id is None or task_id is None:
            return
        key = project_id, task_id
        with self._lock:
            if request.context and key in self._prefetched_after:
                return
            self._prefetched_after[key] = None
            self._prefetched_after.move_to_end(key)
            while len(self._prefetched_after) > REMEMBERED_TASKS:
                self._prefetched_after.popitem(last=False)

        def prefetch() -> None:
            try:
                tasks = source.next_tasks(project_id, task_id, count)
            except BackendError as error:
                logger.info("event=next_tasks_unknown project=%s reason=%s", project_id, error.reason)
                with self._lock:
                    self._prefetched_after.pop(key, None)
                return
            self._prefetch(config, project_id, tasks)

        self._background.submit(prefetch)

    def _prefetch(self, config: str, project_id: int | None, tasks: Iterable[Task]) -> None:
        try:
            controls = labeling_config.parse(config)
        except BackendError:
            return  # a click reports it
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
    by_image: dict[tuple[str, int | None], list[PromptRegion]] = {}
    for region in context:
        by_image.setdefault((region.to_name, region.item_index), []).append(region)
    return by_image
