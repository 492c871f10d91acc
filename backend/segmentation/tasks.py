"""Makes one prediction per task: masks for the prompts that it holds, or for everything on its images.

Answers are in pixels of the image itself, whatever copy of it the prompts were drawn on: that is the size in which
Label Studio shows a stored prediction.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from backend.embeddings.local import Embeddings
from backend.errors import BackendError, Reason
from backend.labeling import task_images
from backend.labeling.config_types import LabelConfig
from backend.labeling.task_prompts import TaskPrompts
from backend.segmentation import pipeline
from backend.segmentation.decoding import MaskService
from backend.segmentation.pipeline import ImageKey, Job, Outcome, Pipeline
from backend.segmentation.planning import Rules
from backend.shapes import OUTPUT_KINDS, ShapeKind
from backend.types import ObjectPrompt, Prediction, Priority, Region, Skipped, Task
from model.automatic import AutomaticMask
from model.types import Embedding, Prompt


class TaskSegmenter:
    """Makes predictions for whole tasks; thread-safe."""

    def __init__(
        self,
        masks: MaskService,
        embeddings: Embeddings,
        outputs: Sequence[ShapeKind] = OUTPUT_KINDS,
        automatic: Callable[[Embedding], Iterable[AutomaticMask]] | None = None,
    ) -> None:
        """Create the segmenter around its parts; ``automatic`` finds all objects on an image, the best first.

        Answers are of the first kind of ``outputs`` that a labeling config offers.
        """
        self._masks, self._automatic = masks, automatic
        self._pipeline = Pipeline(masks, embeddings, outputs)

    def version_of(self, project_id: int | None) -> str:
        """Return the ``model_version`` of a project's predictions at this moment."""
        return self._masks.decoder_of(project_id).model_version

    def segment(
        self,
        task: Task,
        prompts: TaskPrompts,
        controls: LabelConfig,
        project_id: int | None,
        image_s: float,
        *,
        within_s: float = math.inf,
        wait: bool = True,
    ) -> Prediction:
        """Return the masks of ``prompts`` on all images of a task; its annotations and predictions are not read.

        It waits ``image_s`` for the embedding of each image, and must be done ``within_s`` from now; a running decode
        is finished. Without a deadline the decodes are not limited: a task of hundreds of objects would start over at
        each retry. Images that are not encoded yet are not fetched unless ``wait``.

        The score is the mean of the regions' scores. The ``reasons`` name what failed permanently (a broken image, a
        prompt outside it); the other masks are in the prediction. If an image failed, ``is_complete`` is false.

        Raises:
            RetryLater: some of it cannot be done at the moment; the call can be repeated.
        """
        rules, deadline = Rules(is_click=False, areas_only=prompts.areas_only), time.monotonic() + within_s
        decoder = self._masks.decoder_of(project_id)
        job = Job(task, project_id, rules, decoder, Priority.BULK, deadline, image_s if wait else None)
        by_image = pipeline.by_image(prompts.regions)
        outcome = pipeline.on_each(by_image, lambda key: self._pipeline.segment(by_image[key], key, controls, job), job)
        no_prompt = [] if prompts.regions else [Skipped("", Reason.NO_PROMPT)]
        skipped = tuple(
            skip
            for skip in (*no_prompt, *prompts.skipped, *outcome.skipped)
            if not (outcome.regions and skip.reason is Reason.NOT_A_PROMPT)
        )
        return replace(outcome, skipped=skipped).prediction(job.decoder.model_version)

    def segment_everything(
        self, task: Task, controls: LabelConfig, project_id: int | None, image_s: float
    ) -> Prediction:
        """Return masks of all objects on a task's images, within the limits.

        They carry no label, except where the labeling config offers only one: the model does not classify.

        Arguments and errors are those of `segment`.
        """
        decoder = self._masks.decoder_of(project_id)
        job = Job(task, project_id, Rules(is_click=False), decoder, Priority.BULK, image_s=image_s)
        keys = task_images.image_keys(controls, task)
        outcome = pipeline.on_each(keys, lambda key: self._everything_on(key, controls, job), job)
        if not keys:
            outcome = Outcome(skipped=(Skipped("", Reason.NO_IMAGE_IN_TASK),))
        return outcome.prediction(job.decoder.model_version)

    def _everything_on(self, key: ImageKey, controls: LabelConfig, job: Job) -> Outcome:
        if self._automatic is None:
            raise BackendError("expected a model that finds everything, got none", Reason.UNSUPPORTED_PROMPT)
        image = self._pipeline.locate(key, controls, job)
        output, item_index = image.outputs.choose(), key[1]
        embedding = self._pipeline.embed(image.ref, job)
        regions: list[Region] = []
        with self._pipeline.bulk_slot:
            for number, candidate in enumerate(self._automatic(embedding)):
                if candidate.mask.box is None:
                    continue
                prompt = ObjectPrompt(
                    prompt=Prompt(box=candidate.mask.box),  # type: ignore[arg-type]  # the constructor makes an array of it
                    region_ids=("everything", image.to_name, str(item_index), str(number)),
                    labels=(),
                    from_name="",
                    to_name=image.to_name,
                    original_size=embedding.original_size,
                    item_index=item_index,
                )
                regions += self._pipeline.masks.draw(candidate.mask, prompt, output, candidate.score)
        return Outcome(tuple(regions), () if regions else (Skipped("", Reason.EMPTY_MASK),))
