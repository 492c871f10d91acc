"""A loaded detector: picture and words in, labelled boxes out."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

from model.detection.types import Architecture, Arrays, Detection, RgbImage
from model.detection.word_list import WordsError, check_words, spelling
from model.weights import WeightsError

_KEPT_TEXTS = 16


class Program(Protocol):
    """What a detector runs; see `model.detection.engine.Engine`."""

    def load(self) -> object:
        """Make it ready to run."""

    def run(self, inputs: Arrays, /) -> Arrays:
        """Return the outputs for inputs in the alphabetical order of their names."""


class Detector:
    """Finds the objects that words name. Any number of threads may use one at once.

    Attributes:
        name: what PaddleX calls it.
        version: the name and the start of the digest of its files.
        classes: the words that it knows; None where it takes any.
        threshold: the least score of a box where the caller gives none.
    """

    def __init__(
        self, name: str, version: str, architecture: Architecture[Any], program: Program
    ) -> None:  # Any: its own
        self.name, self.version = name, version
        self.classes, self.threshold = architecture.classes, architecture.threshold
        self._architecture, self._program = architecture, program
        self._prepare_words = lru_cache(_KEPT_TEXTS)(architecture.prepare_words)

    def load(self) -> None:
        """Load the program, which the first picture does otherwise.

        Raises:
            WeightsError: Paddle cannot load the program.
            DeviceError: the device is not available here.
        """
        self._program.load()

    def check(self, words: Iterable[str]) -> None:
        """Check that the detector can look for these words, without a picture.

        Raises:
            WordsError: there is no word, one is empty, two have the same spelling, or the detector does not know one.
        """
        self._prepare_words(check_words(words))

    def unknown(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return those of the words that are no class of a detector with fixed classes; of any other none."""
        known = None if self.classes is None else {spelling(name) for name in self.classes}
        return () if known is None else tuple(word for word in words if spelling(word) not in known)

    def refusals(self, words: Iterable[str]) -> dict[str, str]:
        """Return why it cannot look for a word, of each for which it cannot.

        Raises:
            WordsError: there is no word, one is empty, or two have the same spelling.
        """
        given, refused = check_words(words), dict[str, str]()
        try:
            self._prepare_words(given)
        except WordsError:
            pass
        else:
            return refused
        for word in given:
            try:
                self._architecture.prepare_words((word,))
            except WordsError as error:
                refused[word] = str(error)
        return refused

    def detect(self, image: RgbImage, words: Iterable[str], threshold: float | None = None) -> list[Detection]:
        """Return the objects in a picture that the words name.

        Args:
            image: (H, W, 3) uint8 RGB.
            words: what to look for; a word may have several parts, such as ``walking man``. Several hundred are looked
                for in several runs where they do not fit into one.
            threshold: the least score of a box, 0 to 1; None for the detector's own.

        Raises:
            WordsError: as in `check`.
            WeightsError: the program does not give what a detector of its kind gives.
            ValueError: the threshold is not between 0 and 1.
        """
        least = self.threshold if threshold is None else threshold
        if not 0 <= least <= 1:
            raise ValueError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
        texts = self._prepare_words(check_words(words))
        prepared = self._architecture.prepare_image(image)
        detections = []
        for text in texts:
            outputs = self._program.run(self._architecture.inputs(prepared, text))
            try:
                detections += self._architecture.read(outputs, text, (image.shape[0], image.shape[1]), least)
            except (ValueError, IndexError, TypeError) as error:
                shapes = ", ".join(str(array.shape) for array in outputs)
                raise WeightsError(f"{self.name}: expected boxes and scores, got arrays of shapes {shapes}") from error
        return detections
