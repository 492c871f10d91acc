"""Words become masks in a whole project."""

import numpy as np
import pytest

from backend.embeddings.word_prompts import WordSearch
from backend.errors import ConfigError, ImageError, Reason, RetryLater
from backend.labeling import config
from backend.projects.detected_prompts import chosen_words, segment_function, word_search
from backend.projects.preannotate_options import Choice
from backend.types import Task
from backend.words import WordQuery
from model.detection.word_list import WordsError
from model.types import Mask
from tests.support.fake_detector import DETECTOR, FakeDetector
from tests.support.fakes import png
from tests.support.service import Service
from tests.support.wire_bodies import CONFIG

BOTH = config.parse(CONFIG)
PAGES = config.parse('<View><Image name="image" valueList="$pages"/><Brush name="brush" toName="image"/></View>')
FILE = png((1, 2, 3), (200, 100))
FOUND = [
    ("cat", 0.9, (20.0, 10.0, 60.0, 50.0)),
    ("walking man", 0.6, (0.0, 0.0, 200.0, 100.0)),
    ("cat", 0.8, (20.0, 10.0, 60.5, 50.0)),
]
WORDS = {"cat": "Cat", "walking man": "Dog"}
TASK = Task(1, {"image": "/1.png"})


def choice(words=None, **changes):
    options = {"sources": ("labels",), "coco": None, "replaces": False, "dry_run": None, "points_per_side": 32}
    return Choice(**options | {"max_masks": None, "min_score": None, "min_area": 0.05, "words": words} | changes)


def segmented(detector, on=BOTH, task=TASK, contents=(("/1.png", FILE),), max_masks=None, min_score=None):
    with Service(detector=detector) as service:
        service.source.contents |= dict(contents)
        search = WordSearch(service.embeddings, WORDS, WordQuery(tuple(WORDS), DETECTOR, min_score), max_masks)
        return service, segment_function(search, service.tasks, on, 7)(task)


def test_each_object_is_marked_once_with_its_label_and_keeps_the_detectors_score():
    detector = FakeDetector(*FOUND)
    service, outcome = segmented(detector)
    assert detector.calls == [((100, 200, 3), ("cat", "walking man"), None)]
    assert [prompt.box.tolist() for prompt in service.decoder.prompts] == [[20, 10, 60, 50], [0, 0, 200, 100]]
    assert [(region.labels, region.score) for region in outcome.result] == [(("Cat",), 0.9), (("Dog",), 0.6)]
    assert outcome.score == pytest.approx(0.75)
    assert outcome.is_complete


def test_every_part_of_an_object_has_the_detectors_score():
    parts = np.zeros((10, 30), bool)
    parts[:, :8] = parts[:, 20:] = True
    polygons, detector = config.parse(CONFIG.replace("BrushLabels", "PolygonLabels")), FakeDetector(FOUND[0])
    with Service(detector=detector) as service:
        service.source.contents |= {"/1.png": FILE}
        service.decoder.masks = [Mask(parts, (20, 10), (100, 200))]
        search = WordSearch(service.embeddings, WORDS, WordQuery(tuple(WORDS), DETECTOR))
        outcome = segment_function(search, service.tasks, polygons, 7)(TASK)
    assert [region.score for region in outcome.result] == [0.9, 0.9]


def test_each_image_is_fetched_and_encoded_once():
    service, _ = segmented(FakeDetector(*FOUND))
    assert service.source.fetched == ["/1.png"]
    assert service.encoder.calls == 1


def test_a_limit_and_a_least_score_are_passed_on():
    detector = FakeDetector(*FOUND)
    _, outcome = segmented(detector, min_score=0.3, max_masks=1)
    assert detector.calls[0][2] == 0.3
    assert [region.labels for region in outcome.result] == [("Cat",)]


def test_an_image_where_nothing_is_found_has_an_empty_complete_answer_and_is_not_encoded():
    service, outcome = segmented(FakeDetector())
    assert (outcome.result, outcome.is_complete, outcome.score) == ((), True, 0.0)
    assert not service.encoder.calls


def test_a_task_of_which_an_image_is_broken_is_incomplete():
    task = Task(1, {"pages": ["/a.png", "/b.png"]})
    broken = (("/a.png", FILE), ("/b.png", ImageError("expected an image, got 0 bytes")))
    _, outcome = segmented(FakeDetector(FOUND[0]), PAGES, task, broken)
    assert [region.item_index for region in outcome.result] == [0]
    assert not outcome.is_complete
    assert [skipped.reason for skipped in outcome.skipped] == [Reason.IMAGE_UNREADABLE]


def test_an_outage_is_left_to_the_run_which_tries_again():
    with pytest.raises(RetryLater):
        segmented(FakeDetector(), contents=[("/1.png", RetryLater("away", Reason.IMAGE_FETCH_FAILED))])


# Which words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tram", "'tram': expected one of the config's labels, Cat"),
        ("walking man=Man", "'walking man': expected one of the config's labels, Cat"),
        (" , ", "--from text: expected words such as"),
        ("=Cat", "--from text: expected words such as"),
    ],
)
def test_words_of_a_text_without_a_label_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        chosen_words(choice(text), BOTH)


def test_a_config_without_labels_has_no_words():
    with pytest.raises(ConfigError, match="--from labels: expected labels in the labeling config, got none"):
        chosen_words(choice(), PAGES)


def test_words_that_are_no_class_of_the_detector_are_named_and_left_out():
    messages = []
    search = word_search(
        None, FakeDetector(classes=("cat",)), WORDS, choice(min_score=0.2, max_masks=3), messages.append
    )
    assert messages == ["the detector has no class for walking man: left out"]
    assert (search.words, search.query, search.max_masks) == ({"cat": "Cat"}, WordQuery(("cat",), DETECTOR, 0.2), 3)
    with pytest.raises(ConfigError, match="expected words among the detector's classes, bus; got none"):
        word_search(None, FakeDetector(classes=("bus",)), WORDS, choice(), messages.append)


def test_words_with_letters_that_the_detector_does_not_know_are_refused():
    with pytest.raises(WordsError, match="猫"):
        word_search(None, FakeDetector(), {"猫": "Cat"}, choice(), lambda text: None)
