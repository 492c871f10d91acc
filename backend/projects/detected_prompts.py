"""Finds what words name on a task's images: a detector's boxes become prompts, labelled as the config spells it.

Words are the labels of the config, or a text. Everything after the boxes is as for boxes that people have drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from backend.embeddings.pipeline import Source
from backend.errors import BackendError, ConfigError, RequestError
from backend.images import decode
from backend.labeling import config, task_images
from backend.labeling.config_types import LabelConfig
from backend.labeling.task_prompts import TaskPrompts
from backend.projects.engine import IMAGE_WAIT_S
from backend.projects.preannotate_options import Choice
from backend.segmentation.regions import region_id
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import Settings
from backend.shapes import Rectangle
from backend.types import ImageRef, Prediction, PromptRegion, Skipped, Task
from model.detection.detector import Detector
from model.detection.word_list import listing, spelling, split_text
from model.paddlex.detection import open_detector
from model.paddlex.word_segmentation import select

LONGEST_SIDE = 2666  # of the pictures that detectors get, in pixels: twice the longest side that any of them looks at
Say = Callable[[str], None]
Words = Mapping[str, str]  # words for the detector, each with its label; the label is empty where the config has none


@dataclass(frozen=True)
class WordDetector:
    """Looks for the same words on the images of many tasks; safe from many threads."""

    detector: Detector
    words: Words
    source: Source
    limits: decode.PixelLimits
    min_score: float | None
    max_masks: int | None

    def segment_function(
        self, segmenter: TaskSegmenter, controls: LabelConfig, project_id: int
    ) -> Callable[[Task], Prediction]:
        """Return what makes a task's prediction, with the detector's scores, or raises `RetryLater`."""

        def segment(task: Task) -> Prediction:
            boxes, skipped, is_complete = list[tuple[PromptRegion, float]](), list[Skipped](), True
            for to_name, item_index in task_images.image_keys(controls, task):
                try:
                    [image] = config.on_image(controls, to_name).images
                    boxes += self._on_image(task_images.image_ref(image, task, project_id, item_index), to_name)
                except BackendError as error:
                    if error.retry:
                        raise
                    skipped.append(Skipped("", error.reason, str(error)))
                    is_complete = is_complete and isinstance(error, RequestError)
            prompts = TaskPrompts(tuple(region for region, _ in boxes), tuple(skipped))
            made = segmenter.segment(task, prompts, controls, project_id, IMAGE_WAIT_S)
            scored = with_scores(made, {region.id: score for region, score in boxes})
            return replace(scored, is_complete=made.is_complete and is_complete)

        return segment

    def _on_image(self, ref: ImageRef, to_name: str) -> list[tuple[PromptRegion, float]]:
        fetched = self.source.fetch(ref)
        assert fetched is not None  # no version was given
        try:
            picture = decode.decode(fetched.data, replace(self.limits, model_side=LONGEST_SIDE))
        finally:
            fetched.release()
        height, width = picture.pixels.shape[:2]
        detections = select(
            self.detector.detect(picture.pixels, self.words, self.min_score), (height, width), self.max_masks
        )
        boxes = []
        for number, detection in enumerate(detections):
            x1, y1, x2, y2 = detection.box
            shape = Rectangle(100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height)
            name, label = f"words:{to_name}:{ref.item_index}:{number}", self.words[detection.label]
            region = PromptRegion(
                name, shape, "", to_name, (label,) if label else (),
                original_size=picture.original_size, item_index=ref.item_index,
            )  # fmt: skip
            boxes.append((region, detection.score))
        return boxes


def with_scores(prediction: Prediction, scores: Mapping[str, float]) -> Prediction:
    """Return a prediction whose regions have the scores of the boxes that they were made of, by the boxes' ids."""
    controls, known, part = {region.control for region in prediction.result}, dict[str, float](), 0
    while any(region.id not in known for region in prediction.result) and part <= len(prediction.result):
        known |= {region_id((name,), control, part): score for name, score in scores.items() for control in controls}
        part += 1
    result = tuple(replace(region, score=known.get(region.id, region.score)) for region in prediction.result)
    given = [region.score for region in result if region.score is not None]
    return replace(prediction, result=result, score=sum(given) / len(given) if given else 0.0)


def make_word_detector(
    settings: Settings, controls: LabelConfig, source: Source, choice: Choice, say: Say
) -> WordDetector:
    """Return what finds the words of a text, or without one the labels of a config, with the configured detector.

    It says which words the detector does not know and leaves them out.

    Raises:
        ConfigError: no label or word can be looked for.
        ValueError: there is no such detector, or it cannot look for a word.
    """
    words = of_labels(controls) if choice.words is None else of_text(choice.words, controls)
    assert settings.detector is not None  # the command has checked it
    detector = open_detector(settings.detector, settings.model_dir, device=settings.device)
    if unknown := detector.unknown(words):
        say(f"the detector has no class for {listing(unknown)}: left out")
    words = {word: label for word, label in words.items() if word not in unknown}
    if not words:
        raise ConfigError(f"expected words among the detector's classes, {listing(detector.classes or ())}; got none")
    detector.check(words)
    limits = decode.PixelLimits(max_pixels=settings.max_image_pixels)
    return WordDetector(detector, words, source, limits, choice.min_score, choice.max_masks)


def of_labels(controls: LabelConfig) -> Words:
    """Return the words for the labels of a config: the ``prompt`` of each, else its alias, else its value.

    Raises:
        ConfigError: the config has no labels, they come with each task, or two have one word.
    """
    prompts = {label: prompt for tag in reversed(controls.output_label_tags) for label, prompt in tag.prompts}
    labels = dict.fromkeys(label for tag in controls.output_label_tags for label in tag.labels)
    if not labels:
        raise ConfigError("--from labels: expected labels in the labeling config, got none; use --from text WORDS")
    words: dict[str, str] = {}
    for label in labels:
        for word in split_text(prompts.get(label, "")) or (label,):
            other = next((taken for taken in words if spelling(taken) == spelling(word)), None)
            if other is not None and words[other] != label:
                raise ConfigError(
                    f"labels {words[other]!r:.60} and {label!r:.60}: expected a word for each, got {word!r:.60} for "
                    'both; give one of them another with prompt="..."'
                )
            words.setdefault(word, label)
    return words


def of_text(text: str, controls: LabelConfig) -> Words:
    """Return the words in a text such as ``walking man=Person, bus``, each with the label after ``=``.

    A word without one gets the label of its own name, in any case.

    Raises:
        ConfigError: there are no words, or one has no label in the config, which offers some.
    """
    tags = controls.output_label_tags
    offered = {name: label for tag in reversed(tags) for name, label in tag.loose_spellings.items()}
    is_free = not offered or any(tag.labels_vary for tag in tags)
    words: dict[str, str] = {}
    for part in split_text(text):
        word, _, wanted = (piece.strip() for piece in part.partition("="))
        label = offered.get((wanted or word).casefold(), wanted if is_free else "")
        if not label and not is_free:
            raise ConfigError(
                f"{wanted or word!r:.60}: expected one of the config's labels, "
                f'{listing(dict.fromkeys(label for tag in tags for label in tag.labels))}; say which with "WORD=LABEL"'
            )
        words[word] = label
    if not words or "" in words:
        raise ConfigError(f'--from text: expected words such as "walking man=Person, bus", got {text!r:.60}')
    return words
