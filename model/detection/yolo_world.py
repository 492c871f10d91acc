"""YOLO-World v2 (Cheng et al., 2024) as PaddleX 3.7 runs it: a text per word, boxes with the number of their word."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.detection import tokenizers
from model.detection.closed_vocabulary import rows
from model.detection.types import Arrays, Detection, RgbImage
from model.detection.word_list import WordsError, spelling
from model.weights.formats.paddlex import TOKENIZER_FOLDER

_PADDING = (144, 144, 144)
_MAX_TOKENS = 77  # CLIP's text encoder has as many positions
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, eq=False)
class WordTexts:
    """All words.

    Attributes:
        words: as the caller wrote them.
        arrays: ``attention_mask`` and ``input_ids``, (N + 1, T) int64; the last row is the text of a space.
    """

    words: tuple[str, ...]
    arrays: Arrays


class YoloWorld:
    """See `model.detection.types.Architecture`."""

    classes = None
    input_counts = (5,)
    text_inputs = (0, 2)

    def __init__(
        self, folder: Path, threshold: float, target_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Read the tokenizer.

        Args:
            folder: the inference directory.
            threshold: the least score of a box.
            target_size: (height, width) of the network's input in pixels.
            mean: of the channels, after division by 255.
            std: likewise.

        Raises:
            WeightsError: the tokenizer cannot be read.
        """
        self.threshold, self._target = threshold, target_size
        self._mean, self._std = (np.array(values).reshape(1, 3, 1, 1) for values in (mean, std))
        tokenizer_folder = folder / TOKENIZER_FOLDER
        self._tokenizer = tokenizers.clip(tokenizer_folder)
        self._begin, self._end = self._tokenizer.id_of(_BEGIN), self._tokenizer.id_of(_END)
        self._filler = self._tokenizer.id_of(tokenizers.pad_token(tokenizer_folder, _END))

    def prepare_words(self, words: tuple[str, ...]) -> list[WordTexts]:
        """Return all words in one part; shorter ones are filled up to the longest."""
        ids = [[self._begin, *self._encode(word), self._end] for word in words]
        ids.append([self._begin, self._end])
        length = max(map(len, ids))
        rows_of_ids = [row + [self._filler] * (length - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
        return [WordTexts(words, (np.array(mask, np.int64), np.array(rows_of_ids, np.int64)))]

    def prepare_image(self, image: RgbImage) -> Arrays:
        """Return ``image`` (1, 3, H, W) float32, ``pad_param`` and ``scale_factor`` (1, 2) float32."""
        target_height, target_width = self._target
        height, width = image.shape[:2]
        ratio = min(target_height / height, target_width / width)
        new_height, new_width = round(height * ratio), round(width * ratio)
        if (new_height, new_width) != (height, width):
            image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        pad_height, pad_width = target_height - new_height, target_width - new_width
        top, left = round(pad_height // 2 - 0.1), round(pad_width // 2 - 0.1)
        bottom, right = pad_height - top, pad_width - left
        padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_PADDING)
        pixels = padded.transpose(2, 0, 1)[None].astype(np.float32) / 255.0
        pixels -= self._mean
        pixels /= self._std
        scale = np.array([[new_width / width, new_height / height]], np.float32)
        return pixels, np.array([[right, top]], np.float32), scale

    def inputs(self, image: Arrays, text: WordTexts) -> Arrays:
        """Return all inputs in the alphabetical order of their names."""
        (pixels, padding, scale), (attention, ids) = image, text.arrays
        return attention, pixels, ids, padding, scale

    def read(self, outputs: Arrays, text: WordTexts, size: tuple[int, int], threshold: float) -> list[Detection]:
        """Return the boxes of which the score is higher than the threshold, cut off at the picture's edges."""
        height, width = size
        detections = []
        for number, score, *corners in rows(outputs, threshold):
            if number >= len(text.words):  # the text of a space
                continue
            x1, y1, x2, y2 = np.clip(corners, 0, [width, height, width, height]).tolist()
            detections.append(Detection(text.words[int(number)], score, (x1, y1, x2, y2)))
        return detections

    def _encode(self, word: str) -> list[int]:
        ids = self._tokenizer.encode(spelling(word))
        if len(ids) + 2 > _MAX_TOKENS:
            raise WordsError(f"{word!r:.60}: expected a word of at most {_MAX_TOKENS - 2} tokens, got {len(ids)}")
        return ids
