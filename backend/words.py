"""What a detector is asked to look for on an image, and the boxes that it finds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from backend.shapes import Rectangle

Words: TypeAlias = Mapping[str, str]
"""Words for the detector, each with its label; the label is empty where the config has none."""

CONTROL = "segment_words"  # what the name of a ``<TextArea>`` begins with whose text says what to look for
MOST_WORDS = 1000  # of one image; Grounding DINO takes about 80 at a time
LONGEST_WORD = 1000


@dataclass(frozen=True)
class WordQuery:
    """The words that a detector looks for on an image.

    >>> WordQuery(("cat", "walking man"), "GroundingDINO-T@12345678").digest[:8]
    '11674c56'
    """

    words: tuple[str, ...]
    detector: str  # its version
    min_score: float | None = None  # the least score of a box, 0 to 1; None for the detector's own

    def __post_init__(self) -> None:
        if not 0 < len(self.words) <= MOST_WORDS or max(map(len, self.words)) > LONGEST_WORD:
            raise ValueError(f"words: expected 1 to {MOST_WORDS:,} words of at most {LONGEST_WORD} characters")

    @cached_property
    def digest(self) -> str:
        """The sha256 of words, detector and threshold, in hex."""
        return hashlib.sha256(json.dumps([self.detector, self.min_score, *self.words]).encode()).hexdigest()


@dataclass(frozen=True)
class WordBox:
    """An object that a detector found."""

    word: str  # that it answers to
    score: float  # the detector's, 0 to 1
    box: Rectangle


@dataclass(frozen=True)
class TypedText:
    """The text of a ``<TextArea>`` in a click's context."""

    region_id: str
    text: str  # what was entered last
    to_name: str  # the object tag that the control belongs to
    item_index: int | None = None  # which image of a list it is about, None on single images
