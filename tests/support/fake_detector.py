"""A detector with fixed answers, which keeps its calls."""

import threading

from backend.embeddings.word_boxes import WordDetector
from backend.images.decode import PixelLimits
from model.detection.types import Detection
from model.detection.word_list import WordsError, check_words, spelling

DETECTOR = "FakeDetector@12345678"


class FakeDetector:
    """Finds the same objects on every picture.

    Attributes:
        boxes: (word, score, box in pixels) of each object.
        classes: what it knows; None for any word.
        calls: the picture's shape, the words and the threshold of each call.
        gate: detections wait until it is set (it is, to begin with).
        failures: exceptions that the next calls raise, one each.
    """

    version = DETECTOR

    def __init__(self, *boxes, classes=None):
        self.boxes, self.classes, self.calls, self.failures = list(boxes), classes, [], []
        self.gate = threading.Event()
        self.gate.set()

    def load(self):
        pass

    def check(self, words):
        for error in self.refusals(words).values():
            raise WordsError(error)

    def unknown(self, words):
        return tuple(word for word in words if self.classes is not None and word not in self.classes)

    def refusals(self, words):
        names = check_words(words)
        return {
            word: f"{word!r}: expected letters that the detector knows"
            for word in names
            if not word.isascii() or (self.classes is not None and word not in self.classes)
        }

    def detect(self, image, words, threshold=None):
        self.calls.append((image.shape, tuple(words), threshold))
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        least, wanted = threshold or 0.0, {spelling(word): word for word in words}
        return [
            Detection(wanted[spelling(word)], score, box)
            for word, score, box in self.boxes
            if spelling(word) in wanted and score >= least
        ]


def word_detector(detector):
    """What runs a detector where images are encoded."""
    return WordDetector(lambda: detector, PixelLimits())
