"""Makes predictions of what words name on a task's images: the labels of the config, or a text.

Everything after the boxes is as for boxes that people have drawn.
"""

from collections.abc import Callable
from dataclasses import replace

from backend.embeddings.local import Embeddings
from backend.embeddings.word_prompts import WordSearch
from backend.errors import BackendError, ConfigError, RequestError
from backend.labeling import config, task_images, word_labels
from backend.labeling.config_types import LabelConfig
from backend.labeling.task_prompts import TaskPrompts
from backend.projects.engine import IMAGE_WAIT_S
from backend.projects.preannotate_options import Choice
from backend.segmentation.tasks import TaskSegmenter
from backend.types import Prediction, Priority, PromptRegion, Skipped, Task
from backend.words import WordQuery, Words
from model.detection.detector import Detector
from model.detection.word_list import listing

Say = Callable[[str], None]


def segment_function(
    search: WordSearch, segmenter: TaskSegmenter, controls: LabelConfig, project_id: int
) -> Callable[[Task], Prediction]:
    """Return what makes a task's prediction, with the detector's scores, or raises `RetryLater`."""

    def segment(task: Task) -> Prediction:
        boxes, skipped, is_complete = list[PromptRegion](), list[Skipped](), True
        for to_name, item_index in task_images.image_keys(controls, task):
            try:
                [image] = config.on_image(controls, to_name).images
                ref = task_images.image_ref(image, task, project_id, item_index)
                boxes += search.prompts(ref, to_name, IMAGE_WAIT_S, Priority.BULK)
            except BackendError as error:
                if error.retry:
                    raise
                skipped.append(Skipped("", error.reason, str(error)))
                is_complete = is_complete and isinstance(error, RequestError)
        prompts = TaskPrompts(tuple(boxes), tuple(skipped))
        prediction = segmenter.segment(task, prompts, controls, project_id, IMAGE_WAIT_S)
        return replace(prediction, is_complete=prediction.is_complete and is_complete)

    return segment


def word_search(embeddings: Embeddings, detector: Detector, words: Words, choice: Choice, say: Say) -> WordSearch:
    """Return the search for words with a detector; it names the words that the detector does not know and drops them.

    Raises:
        ConfigError: no label or word can be looked for.
        ValueError: the detector cannot look for a word.
    """
    if unknown := detector.unknown(words):
        say(f"the detector has no class for {listing(unknown)}: left out")
    known = {word: label for word, label in words.items() if word not in unknown}
    if not known:
        raise ConfigError(f"expected words among the detector's classes, {listing(detector.classes or ())}; got none")
    detector.check(known)
    return WordSearch(embeddings, known, WordQuery(tuple(known), detector.version, choice.min_score), choice.max_masks)


def chosen_words(choice: Choice, controls: LabelConfig) -> Words:
    """Return the words of a text, or without one those for the labels of a config.

    Raises:
        ConfigError: there are none, or one has no label in a config that has labels.
        RequestError: there are too many.
    """
    try:
        words = word_labels.of_labels(controls) if choice.words is None else word_labels.of_text(choice.words, controls)
    except ConfigError as error:
        raise ConfigError(f"--from {'labels' if choice.words is None else 'text'}: {error}") from error
    if nameless := word_labels.unlabelled(words, controls):
        raise ConfigError(
            f"{nameless[0]!r:.60}: expected one of the config's labels, {word_labels.labels_of(controls)}; say which "
            'with "WORD=LABEL"'
        )
    word_labels.check_count(words)
    return words
