"""Finds what words name on a picture with a detector, and keeps the boxes by image content, words and detector."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from cachetools import LRUCache

from backend.embeddings.stores import PIXELS
from backend.errors import BackendError, Reason, RequestError
from backend.images import decode
from backend.images.decode import Picture, PixelLimits
from backend.shapes import Rectangle
from backend.words import WordBox, WordQuery
from model.detection.detector import Detector
from model.detection.word_list import WordsError
from model.errors import DeviceError
from model.paddlex.word_segmentation import select
from model.weights import WeightsError

LONGEST_SIDE = 2666  # of the pictures that detectors get, in pixels: twice the longest side that any of them looks at
MOST_KEPT_BOXES = 50_000  # of all images together, in the memory of one process: about 20 MB
MOST_STORED_BYTES = 4_000_000

R = TypeVar("R")

Boxes: TypeAlias = tuple[WordBox, ...]
"""The boxes on one image, the highest score first."""

_Number: TypeAlias = Annotated[float, msgspec.Meta(ge=-1, le=101)]  # of percent, rounded
_Row: TypeAlias = tuple[int, Annotated[float, msgspec.Meta(ge=0, le=1)], _Number, _Number, _Number, _Number]


@dataclass(frozen=True)
class BoxKey:
    """The content of an image, by the sha256 of its file in hex, and what is looked for on it."""

    digest: str
    words: WordQuery

    def __str__(self) -> str:
        return f"{self.digest}:{self.words.digest}:{PIXELS}"


class BoxMemory:
    """The boxes of the images that were used last; safe from many threads."""

    def __init__(self) -> None:
        self._boxes: LRUCache[str, Boxes] = LRUCache(MOST_KEPT_BOXES, getsizeof=lambda boxes: len(boxes) + 1)
        self._lock = threading.Lock()

    def get(self, key: BoxKey) -> Boxes | None:
        """Return the boxes, which may be none; None if they are not known."""
        with self._lock:
            return self._boxes.get(str(key))

    def put(self, key: BoxKey, boxes: Boxes) -> None:
        """Keep the boxes of an image."""
        with self._lock:
            if len(boxes) < MOST_KEPT_BOXES:
                self._boxes[str(key)] = boxes


def dump(boxes: Boxes, words: WordQuery) -> bytes:
    """Return boxes as JSON: of each the word's index, score, x, y, width and height in percent."""
    index = {word: number for number, word in enumerate(words.words)}
    return msgspec.json.encode(
        [(index[each.word], each.score, each.box.x, each.box.y, each.box.width, each.box.height) for each in boxes]
    )


def load(data: bytes, words: WordQuery) -> Boxes | None:
    """Return the boxes that `dump` wrote; None for anything else.

    >>> cat = WordQuery(("cat",), "YOLO-Worldv2-L@12345678")
    >>> load(dump((WordBox("cat", 0.5, Rectangle(1, 2, 3, 4)),), cat), cat)[0].box.height
    4.0
    """
    try:
        rows = msgspec.json.decode(data, type=list[_Row]) if len(data) <= MOST_STORED_BYTES else None
    except (msgspec.MsgspecError, ValueError):
        rows = None
    if rows is None or not all(0 <= row[0] < len(words.words) for row in rows):
        return None
    return tuple(WordBox(words.words[word], score, Rectangle(*box)) for word, score, *box in rows)


class WordDetector:
    """Finds words on pictures, and keeps in ``memory`` what was found last. Any number of threads may use one."""

    def __init__(self, read: Callable[[], Detector], limits: PixelLimits) -> None:
        """Look with the detector that ``read`` returns when it is needed, on pictures within limits."""
        self._read, self._limits = read, replace(limits, model_side=LONGEST_SIDE, keeps_shape=True)
        self.memory = BoxMemory()

    def load(self) -> None:
        """Load the program, which the first picture does otherwise.

        Raises:
            BackendError: it cannot be loaded (``model_not_ready``).
        """
        _with_reasons(lambda: self._read().load())

    def picture(self, data: bytes) -> Picture:
        """Return the pixels of an image file at the size that detectors need.

        Raises:
            ImageError: the file cannot be read.
        """
        return decode.decode(data, self._limits)

    def find(self, picture: Picture, words: WordQuery) -> Boxes:
        """Return the boxes of what is found, those of one object and word merged.

        Raises:
            RequestError: the detector cannot look for a word (``unknown_word``).
            BackendError: another detector is asked for (``no_detector``), or this one cannot run.
        """
        return _with_reasons(lambda: self._find(picture, words))

    def _find(self, picture: Picture, words: WordQuery) -> Boxes:
        detector = self._read()
        if detector.version != words.detector:
            raise BackendError(
                f"expected the detector {words.detector}, got {detector.version}; set PADDLE_SAM_DETECTOR to the same "
                "for web processes, workers and commands",
                Reason.NO_DETECTOR,
            )
        height, width = picture.pixels.shape[:2]
        detections = select(detector.detect(picture.pixels, words.words, words.min_score), (height, width))
        return tuple(
            WordBox(
                detection.label,
                min(max(detection.score, 0.0), 1.0),
                Rectangle(100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height),
            )
            for detection in detections
            for x1, y1, x2, y2 in (detection.box,)
            if math.isfinite(detection.score)
        )


def _with_reasons(work: Callable[[], R]) -> R:
    try:
        return work()
    except WordsError as error:
        raise RequestError(str(error), Reason.UNKNOWN_WORD) from error
    except (WeightsError, DeviceError) as error:
        raise BackendError(f"the detector cannot be used: {error}", Reason.MODEL_NOT_READY) from error
