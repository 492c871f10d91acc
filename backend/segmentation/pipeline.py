"""The way from prompts on a task's images to regions: locate, embed, plan prompts, decode, draw.

Words come one step before: a detector finds their boxes, which are the prompts.

Clicks and whole tasks go the same way; a click's prompts come from the request, and its priority and deadline differ.
Requests are read before, and answers written after, by `backend.protocol`. Objects are decoded in batches, which bounds
the masks in memory. Bulk work takes only one of the decoder's slots, which leaves the others free for clicks.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Protocol, TypeAlias

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.embeddings.local import Embeddings
from backend.embeddings.word_prompts import WordSearch
from backend.errors import BackendError, ImageError, Reason, RequestError, RetryLater
from backend.labeling import config, task_images, word_labels
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.request_steps import StepLimit
from backend.segmentation import planning
from backend.segmentation.corrections import accepted_masks
from backend.segmentation.corrections.carving import carve
from backend.segmentation.corrections.plan import Correction
from backend.segmentation.corrections.plan import plan as plan_corrections
from backend.segmentation.corrections.recent_answers import Answered, RecentAnswers
from backend.segmentation.decoding import Decoder, MaskService, check_size
from backend.segmentation.planning import PromptPlan, Rules
from backend.segmentation.prompts import MOST_OBJECTS
from backend.shapes import ShapeKind
from backend.types import (
    ImageRef,
    ObjectPrompt,
    Prediction,
    Priority,
    PromptRegion,
    Region,
    Skipped,
    Task,
    lone_negative_points,
)
from backend.words import WordQuery, Words
from model.types import Embedding, Mask, Prompt

logger = logging.getLogger(__name__)

BATCH = 16  # maximum number of objects decoded together. It bounds how long a click waits for the decoder
BATCH_PIXELS = 1 << 28
"""Maximum pixels of all masks in memory at a time, one byte each, if every object filled its image."""

CLICK_PIXELS = 1 << 27  # the same for a click: the size that its caller gives may exceed the photo's
LONGEST_DETAIL, SHOWN_WORDS = 200, 10
ImageKey: TypeAlias = tuple[str, int | None]  # the ``to_name`` and item index of an image of a task


class Vocabulary(Protocol):
    """The words that a detector knows; see `model.detection.detector.Detector`."""

    version: str

    def refusals(self, words: Iterable[str], /) -> Mapping[str, str]:
        """Return why it cannot look for a word, of each for which it cannot."""


@dataclass(frozen=True)
class Job:
    """How one request is served."""

    task: Task  # its data names the images
    project_id: int | None
    rules: Rules
    decoder: Decoder  # answers its prompts, all with the same weights
    priority: Priority  # of its images, where they are not cached
    deadline: float = math.inf  # until when to answer, in seconds on the monotonic clock
    image_s: float | None = math.inf  # longest wait for the embedding of one image; None uses cached embeddings only
    prompt_ids: Collection[str] = ()  # of all prompts of a click, on whichever image
    check: Callable[[], None] = lambda: None  # called before each decode; raises where the answer is no longer needed
    step_limit: StepLimit = field(default_factory=StepLimit)  # the work that finding its images may take

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class TaskImage:
    """One image of a task, its name in the labeling config, and what answers on it are drawn with."""

    ref: ImageRef
    to_name: str
    outputs: Outputs
    controls: LabelConfig


@dataclass(frozen=True)
class Outcome:
    """The regions on a task's images, what was left out, and whether every image was segmented."""

    regions: tuple[Region, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    is_complete: bool = True

    def prediction(self, model_version: str) -> Prediction:
        """Return the answer for the task, whose score is the mean of its regions' scores."""
        scores = [region.score for region in self.regions if region.score is not None]
        score = sum(scores) / len(scores) if scores else 0.0
        reasons = tuple(dict.fromkeys(skip.reason for skip in self.skipped))
        return Prediction(self.regions, score, model_version, reasons, self.skipped, is_complete=self.is_complete)


class Pipeline:
    """Segments what is marked on the images of tasks; thread-safe."""

    def __init__(
        self,
        masks: MaskService,
        embeddings: Embeddings,
        outputs: Sequence[ShapeKind],
        vocabulary: Vocabulary | None = None,
        answers: RecentAnswers | None = None,
    ) -> None:
        """Segment with these masks and embeddings.

        ``outputs`` are the kinds of region to draw, the preferred first; ``vocabulary`` is that of the detector that
        finds words, None without one; ``answers`` remembers those to clicks.
        """
        self.masks, self._vocabulary = masks, vocabulary
        self._embeddings, self._outputs, self.bulk_slot = embeddings, outputs, FifoLimiter(1)
        self._answers = answers or RecentAnswers()

    def segment(self, regions: Sequence[PromptRegion], key: ImageKey, controls: LabelConfig, job: Job) -> Outcome:
        """Return the regions of all objects that prompts mark on one image; raises `BackendError` as the steps do."""
        image = self.locate(key, controls, job)
        if job.rules.is_click and (points := lone_negative_points(regions)):
            return self._correct(points, image, job)
        embedding = self.embed(image.ref, job)
        plan = planning.plan(regions, embedding, image.to_name, image.outputs, job.rules)
        return self.decode_and_draw(plan, embedding, image.ref, job)

    def segment_words(self, text: str, key: ImageKey, controls: LabelConfig, job: Job) -> Outcome:
        """Return the regions of the objects on one image that a text names; of all labels, where it names none.

        Raises:
            BackendError: the words cannot be looked for (``no_detector``, ``unknown_word``), or see the steps.
        """
        if self._vocabulary is None:
            raise RequestError("words were typed: expected PADDLE_SAM_DETECTOR, got none", Reason.NO_DETECTOR)
        image, on_image = self.locate(key, controls, job), config.on_image(controls, key[0])
        words = word_labels.typed(text, on_image)
        refused = self._vocabulary.refusals(words)
        skipped = [Skipped("", Reason.UNKNOWN_WORD, detail) for detail in refused.values()]
        known: Words = {word: label for word, label in words.items() if word not in refused}
        if refused:
            left_out = list(refused)[:SHOWN_WORDS]
            logger.info("words left out: task=%s detail=%r event=unknown_words", job.task.id, left_out)
        if not known:
            return Outcome(skipped=tuple(skipped))
        search = WordSearch(self._embeddings, known, WordQuery(tuple(known), self._vocabulary.version))
        prompts = search.prompts(image.ref, image.to_name, max(0.0, job.left_s), job.priority)
        if nameless := word_labels.unlabelled(known, on_image):
            skipped.append(Skipped("", Reason.UNKNOWN_LABEL, f"no label for {', '.join(nameless)[:LONGEST_DETAIL]}"))
        if not prompts:
            return Outcome(skipped=(*skipped, Skipped("", Reason.NOTHING_FOUND)))
        if len(prompts) > MOST_OBJECTS:
            skipped.append(Skipped("", Reason.TOO_COMPLEX, f"{len(prompts)} objects, of which the best are answered"))
        embedding = self.embed(image.ref, job)
        plan = planning.plan(prompts[:MOST_OBJECTS], embedding, image.to_name, image.outputs, job.rules)
        outcome = self.decode_and_draw(plan, embedding, image.ref, job)
        return replace(outcome, skipped=(*skipped, *outcome.skipped))

    def locate(self, key: ImageKey, controls: LabelConfig, job: Job) -> TaskImage:
        """Return an image of a task.

        Raises:
            ConfigError: no image of the labeling config has that name, or no control on it can hold an answer.
            RequestError: the task's data holds no such image.
        """
        to_name, item_index = key
        on_image = config.on_image(controls, to_name)
        [image] = on_image.images
        ref = task_images.image_ref(image, job.task, job.project_id, item_index, job.step_limit)
        return TaskImage(ref, image.name, Outputs(on_image, self._outputs), on_image)

    def embed(self, ref: ImageRef, job: Job) -> Embedding:
        """Return the embedding of an image; see `backend.embeddings.local.Embeddings.get` for the errors.

        It is ``budget_exceeded`` where only cached ones are used and it is none.
        """
        if job.image_s is not None:
            return self._embeddings.get(ref, max(0.0, min(job.image_s, job.left_s)), job.priority)
        embedding = self._embeddings.peek(ref)
        if embedding is None:
            raise RetryLater("the image is not encoded yet", Reason.BUDGET_EXCEEDED)
        return embedding

    def decode_and_draw(self, plan: PromptPlan, embedding: Embedding, ref: ImageRef, job: Job) -> Outcome:
        """Return the regions of planned objects; where time runs out between batches, those that were done."""
        answered: list[Answered] = []
        skipped = list(plan.skipped)
        for batch in _batches(plan.objects, CLICK_PIXELS if job.rules.is_click else BATCH_PIXELS):
            is_first, is_last = batch[0] is plan.objects[0], batch[-1] is plan.objects[-1]
            keeps_logits = job.rules.is_click and is_last  # of the newest objects; all of them may take 64 MB
            try:
                if not is_first and job.left_s < 0:
                    raise RetryLater("there was no time for all objects", Reason.BUDGET_EXCEEDED)
                bulk_slot = self.bulk_slot.slot(job.left_s) if job.priority is Priority.BULK else nullcontext()
                with bulk_slot, self.masks.slot(job.decoder, job.deadline):
                    job.check()
                    decoded_batch = self.masks.decode(job.decoder, [prompt for prompt, _ in batch], embedding)
                    for (prompt, output), decoded in zip(batch, decoded_batch, strict=True):
                        drawn = self.masks.draw(decoded.mask, prompt, output, decoded.score)
                        logits = decoded.low_res_mask if keeps_logits else None
                        answered += [(region, prompt, logits) for region in drawn]
            except RetryLater as error:
                if is_first or error.reason is not Reason.BUDGET_EXCEEDED or not job.rules.is_click:
                    raise
                skipped.append(Skipped("", error.reason, str(error)))
                break
        if plan.objects and not answered:
            skipped.append(Skipped("", Reason.EMPTY_MASK))
        return self._outcome(answered, skipped, ref, job)

    def _correct(self, points: Sequence[PromptRegion], image: TaskImage, job: Job) -> Outcome:
        """Return the accepted masks that negative points lie in, without the parts that the model finds there."""
        recent, now = self._answers.on(image.ref), self._answers.clock()
        embedding = cache(lambda: self.embed(image.ref, job))  # not waited for where there is no mask

        failed: list[BackendError] = []

        def is_shown(size: tuple[int, int]) -> bool:
            photo = embedding()
            try:
                check_size(photo, size, job.rules.max_pixels)
            except ImageError as error:
                failed.append(error)
                return False
            return True

        corrections, skipped = plan_corrections(
            points, job.prompt_ids, image.to_name, image.controls, job.task, recent, now, is_shown
        )
        if not corrections and not failed:
            return Outcome(skipped=tuple(skipped))
        answered: list[Answered] = []
        for correction in corrections:
            try:
                if answered and job.left_s < 0:
                    raise RetryLater("there was no time for all masks", Reason.BUDGET_EXCEEDED)
                answered += self._carved(correction, embedding(), job)
            except BackendError as error:
                if error.reason is Reason.SUPERSEDED:
                    raise
                failed.append(error)
        if failed and not answered:
            raise failed[0]
        skipped += [Skipped("", error.reason, str(error)) for error in failed]
        if not answered:
            skipped.append(Skipped("", Reason.EMPTY_MASK))
        return self._outcome(answered, skipped, image.ref, job)

    def _carved(self, correction: Correction, embedding: Embedding, job: Job) -> list[Answered]:
        prompt = correction.prompt
        with self.masks.slot(job.decoder, job.deadline):
            job.check()
            masks_of = partial(self._masks_of, job.decoder, prompt, embedding)
            mask = carve(correction.accepted, correction.clicks, masks_of)
            drawn = self.masks.draw(mask, prompt, correction.output, None)
        return [(region, prompt, None) for region in drawn]

    def _masks_of(
        self, decoder: Decoder, prompt: ObjectPrompt, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> Iterator[Mask]:
        objects = [replace(prompt, prompt=other) for other in prompts]
        step = batch_size(prompt.original_size, CLICK_PIXELS)
        batches = (objects[start : start + step] for start in range(0, len(objects), step))
        return (decoded.mask for batch in batches for decoded in self.masks.decode(decoder, batch, embedding))

    def _outcome(self, answered: Sequence[Answered], skipped: Iterable[Skipped], ref: ImageRef, job: Job) -> Outcome:
        """Return the outcome of an image; a click's answers are remembered."""
        if job.rules.is_click:
            self._answers.add(ref, answered, accepted_masks.draft_stamp(job.task))
        return Outcome(tuple(region for region, *_ in answered), tuple(skipped))


def by_image(regions: Iterable[PromptRegion]) -> dict[ImageKey, list[PromptRegion]]:
    """Return regions by the image they lie on."""
    regions_by_image: dict[ImageKey, list[PromptRegion]] = {}
    for region in regions:
        regions_by_image.setdefault((region.to_name, region.item_index), []).append(region)
    return regions_by_image


def on_each(keys: Iterable[ImageKey], work: Callable[[ImageKey], Outcome], job: Job) -> Outcome:
    """Return what work makes of a task's images together; an image that fails leaves the others their regions.

    A prompt on an image that the task or the labeling config no longer has is skipped permanently: no later run finds
    that image. An image that cannot be fetched or decoded may be available later.

    Raises:
        RetryLater: one of a task's images cannot be segmented at the moment; a click's failures are in its outcome.
    """
    regions: list[Region] = []
    skipped: list[Skipped] = []
    is_complete = True
    for key in keys:
        try:
            outcome = work(key)
        except BackendError as error:
            if error.retry and not job.rules.is_click:
                raise
            kind, level = ("click", logging.WARNING) if job.rules.is_click else ("task", logging.INFO)
            logger.log(
                level,
                "%s failed: task=%s reason=%s detail=%r event=%s_failed",
                kind, job.task.id, error.reason, str(error), kind,
            )  # fmt: skip
            skipped.append(Skipped("", error.reason, str(error)))
            is_complete = is_complete and isinstance(error, RequestError)
        except Exception as error:  # an error status would hide a click's prompt, and end a run over many tasks
            logger.exception("event=defect task=%s", job.task.id)
            skipped.append(Skipped("", Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"))
            is_complete = False
        else:
            regions += outcome.regions
            skipped += outcome.skipped
    return Outcome(tuple(regions), tuple(skipped), is_complete)


def batch_size(size: tuple[int, int], pixels: int = BATCH_PIXELS) -> int:
    """Return how many objects to decode together, at least one, on an image of ``size`` (H, W).

    The masks of more than one object have at most ``pixels`` pixels together.

    >>> batch_size((1080, 1920))
    16
    >>> batch_size((8000, 8000))
    4
    """
    return min(BATCH, max(1, pixels // math.prod(size)))


def _batches(
    objects: Sequence[tuple[ObjectPrompt, OutputTag]], pixels: int
) -> Iterator[Sequence[tuple[ObjectPrompt, OutputTag]]]:
    sizes = (prompt.original_size for prompt, _ in objects)
    step = batch_size(max(sizes, key=math.prod, default=(1, 1)), pixels)
    return (objects[start : start + step] for start in range(0, len(objects), step))
