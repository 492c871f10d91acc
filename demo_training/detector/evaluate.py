"""Judge the demo's detector: ``python -m demo_training.detector.evaluate [--scenes 100]``.

Half of the scenes are of each family, of 400 to 1200 pixels, from seeds that training never used. The rules:

- A word is true of an object as `demo_training.detector.words` says; where two colours are nearly as near, boxes of
  such an object count neither as right nor as wrong.
- AP50 of a word: the area under precision over recall of its boxes, of which one is right if it overlaps an object
  that the word is true of, and that no better box has, by at least 0.5. mAP50 is the mean over all words.
- Labels to masks, as ``preannotate --from labels``: the words of shape are the labels, each box above the detector's
  own threshold is segmented by the demo model. A mask marks the object that it overlaps most, by at least 0.5.
- Colour and shape: each object is looked for by both, such as "red star", and found if a box of that text overlaps it.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo_training.detector.words import COLOURS, SHAPES, WORDS, shape_names, word_targets
from demo_training.evaluate import FAMILIES, overlap, scene_size
from demo_training.scenes import Scene, render_scene
from model.demo import DETECTOR_FOLDER
from model.detection.detector import Detector
from model.detection.load import load_detector
from model.detection.types import Detection
from model.paddlex.inputs import Picture
from model.paddlex.model import SamModel, create_model
from model.paddlex.word_segmentation import segment_picture

FIRST_SEED = 20_000
SAME = 0.5
Box = Sequence[float]


@dataclass
class Figures:
    """What was found over all scenes.

    Attributes:
        rows: by word, (score, whether it is right) of each box that counts.
        objects: by word, of how many objects it is true.
        ious: of each mask with the object that it marks.
        labels: whether the label of each such mask is true.
        masks: how many masks there are, also those that mark nothing.
        marked: whether each object is marked by a mask with a true label.
        named: whether each object is found by its colour and shape.
    """

    rows: dict[str, list[tuple[float, bool]]] = field(default_factory=lambda: {word: [] for word in (*WORDS, "shape")})
    objects: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*WORDS, "shape"), 0))
    ious: list[float] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    masks: int = 0
    marked: list[bool] = field(default_factory=list)
    named: list[bool] = field(default_factory=list)

    def average_precision(self, word: str) -> float:
        """Return the area under the precision of a word's boxes over their recall."""
        rows = sorted(self.rows[word], reverse=True)
        right = np.cumsum([is_right for _, is_right in rows]) if rows else np.zeros(0)
        precision = np.maximum.accumulate((right / np.arange(1, len(rows) + 1))[::-1])[::-1]
        return float(precision[[is_right for _, is_right in rows]].sum() / max(1, self.objects[word]))


class Judge:
    """Asks detector and demo model about one scene after another."""

    def __init__(self, detector: Detector, model: SamModel) -> None:
        self.detector, self.model, self.figures = detector, model, Figures()

    def judge(self, scene: Scene) -> None:
        """Note what is found on a scene."""
        means = [scene.image[scene.own_mask(k)].mean(0) for k in range(len(scene.kinds))]
        truth = np.array([word_targets(*pair) for pair in zip(scene.outlines, means, strict=True)])  # (objects, V)
        boxes = [box_of(mask) for mask in scene.masks]
        names = [_name(outline, mean) for outline, mean in zip(scene.outlines, means, strict=True)]
        words = dict.fromkeys((*WORDS, "shape", *names))
        found = self.detector.detect(scene.image, words, threshold=0.05)
        for number, word in enumerate((*WORDS, "shape")):
            column = truth[:, number] if number < len(WORDS) else np.ones(len(boxes))
            self._note_boxes(word, [each for each in found if each.label == word], boxes, column)
        least = self.detector.threshold
        for name, box in zip(names, boxes, strict=True):
            same = [each for each in found if each.label == name and each.score > least]
            self.figures.named.append(any(box_overlap(each.box, box) >= SAME for each in same))
        self._note_masks(scene, truth)

    def _note_boxes(self, word: str, found: list[Detection], boxes: list[Box], truth: NDArray[np.floating]) -> None:
        """Give each object the best box of a word that overlaps it, and note which boxes are right."""
        self.figures.objects[word] += int((truth > 0).sum())
        taken: set[int] = set()
        for each in sorted(found, key=lambda each: -each.score):
            overlaps = [box_overlap(each.box, box) if k not in taken else 0.0 for k, box in enumerate(boxes)]
            close = [k for k, iou in enumerate(overlaps) if iou >= SAME]
            right = [k for k in close if truth[k] > 0]
            if right:
                taken.add(max(right, key=overlaps.__getitem__))
            elif any(truth[k] < 0 for k in close):
                continue
            self.figures.rows[word].append((each.score, bool(right)))

    def _note_masks(self, scene: Scene, truth: NDArray[np.floating]) -> None:
        picture, marked = Picture(scene.image), [False] * len(scene.kinds)
        for found in segment_picture(picture, SHAPES, self.model, self.detector):
            self.figures.masks += 1
            ious = [overlap(found.mask.to_array(), mask) for mask in scene.masks]
            best = int(np.argmax(ious))
            if ious[best] >= SAME:
                is_true = bool(truth[best, WORDS.index(found.label)] > 0)
                self.figures.ious.append(ious[best])
                self.figures.labels.append(is_true)
                marked[best] = marked[best] or is_true
        self.figures.marked += marked


def _name(outline: str, mean: NDArray[np.floating]) -> str:
    targets = word_targets(outline, mean)
    colour = next(word for word in COLOURS if targets[WORDS.index(word)] > 0)
    return f"{colour} {shape_names(outline)[0]}"


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the box of a mask, XYXY, the far edge exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def box_overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, XYXY."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


def table(figures: Figures) -> str:
    """Return the figures as a Markdown table."""
    precisions = {word: figures.average_precision(word) for word in (*WORDS, "shape")}

    def mean(words: Iterable[str]) -> float:
        return float(np.mean([precisions[word] for word in words if figures.objects[word]]))

    rows = {
        "mAP50 of all words": mean(WORDS),
        "mAP50 of the words of shape": mean(SHAPES),
        "mAP50 of the words of colour": mean(COLOURS),
        'AP50 of "shape", which is true of all objects': precisions["shape"],
        "labels to masks: masks whose label is true": np.mean(figures.labels),
        "labels to masks: mean IoU": np.mean(figures.ious),
        "labels to masks: masks that mark no object": 1 - len(figures.labels) / max(1, figures.masks),
        "labels to masks: objects with a true label": np.mean(figures.marked),
        "colour and shape: objects that are found": np.mean(figures.named),
    }
    lines = [f"| of {len(figures.marked)} objects | |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in rows.items()]
    each = ", ".join(f"{word} {precisions[word]:.2f}" for word in WORDS)
    return "\n".join([*lines, "", f"AP50: {each}"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, default=DETECTOR_FOLDER)
    parser.add_argument("--scenes", type=int, default=100)
    options = parser.parse_args()
    judge, rng = (
        Judge(load_detector(options.detector, "cpu"), create_model("demo", device="cpu")),
        np.random.default_rng(3),
    )
    for number in range(options.scenes):
        judge.judge(render_scene(FIRST_SEED + number, scene_size(rng), FAMILIES[number % 2]))
    print(table(judge.figures))


if __name__ == "__main__":
    main()
