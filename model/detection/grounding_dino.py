"""Grounding DINO (Liu et al., 2023) as PaddleX 3.7 runs it: a text of all words, boxes with a score for every token."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.detection import tokenizers
from model.detection.types import Arrays, Detection, RgbImage
from model.detection.word_list import WordsError
from model.weights.formats.paddlex import TOKENIZER_FOLDER

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_SHORT_SIDE, _LONG_SIDE = 800, 1333  # PaddleX takes these, whatever inference.yml says
_BREAKS = str.maketrans(".?", "  ")  # they end a word's part of the text


@dataclass(frozen=True, eq=False)
class GroundedText:
    """As many words as fit into one run.

    Attributes:
        words: as the caller wrote them.
        spans: first and last (exclusive) token of each.
        arrays: ``attention_mask``, ``input_ids``, ``position_ids`` (1, T) int64, ``text_self_attention_masks``
            (1, T, T) bool.
    """

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    arrays: Arrays


class GroundingDino:
    """See `model.detection.types.Architecture`."""

    classes = None
    input_counts = (6,)
    text_inputs = (0, 1, 3, 4)

    def __init__(self, folder: Path, threshold: float, max_tokens: int) -> None:
        """Read the tokenizer.

        Args:
            folder: the inference directory.
            threshold: the least score of a box.
            max_tokens: of one text.

        Raises:
            WeightsError: the tokenizer cannot be read.
        """
        self.threshold, self._max_tokens = threshold, max_tokens
        self._tokenizer = tokenizers.bert(folder / TOKENIZER_FOLDER)
        self._begin, self._end, self._stop = (self._tokenizer.id_of(token) for token in ("[CLS]", "[SEP]", "."))

    def prepare_words(self, words: tuple[str, ...]) -> list[GroundedText]:
        """Return the words in texts of at most ``max_tokens`` tokens; PaddleX cuts a longer text off."""
        texts, taken, length = [], list[tuple[str, list[int]]](), 2
        for word in words:
            ids = self._encode(word)
            if taken and length + len(ids) + 1 > self._max_tokens:
                texts.append(self._text(taken))
                taken, length = [], 2
            taken.append((word, ids))
            length += len(ids) + 1
        return [*texts, self._text(taken)]

    def prepare_image(self, image: RgbImage) -> Arrays:
        """Return ``m`` (1, H, W) bool, true on padding, and ``x`` (1, 3, H, W) float32."""
        height, width = _input_size(image.shape[0], image.shape[1])
        resized = Image.fromarray(image)
        if (height, width) != image.shape[:2]:
            resized = resized.resize((width, height), Image.Resampling.BILINEAR)
        pixels = (np.asarray(resized, dtype=np.float32) / 255.0 - _MEAN) / _STD
        return np.zeros((1, height, width), np.bool_), pixels.transpose(2, 0, 1)[None]

    def inputs(self, image: Arrays, text: GroundedText) -> Arrays:
        """Return all inputs in the alphabetical order of their names."""
        (padding, pixels), (attention, ids, positions, blocks) = image, text.arrays
        return attention, ids, padding, positions, blocks, pixels

    def read(self, outputs: Arrays, text: GroundedText, size: tuple[int, int], threshold: float) -> list[Detection]:
        """Return the boxes of which a token has a higher score than the threshold.

        A box gets the word whose tokens have the highest mean. PaddleX puts the tokens above a second threshold
        together instead, which may be a part of a word, or parts of several.
        """
        boxes, logits = (np.asarray(array[0], np.float32) for array in outputs)
        scores = 1.0 / (1.0 + np.exp(-logits.clip(-60.0, 60.0)))  # (queries, tokens)
        best = scores.max(axis=1)
        kept = np.flatnonzero(best > threshold)
        means = np.stack([scores[kept, first:last].mean(axis=1) for first, last in text.spans], axis=1)
        height, width = size
        centres, sides = boxes[kept, :2], boxes[kept, 2:]
        corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
        corners *= np.array([width, height, width, height], np.float32)
        rows = zip(means.argmax(axis=1), best[kept], corners, strict=True)
        return [_detection(text.words[index], score, box) for index, score, box in rows]

    def _encode(self, word: str) -> list[int]:
        ids = self._tokenizer.encode(word.translate(_BREAKS))
        if not ids or self._tokenizer.unknown_id in ids:
            raise WordsError(
                f"{word!r:.60}: expected a word of the detector's vocabulary (English), got letters or signs it lacks; "
                "give the label a prompt in English"
            )
        if len(ids) + 3 > self._max_tokens:
            raise WordsError(f"{word!r:.60}: expected a word of at most {self._max_tokens - 3} tokens, got {len(ids)}")
        return ids

    def _text(self, taken: list[tuple[str, list[int]]]) -> GroundedText:
        """Return the inputs: ``[CLS] word . word . [SEP]``; words see only themselves, each counted from 0."""
        ids, spans = [self._begin], []
        for _, word_ids in taken:
            spans.append((len(ids), len(ids) + len(word_ids)))
            ids += [*word_ids, self._stop]
        ids.append(self._end)
        blocks, positions = np.eye(len(ids), dtype=np.bool_), np.zeros(len(ids), np.int64)
        for first, stop in spans:
            blocks[first : stop + 1, first : stop + 1] = True
            positions[first : stop + 1] = np.arange(stop + 1 - first)
        row = np.array([ids], np.int64)
        arrays = (np.ones_like(row), row, positions[None], blocks[None])
        return GroundedText(tuple(word for word, _ in taken), tuple(spans), arrays)


def _input_size(height: int, width: int) -> tuple[int, int]:
    """Return (height, width) of the picture that the network sees; rounded as PaddleX does."""
    short = _SHORT_SIDE
    low, high = float(min(height, width)), float(max(height, width))
    if high / low * short > _LONG_SIDE:
        short = round(_LONG_SIDE * low / high)
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def _detection(word: str, score: npt.NDArray[np.float32], box: npt.NDArray[np.float32]) -> Detection:
    x1, y1, x2, y2 = box.tolist()
    return Detection(word, float(score), (x1, y1, x2, y2))
