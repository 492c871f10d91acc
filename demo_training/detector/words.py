"""The words of the demo's detector, and which of them are true of a drawn object.

A colour is that of an object's mean over its visible pixels. Two names can be right for one colour, such as that of
brick: both are accepted, and training teaches neither of the second.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES = (
    "circle", "ellipse", "square", "rectangle", "triangle", "polygon", "blob", "ring", "star", "letter", "line",
    "crescent", "cross", "heart", "gear", "arrow", "horseshoe", "cloud", "digit",
)  # fmt: skip
COLOURS: Mapping[str, Sequence[tuple[int, int, int]]] = {
    "black": ((15, 15, 15), (35, 35, 35)),
    "white": ((255, 255, 255), (238, 238, 238)),
    "grey": ((70, 70, 70), (110, 110, 110), (150, 150, 150), (190, 190, 190)),
    "red": ((200, 30, 30), (160, 20, 30), (230, 70, 60), (170, 70, 70)),
    "orange": ((235, 130, 30), (240, 160, 80), (215, 110, 60)),
    "yellow": ((235, 225, 50), (215, 205, 110), (190, 180, 40)),
    "green": ((40, 150, 50), (110, 200, 90), (20, 90, 40), (100, 140, 90), (150, 200, 140)),
    "cyan": ((60, 200, 200), (40, 140, 140), (130, 200, 200), (90, 160, 160)),
    "blue": ((40, 70, 200), (100, 150, 225), (25, 35, 110), (100, 120, 170), (140, 160, 215)),
    "purple": ((130, 50, 160), (160, 100, 210), (80, 30, 110), (120, 90, 140), (90, 50, 200)),
    "pink": ((235, 130, 180), (240, 170, 190), (220, 70, 160), (200, 120, 150)),
    "brown": ((120, 75, 40), (90, 50, 30), (150, 105, 70), (110, 85, 65)),
}
WORDS = (*SHAPES, *COLOURS)
"""What the network has an embedding for, in this order."""

_WIDER = {"circle": "ellipse", "square": "rectangle", "triangle": "polygon"}
_SYNONYMS = {
    "circle": ("disc", "disk"), "ellipse": ("oval",), "ring": ("donut",), "crescent": ("moon",), "line": ("stroke",),
    "cross": ("plus",), "digit": ("number", "numeral"), "grey": ("gray",), "cyan": ("turquoise",),
    "purple": ("violet",),
}  # fmt: skip
ANYTHING = ("shape", "object", "thing", "a", "an", "the", "drawn", "drawing")
"""Words that are true of every object."""

_ALSO = 1.3
_LAB_OF = {name: np.array(values, np.float32)[None] / 255 for name, values in COLOURS.items()}
_LAB_OF = {name: cv2.cvtColor(values, cv2.COLOR_RGB2LAB)[0] for name, values in _LAB_OF.items()}


def spellings() -> dict[str, str]:
    """Return every word that is understood, with the one of `WORDS` that it means; nothing for those of `ANYTHING`."""
    found = dict.fromkeys((*ANYTHING, *(f"{word}s" for word in ANYTHING if len(word) > 3)), "")
    for word in WORDS:
        for name in (word, *_SYNONYMS.get(word, ())):
            found[name] = word
            if word in SHAPES:
                found[f"{name}es" if name.endswith(("s", "x")) else f"{name}s"] = word
    return found


def shape_names(outline: str) -> tuple[str, ...]:
    """Return the words that are true of an outline (`demo_training.scenes.Scene.outlines`), the narrowest first."""
    name = "line" if outline == "thin" else outline
    return (name, _WIDER[name]) if name in _WIDER else (name,)


def colour_names(mean: NDArray[np.floating]) -> tuple[str, ...]:
    """Return the names of a mean colour (RGB, 0 to 255): the nearest, and those that are nearly as near."""
    lab = cv2.cvtColor(np.asarray(mean, np.float32).reshape(1, 1, 3) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    away = {name: float(np.linalg.norm(values - lab, axis=1).min()) for name, values in _LAB_OF.items()}
    order = sorted(away, key=away.__getitem__)
    return tuple(name for name in order if away[name] <= _ALSO * away[order[0]] + 2)


def word_targets(outline: str, mean: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return for each of `WORDS` 1 where it is true of an object, 0 where not, -1 where it may be called so."""
    targets = np.zeros(len(WORDS), np.float32)
    colours = colour_names(mean)
    for word in colours[1:]:
        targets[WORDS.index(word)] = -1
    for word in (*shape_names(outline), colours[0]):
        targets[WORDS.index(word)] = 1
    return targets
