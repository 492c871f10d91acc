"""Answers clicks and opened tasks, and prefetches the images that come next.

No request raises an error for its content: each task gets its own answer, and an empty answer carries its reasons.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from backend import shapes
from backend.embeddings.local import Embeddings
from backend.errors import BackendError, Reason
from backend.labeling import config as labeling_config
from backend.labeling import config_problems
from backend.metrics import Metrics
from backend.segmentation.pipeline import ImageKey, Job, Outcome, Pipeline, Vocabulary, by_image, on_each
from backend.segmentation.planning import Rules
from backend.segmentation.prefetch import Background, ImagePrefetch, NextTasks
from backend.segmentation.retrieval import Retrieval
from backend.segmentation.superseded_clicks import Click, Clicks
from backend.shapes import ShapeKind
from backend.types import Prediction, PredictRequest, Priority, SetupRequest, Skipped, Task, WebhookEvent

logger = logging.getLogger(__name__)

MOST_IMAGES = 16  # maximum number of images of one click. The editor sends one; an API caller may send several


@dataclass(frozen=True)
class ClickPolicy:
    """Settings for answering clicks and prefetching.

    >>> ClickPolicy(output_preference=(ShapeKind.POLYGON,)).outputs[0].value
    'polygon'
    """

    wait_s: float = 90.0  # how long a click may wait, for its embedding, the decoder and a decoder slot together
    # the kinds of region to answer with, preferred first, where a labeling config offers several; kinds that are not
    # named come last
    output_preference: tuple[ShapeKind, ...] = ()
    prefetch_tasks: int = 3  # how many of a project's next tasks are encoded ahead
    max_pixels: int | None = None  # largest image size, in pixels, accepted from a click; None sets no limit
    vocabulary: Vocabulary | None = None  # of the detector that finds typed words; None without one

    @property
    def outputs(self) -> tuple[ShapeKind, ...]:
        """Every kind of output, the preferred ones first."""
        return shapes.in_order(self.output_preference)


class Segmenter:
    """Answers Label Studio's requests; thread-safe."""

    def __init__(
        self,
        pipeline: Pipeline,
        embeddings: Embeddings,
        metrics: Metrics,
        background: Background,
        next_tasks: NextTasks | None,
        policy: ClickPolicy,
        retrieval: Retrieval,
    ) -> None:
        """Create the service around its parts.

        ``background`` runs the prefetching of the tasks that ``next_tasks`` returns; None prefetches only the requested
        ones. ``retrieval`` answers requests about whole tasks.
        """
        self.masks = pipeline.masks
        self._metrics, self._policy, self._retrieval, self._clicks = metrics, policy, retrieval, Clicks()
        self._pipeline = pipeline
        self._prefetch = ImagePrefetch(embeddings, background, next_tasks, policy.prefetch_tasks)

    @property
    def model_version(self) -> str:
        """Name and digest of the weights; see `version_of` for a project's."""
        return self.version_of(None)

    def version_of(self, project_id: int | None) -> str:
        """Return the ``model_version`` of a project's answers at this moment."""
        return self.masks.decoder_of(project_id).model_version

    def predict(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one answer per task, in order: masks for a click, or for the prompts that the tasks hold."""
        if request.context is None:
            answers = self._retrieval.answer(request)
            unanswered = [task for task, answer in zip(request.tasks, answers, strict=True) if not answer.result]
            self._prefetch.around(request, unanswered)
            return answers
        if not request.context and not request.texts:
            self._prefetch.around(request, request.tasks)
            reasons = [skipped.reason for skipped in request.skipped] or [Reason.NO_PROMPT]
            return tuple(self._empty(request, reasons) for _ in request.tasks)
        first, *others = request.tasks or (Task(None),)
        with self._clicks.enter((request.project_id, first.id), _ids(request)) as click:
            answer = self._click(request, first, click)
        self._prefetch.around(request)
        return (answer, *(self._empty(request, (Reason.NO_PROMPT,)) for _ in others))

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
            self._prefetch.images(event.label_config, event.project_id, event.tasks)

    def _click(self, request: PredictRequest, task: Task, click: Click) -> Prediction:
        """Return the answer to a click: a task whose prompts are in the request, with an annotator waiting."""
        job = Job(
            task,
            request.project_id,
            Rules(is_click=True, max_pixels=self._policy.max_pixels),
            self.masks.decoder_of(request.project_id),
            Priority.INTERACTIVE,
            deadline=time.monotonic() + self._policy.wait_s,
            prompt_ids={region.id for region in request.context or ()},
            check=click.check,
        )
        regions = by_image(request.context or ())
        texts: dict[ImageKey, str] = {(text.to_name, text.item_index): text.text for text in request.texts}

        def segment(key: ImageKey) -> Outcome:
            return self._pipeline.segment(regions[key], key, labeling_config.parse(request.label_config), job)

        def segment_words(key: ImageKey) -> Outcome:
            return self._pipeline.segment_words(texts[key], key, labeling_config.parse(request.label_config), job)

        named = on_each(list(texts)[-MOST_IMAGES:], segment_words, job)
        marked = on_each(list(regions)[-MOST_IMAGES:], segment, job)
        too_many = [Skipped("", Reason.TOO_COMPLEX)] if max(len(regions), len(texts)) > MOST_IMAGES else []
        skipped = (*request.skipped, *too_many, *named.skipped, *marked.skipped)
        return Outcome(named.regions + marked.regions, skipped).prediction(job.decoder.model_version)

    def _empty(self, request: PredictRequest, reasons: Iterable[Reason]) -> Prediction:
        return Prediction((), 0.0, self.version_of(request.project_id), tuple(dict.fromkeys(reasons)))


def _ids(request: PredictRequest) -> list[str]:
    """Return the ids of a click's prompts; those of words hold the text, so that other words are another click."""
    return [
        *(region.id for region in request.context or ()),
        *(f"{text.region_id} {text.text}" for text in request.texts),
    ]
