"""What detectors take and give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

RgbImage = npt.NDArray[np.uint8]
Arrays = Sequence[npt.NDArray[np.generic]]
TextT = TypeVar("TextT")


@dataclass(frozen=True)
class Detection:
    """One object that a detector found.

    Attributes:
        label: the word it answers to, as the caller wrote it.
        score: the detector's, 0 to 1.
        box: x1, y1, x2, y2 in original pixels; it may reach over the picture's edges.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


class Architecture(Protocol, Generic[TextT]):
    """One kind of detector: how pictures and words become a program's inputs, and its outputs detections."""

    @property
    def threshold(self) -> float:
        """The least score, where the caller gives none; from ``inference.yml``."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The words that it knows, None where it takes any."""

    @property
    def input_counts(self) -> tuple[int, ...]:
        """How many inputs its programs may have."""

    @property
    def text_inputs(self) -> tuple[int, ...]:
        """Which of them hold the words, by their places in the alphabetical order of their names."""

    def prepare_words(self, words: tuple[str, ...], /) -> Sequence[TextT]:
        """Return the words as inputs, in as many parts as the program has to run."""

    def prepare_image(self, image: RgbImage, /) -> Arrays:
        """Return the picture as inputs."""

    def inputs(self, image: Arrays, text: TextT, /) -> Arrays:
        """Return all inputs in the alphabetical order of their names."""

    def read(self, outputs: Arrays, text: TextT, size: tuple[int, int], threshold: float, /) -> list[Detection]:
        """Return what was found, given the program's outputs and the picture's (height, width)."""
