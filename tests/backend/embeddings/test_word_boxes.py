"""Boxes of words: found where images are encoded, kept by content, words and detector."""

import pytest

from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import MemoryStore
from backend.embeddings.word_boxes import BoxKey, BoxMemory, dump, load
from backend.errors import BackendError, Reason
from backend.images.fetch import Fetched
from backend.metrics import Metrics
from backend.shapes import Rectangle
from backend.types import ImageRef, Priority
from backend.words import WordBox, WordQuery
from model.errors import DeviceError
from model.weights import WeightsError
from tests.support.fake_detector import DETECTOR, FakeDetector, word_detector
from tests.support.fakes import FakeEncoder, FakeSource, fake_spec, png
from tests.support.service import wait_until

QUERY = WordQuery(("cat", "dog"), DETECTOR)
IMAGE = ImageRef("/a.png", 1, 1, words=QUERY)
SOON_S = 10.0


class Local:
    """Embeddings of this process over fakes."""

    def __init__(self, detector, source=None):
        self.detector, self.encoder, self.source = detector, FakeEncoder(), source or FakeSource()
        if source is None:
            self.source.contents |= {"/a.png": png(), "/b.png": png((1, 2, 3))}
        spec = fake_spec(detector=None if detector is None else word_detector(detector))
        self.embeddings = LocalEmbeddings(self.source, lambda: self.encoder, spec, MemoryStore(1_000_000), Metrics())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.encoder.gate.set()
        if self.detector is not None:
            self.detector.gate.set()
        self.embeddings.close()


def test_boxes_come_in_percent_the_best_first_and_those_of_one_object_once():
    detections = [
        ("dog", 0.4, (0.0, 0.0, 40.0, 30.0)),
        ("cat", 0.9, (10.0, 3.0, 20.0, 9.0)),
        ("cat", 0.8, (10.0, 3.0, 20.0, 9.1)),
    ]
    with Local(FakeDetector(*detections)) as local:
        assert local.embeddings.find(IMAGE, SOON_S) == (
            WordBox("cat", 0.9, Rectangle(25.0, 10.0, 25.0, 20.0)),
            WordBox("dog", 0.4, Rectangle(0.0, 0.0, 100.0, 100.0)),
        )


def test_other_words_another_detector_and_another_threshold_are_other_boxes():
    queries = [
        QUERY,
        WordQuery(("dog", "cat"), DETECTOR),
        WordQuery(QUERY.words, "Other@1"),
        WordQuery(QUERY.words, DETECTOR, 0.5),
    ]
    assert len({str(BoxKey("ab" * 32, query)) for query in queries}) == 4


@pytest.mark.parametrize("words", [(), ("",) * 1001, ("x" * 1001,)])
def test_words_have_a_limit(words):
    with pytest.raises(ValueError, match="words: expected 1 to 1,000 words of at most 1000 characters"):
        WordQuery(words, DETECTOR)


def test_a_click_is_encoded_before_words_of_bulk_work_that_wait():
    detector = FakeDetector(("cat", 0.9, (1.0, 1.0, 9.0, 9.0)))
    with Local(detector) as local:
        local.encoder.gate.clear()
        local.embeddings.prefetch([ImageRef("/b.png", 1, 1)])
        assert local.encoder.running.wait(SOON_S)
        local.source.contents["/c.png"] = png((9, 9, 9))
        with pytest.raises(BackendError):
            local.embeddings.find(IMAGE, 0.0, Priority.BULK)
        wait_until(lambda: local.embeddings.encoding == 2)
        with pytest.raises(BackendError):
            local.embeddings.get(ImageRef("/c.png", 1, 1), 0.0)
        wait_until(lambda: local.embeddings.encoding == 3)
        detector.gate.clear()
        local.encoder.gate.set()
        wait_until(lambda: detector.calls)
        assert list(local.encoder.colours) == [(1, 2, 3), (9, 9, 9)]


def test_without_a_detector_nothing_is_found_and_clicks_are_answered():
    with Local(None) as local:
        with pytest.raises(BackendError) as error:
            local.embeddings.find(IMAGE, SOON_S)
        assert error.value.reason is Reason.NO_DETECTOR
        assert local.embeddings.get(ImageRef("/a.png", 1, 1), SOON_S).original_size == (30, 40)


@pytest.mark.parametrize("failure", [WeightsError("no boxes"), DeviceError("no gpu:3")])
def test_a_detector_that_cannot_run_is_no_defect_of_the_image(failure):
    detector = FakeDetector()
    detector.failures.append(failure)
    with Local(detector) as local, pytest.raises(BackendError, match="the detector cannot be used: no") as error:
        local.embeddings.find(IMAGE, SOON_S)
    assert error.value.reason is Reason.MODEL_NOT_READY


@pytest.mark.parametrize("content", [png(), b"\x89PNG"])
def test_the_memory_of_a_file_is_released_also_where_it_is_broken(content):
    released = []

    class Share:
        def resize(self, size):
            return True

        def release(self):
            released.append(True)

    class Source:
        def fetch(self, ref, cached=None):
            return Fetched(content, share=Share())

    with Local(FakeDetector(), Source()) as local:
        if content == png():
            assert local.embeddings.find(IMAGE, SOON_S) == ()
        else:
            with pytest.raises(BackendError):
                local.embeddings.find(IMAGE, SOON_S)
        assert released == [True]


def test_boxes_survive_being_stored_and_anything_else_counts_as_missing():
    boxes = (
        WordBox("dog", 0.25, Rectangle(1.5, 2.5, 3.5, 4.5)),
        WordBox("cat", 1.0, Rectangle(0.0, 0.0, 100.0, 100.0)),
    )
    assert load(dump(boxes, QUERY), QUERY) == boxes
    assert load(dump((), QUERY), QUERY) == ()
    assert load(b"[" + b" " * 5_000_000 + b"]", QUERY) is None


def test_the_memory_for_boxes_is_bounded():
    memory, many = BoxMemory(), (WordBox("cat", 0.5, Rectangle(0.0, 0.0, 1.0, 1.0)),) * 900
    for number in range(100):
        memory.put(BoxKey(f"{number:064x}", QUERY), many)
    remembered = [number for number in range(100) if memory.get(BoxKey(f"{number:064x}", QUERY)) is not None]
    assert 40 < len(remembered) < 60
    assert remembered[-1] == 99
