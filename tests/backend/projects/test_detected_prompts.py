"""Words become masks in a whole project: the labels of the config, or a text."""

import pytest

from backend.errors import ConfigError, ImageError, Reason, RetryLater
from backend.images.decode import PixelLimits
from backend.images.fetch import Fetched
from backend.labeling import config
from backend.projects.detected_prompts import WordDetector, of_labels, of_text
from backend.segmentation.regions import region_id
from backend.shapes import Brush
from backend.types import Prediction, Region, Task
from model.detection.types import Detection
from tests.support.fakes import png

IMAGE = '<Image name="image" value="$image"/>'


def controls(*labels, tag="BrushLabels", more=""):
    return config.parse(f'<View>{IMAGE}<{tag} name="brush" toName="image">{"".join(labels)}</{tag}>{more}</View>')


# Which words


def test_every_label_is_a_word_spelled_by_its_prompt_its_alias_or_its_value():
    found = of_labels(
        controls(
            '<Label value="Cat"/>',
            '<Label value="汽车" alias="car"/>',
            '<Label value="Fußgänger" prompt="walking man, pedestrian"/>',
            '<Label value="Hund" alias="dog_v2" prompt="dog"/>',
        )
    )
    assert found == {"Cat": "Cat", "car": "car", "walking man": "Fußgänger", "pedestrian": "Fußgänger", "dog": "dog_v2"}


def test_labels_of_separate_tags_and_of_several_controls_count_once_each():
    more = '<Labels name="labels" toName="image"><Label value="Dog"/><Label value="Cat"/></Labels>'
    more += '<Brush name="plain" toName="image"/>'
    assert of_labels(controls('<Label value="Cat"/>', more=more)) == {"Cat": "Cat", "Dog": "Dog"}


@pytest.mark.parametrize(
    "labels",
    [
        ['<Label value="Car"/>', '<Label value="car"/>'],
        ['<Label value="Auto" prompt="car"/>', '<Label value="Wagen" prompt="Car"/>'],
    ],
)
def test_two_labels_with_one_spelling_are_refused(labels):
    with pytest.raises(ConfigError, match=r"expected a word for each, got '[Cc]ar' for both; give one of them another"):
        of_labels(controls(*labels))


def test_a_config_without_labels_has_no_words():
    with pytest.raises(ConfigError, match="--from labels: expected labels in the labeling config, got none"):
        of_labels(config.parse(f'<View>{IMAGE}<Brush name="brush" toName="image"/></View>'))


def test_the_words_of_a_text_get_the_labels_that_they_name():
    known = controls('<Label value="Person"/>', '<Label value="Bus"/>')
    assert of_text("walking man=person, bus", known) == {"walking man": "Person", "bus": "Bus"}
    plain = config.parse(f'<View>{IMAGE}<Brush name="brush" toName="image"/></View>')
    assert of_text("walking man, bus", plain) == {"walking man": "", "bus": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tram", "'tram': expected one of the config's labels, Person"),
        ("walking man=Man", "'Man': expected one of the config's labels, Person"),
        (" , ", "--from text: expected words such as"),
        ("=Person", "--from text: expected words such as"),
    ],
)
def test_words_of_a_text_without_a_label_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        of_text(text, controls('<Label value="Person"/>'))


# What becomes of a task


class FakeDetector:
    classes = None

    def __init__(self, *found):
        self.found, self.asked = list(found), []

    def detect(self, image, words, threshold):
        self.asked.append((image.shape, tuple(words), threshold))
        return self.found


class FakeSource:
    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def fetch(self, ref, cached=None):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return Fetched(outcome)


class FakeSegmenter:
    """Answers each box with two regions, as polygons of two parts are, in no order."""

    def __init__(self):
        self.asked = []

    def segment(self, task, prompts, controls, project_id, image_s):
        self.asked.append(prompts)
        regions = [
            Region(
                region_id((region.id,), "brush", part), "brush", "brushlabels", region.to_name,
                Brush((1,)), region.labels, region.original_size, score=0.5,
            )
            for region in prompts.regions for part in (1, 0)
        ]  # fmt: skip
        return Prediction(tuple(regions[::-1]), 0.5, "small@1", skipped=prompts.skipped)


FILE = png((1, 2, 3), (200, 100))
FOUND = [
    Detection("cat", 0.9, (20.0, 10.0, 60.0, 50.0)),
    Detection("walking man", 0.6, (0.0, 0.0, 200.0, 100.0)),
    Detection("cat", 0.8, (20.0, 10.0, 60.5, 50.0)),
]
WORDS = {"cat": "Cat", "walking man": "Person"}
TASK = Task(1, {"image": "/data/upload/1.png"})
BOTH = controls('<Label value="Cat"/>', '<Label value="Person"/>')


def segmented(detector, source, on=BOTH, task=TASK, **options):
    segmenter = FakeSegmenter()
    detector = WordDetector(detector, WORDS, source, PixelLimits(), options.get("min_score"), options.get("max_masks"))
    return segmenter, detector.segment_function(segmenter, on, 7)(task)


def test_each_object_is_marked_once_with_its_label_and_keeps_the_detectors_score():
    detector = FakeDetector(*FOUND)
    segmenter, made = segmented(detector, FakeSource(FILE))
    assert detector.asked == [((100, 200, 3), ("cat", "walking man"), None)]
    [prompts] = segmenter.asked
    assert [region.labels for region in prompts.regions] == [("Cat",), ("Person",)]
    box = prompts.regions[0].shape
    assert (box.x, box.y, box.width, box.height) == (10, 10, 20, 40)
    assert {(region.labels, region.score) for region in made.result} == {(("Cat",), 0.9), (("Person",), 0.6)}
    assert made.score == pytest.approx(0.75)
    assert made.is_complete


def test_a_limit_and_a_least_score_are_passed_on():
    detector = FakeDetector(*FOUND)
    segmenter, _ = segmented(detector, FakeSource(FILE), min_score=0.3, max_masks=1)
    assert detector.asked[0][2] == 0.3
    assert [region.labels for region in segmenter.asked[0].regions] == [("Cat",)]


def test_an_image_where_nothing_is_found_has_an_empty_complete_answer():
    _, made = segmented(FakeDetector(), FakeSource(FILE))
    assert (made.result, made.is_complete, made.score) == ((), True, 0.0)


def test_a_task_of_which_an_image_is_broken_is_incomplete():
    pages = config.parse('<View><Image name="image" valueList="$pages"/><Brush name="brush" toName="image"/></View>')
    task = Task(1, {"pages": ["/a.png", "/b.png"]})
    source = FakeSource(FILE, ImageError("expected an image, got 0 bytes"))
    segmenter, made = segmented(FakeDetector(FOUND[0]), source, pages, task)
    assert [region.item_index for region in segmenter.asked[0].regions] == [0]
    assert (len(made.result), made.is_complete) == (2, False)
    assert [skipped.reason for skipped in made.skipped] == [Reason.IMAGE_UNREADABLE]


def test_an_outage_is_left_to_the_run_which_tries_again():
    with pytest.raises(RetryLater):
        segmented(FakeDetector(), FakeSource(RetryLater("away", Reason.IMAGE_FETCH_FAILED)))


def test_the_memory_of_a_file_is_released_also_where_it_is_broken():
    released = []

    class Share:
        def release(self):
            released.append(True)

    class Source:
        def fetch(self, ref, cached=None):
            return Fetched(b"\x89PNG", share=Share())

    segmented(FakeDetector(), Source())
    assert released == [True]
