"""Reads what a decoder learns from: a project's submitted masks, with the embeddings of their images.

What teaches nothing is left out and counted: shapes that are no masks, masks that cannot be read, are empty or cover
the whole image, images annotated in another size than they have.
"""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

from backend.concurrency.parallel_map import parallel_map
from backend.label_studio.task_reads import TaskReads
from backend.projects import annotation_masks
from backend.projects.annotation_masks import ImageMasks
from backend.projects.engine import IMAGE_WAIT_S, Engine
from backend.projects.progress import Progress
from backend.projects.report import Failure, RunReport, attempt, failures_about, recording_end
from backend.projects.run import BatchRun
from backend.shapes import Bitmask, Brush, Polygon, Vector
from backend.types import ImageRef, Priority, Task
from model.config import SamConfig
from model.finetuning.examples import TrainingImage, TrainingObject
from model.types import Embedding

TASKS, IMAGES, MASKS, GONE = "tasks", "images", "masks", "deleted meanwhile"
WHOLE_IMAGE = "masks left out that cover the whole image"
OTHER_SIZE = "images left out that were annotated in another size"
BEYOND = "images left out beyond the memory for masks"
WHOLE_SHARE = 0.99  # of the pixels
MOST_MASK_BYTES = 512 << 20
"""Memory for masks: those of 50,000 cells in photos of a megapixel. Of more images some are left out."""
MASKS_OF = (Brush, Bitmask, Polygon, Vector)  # not rectangles: they would teach the decoder to draw rectangles


@dataclass(frozen=True)
class Example:
    """An image to learn from, and where it is, to draw on it."""

    image: TrainingImage
    ref: ImageRef
    task_id: int


@dataclass(frozen=True)
class _Outcome:
    examples: tuple[Example, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    failures: tuple[Failure, ...] = ()


def gather(
    batch: BatchRun, engine: Engine, config: SamConfig, progress: Progress, most_bytes: int = MOST_MASK_BYTES
) -> tuple[list[Example], RunReport]:
    """Return the examples of a run's tasks, in an order that depends on them alone, and a report.

    Where their masks take more than ``most_bytes``, some images are left out: which ones depends on the images alone.
    """
    report = RunReport((TASKS, IMAGES, MASKS))
    kept = _Kept(most_bytes)
    with recording_end(report, batch.stop):
        work = _Work(batch, engine, config)
        for outcome in parallel_map(batch.tasks, work, engine.at_once, batch.stop, engine.close):
            for example in outcome.examples:
                kept.add(example)
            report.failures += outcome.failures
            for kind, count in (+outcome.counts).items():
                report.add(kind, count)
            progress.advance()
    if kept.left_out:
        report.add(BEYOND, kept.left_out)
    return sorted(kept.examples, key=lambda example: (example.image.key, example.task_id)), report


class _Kept:
    """Examples up to a number of bytes; of more, those with the first keys, which are digests."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes, self.left_out, self._added = most_bytes, 0, 0, 0
        self._heap: list[tuple[int, int, int, Example]] = []  # the last key first

    @property
    def examples(self) -> list[Example]:
        return [entry[-1] for entry in self._heap]

    def add(self, example: Example) -> None:
        self._added += 1
        heapq.heappush(self._heap, (-int(example.image.key, 16), -example.task_id, self._added, example))
        self._bytes += _bytes_of(example)
        while self._bytes > self._most_bytes:
            self._bytes -= _bytes_of(heapq.heappop(self._heap)[-1])
            self.left_out += 1


def _bytes_of(example: Example) -> int:
    return sum(mask.nbytes for mask in example.image.objects)


class _Work:
    """Processes one task."""

    def __init__(self, batch: BatchRun, engine: Engine, config: SamConfig) -> None:
        self._batch, self._embeddings, self._config = batch, engine.embeddings, config
        self._read = TaskReads(batch.retry)

    def __call__(self, task: Task) -> _Outcome:
        outcome = attempt(task.id, partial(self._process, task))
        return _Outcome(failures=(outcome,)) if isinstance(outcome, Failure) else outcome or _Outcome()

    def _process(self, task: Task) -> _Outcome:
        assert task.id is not None  # it was listed
        annotations = self._read(partial(self._batch.client.annotations, task.id))
        if annotations is None:
            return _Outcome(counts=Counter({GONE: 1}))
        masks = annotation_masks.read(task, annotations, self._batch.controls, drawn_as=MASKS_OF)
        counts, examples = Counter(masks.counts), []
        failures = list(failures_about(task.id, masks.skipped))
        for image in masks.images:
            example = attempt(task.id, partial(self._example, task.id, image, counts))
            if isinstance(example, Failure):
                failures.append(example)
            elif example is not None:
                examples.append(example)
        counts.update({TASKS: 1, IMAGES: len(examples), MASKS: sum(len(example.image.objects) for example in examples)})
        return _Outcome(tuple(examples), counts, tuple(failures))

    def _example(self, task_id: int, image: ImageMasks, counts: Counter[str]) -> Example | None:
        batch, most = self._batch, WHOLE_SHARE * image.size[0] * image.size[1]
        masks = [mask for mask in image.masks if mask.rle.area < most]
        counts[WHOLE_IMAGE] += len(image.masks) - len(masks)
        if not masks:
            return None
        ref = replace(image.ref, task_id=task_id, project_id=batch.project.id)
        load = partial(batch.retry.call_for_image, partial(self._embedding, ref), batch.client.version)
        embedding = load()
        if embedding.original_size != image.size:
            counts[OTHER_SIZE] += 1
            return None
        objects = tuple(
            TrainingObject.of(mask.labels[0], mask.rle, embedding.input_size, self._config) for mask in masks
        )
        key = hashlib.sha256(embedding.image_embedding.tobytes()).hexdigest()
        return Example(TrainingImage(key, load, objects), ref, task_id)

    def _embedding(self, ref: ImageRef) -> Embedding:
        cached = self._embeddings.peek(ref)
        return self._embeddings.get(ref, IMAGE_WAIT_S, Priority.BULK) if cached is None else cached
