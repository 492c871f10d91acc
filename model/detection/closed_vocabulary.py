"""PaddleX's detectors with a fixed list of classes: PP-YOLOE, RT-DETR, PicoDet and others with their inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.detection.types import Arrays, Detection, RgbImage
from model.detection.word_list import WordsError, listing, spelling

_INTERPOLATIONS = {
    0: cv2.INTER_NEAREST,
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_CUBIC,
    3: cv2.INTER_AREA,
    4: cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input; the steps ``Resize`` and ``NormalizeImage`` of ``inference.yml``.

    Attributes:
        target_size: (height, width) in pixels; None leaves the picture as it is.
        keep_ratio: whether the picture keeps its shape inside that size.
        interpolation: OpenCV's number, 0 to 4.
        scale: what pixels are multiplied by.
        mean: of the channels, after that.
        std: likewise.
    """

    target_size: tuple[int, int] | None
    keep_ratio: bool = False
    interpolation: int = 2
    scale: float = 1.0 / 255.0
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)


class ClosedVocabulary:
    """See `model.detection.types.Architecture`."""

    input_counts = (2, 3)
    text_inputs: tuple[int, ...] = ()

    def __init__(self, classes: tuple[str, ...], threshold: float, steps: Preprocessing, takes_size: bool) -> None:
        """Take what ``inference.yml`` says.

        Args:
            classes: their names, in the order of their numbers.
            threshold: the least score of a box.
            steps: how a picture becomes the network's input.
            takes_size: whether the program has the input ``im_shape``.
        """
        self.classes, self.threshold = classes, threshold
        self._steps, self._takes_size = steps, takes_size

    def prepare_words(self, words: tuple[str, ...]) -> list[Mapping[int, str]]:
        """Return the number of each word's class, in one part.

        Raises:
            WordsError: a word is not the name of a class.
        """
        numbers = {spelling(name): number for number, name in reversed(list(enumerate(self.classes)))}
        for word in words:
            if spelling(word) not in numbers:
                raise WordsError(f"{word!r:.60}: expected one of the detector's classes: {listing(self.classes)}")
        return [{numbers[spelling(word)]: word for word in words}]

    def prepare_image(self, image: RgbImage) -> Arrays:
        """Return ``im_shape`` (1, 2) where the program takes it, ``image`` (1, 3, H, W), ``scale_factor`` (1, 2)."""
        height, width = image.shape[:2]
        resized = self._resized(image)
        new_height, new_width = resized.shape[:2]
        steps = self._steps
        pixels = resized.astype(np.float32)
        for channel in range(3):
            pixels[..., channel] *= steps.scale / steps.std[channel]
            pixels[..., channel] += -steps.mean[channel] / steps.std[channel]
        scale = np.array([[new_height / height, new_width / width]], np.float32)
        size = np.array([[new_height, new_width]], np.float32)
        batch = pixels.transpose(2, 0, 1)[None]
        return (size, batch, scale) if self._takes_size else (batch, scale)

    def inputs(self, image: Arrays, text: Mapping[int, str]) -> Arrays:
        """Return all inputs in the alphabetical order of their names."""
        return image

    def read(
        self, outputs: Arrays, text: Mapping[int, str], size: tuple[int, int], threshold: float
    ) -> list[Detection]:
        """Return the boxes of these words with a higher score than the threshold, cut off at the picture's edges."""
        height, width = size
        detections = []
        for number, score, x1, y1, x2, y2 in rows(outputs, threshold):
            box = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
            if int(number) in text and box[2] > box[0] and box[3] > box[1]:
                detections.append(Detection(text[int(number)], score, box))
        return detections

    def _resized(self, image: RgbImage) -> npt.NDArray[np.uint8]:
        if self._steps.target_size is None:
            return image
        height, width = self._steps.target_size
        if self._steps.keep_ratio:
            sides = image.shape[:2]
            scale = min(max(height, width) / max(sides), min(height, width) / min(sides))
            height, width = round(sides[0] * scale), round(sides[1] * scale)
        resized = cv2.resize(image, (width, height), interpolation=_INTERPOLATIONS[self._steps.interpolation])
        return np.asarray(resized, np.uint8)


def rows(outputs: Arrays, threshold: float) -> Iterator[list[float]]:
    """Yield class number, score, x1, y1, x2, y2 of each box whose score is higher than the threshold.

    Args:
        outputs: boxes (N, 6) and how many of them are of the first picture (1,).
        threshold: the least score.
    """
    boxes, counts = outputs
    for row in boxes[: int(counts.reshape(-1)[0])].tolist():
        if row[1] > threshold and row[0] > -1:
            yield row
