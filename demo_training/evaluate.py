"""Judge the demo model as it ships: ``python -m demo_training.evaluate [--scenes 150]``.

Both families are drawn from seeds that training never used, at 400 to 1200 pixels, and answered by the Paddle model
with its real post-processing. The rules:

- A click is the pixel farthest from the object's border, on none of its parts, with the best of three masks by
  predicted IoU. ``random click`` is any pixel of the object instead.
- What a click means is the topmost object under it: a part if it is on a part, else the whole with its parts.
- A box is the exact box of the visible pixels; ``loose box`` moves every side by up to 10 % of its length.
- A corrective click goes to the pixel farthest from the border of the error, on the larger of what is missing and
  what is too much, with the logits so far as mask input.
- A negative click is judged by whether the pixel it is put on leaves the mask, and by how much of the excess around
  it does.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import model.demo
from demo_training.scenes import Family, Mask, Scene, render_scene
from model.build import Decoder, Encoder, load_decoder, load_encoder
from model.types import Embedding, Prompt
from model.weights import read

FIRST_SEED = 0  # training starts at a million
WEIGHTS = Path(model.demo.__file__).parent / "demo.safetensors"
FAMILIES: tuple[Family, ...] = ("train", "held_out")
Click = tuple[int, int, int]  # x, y, label
Rng = np.random.Generator


@dataclass
class Figures:
    """The IoUs of each kind of prompt over the objects of a family, and what the model predicted."""

    ious: dict[str, list[float]] = field(default_factory=dict)
    predicted: list[tuple[float, float]] = field(default_factory=list)
    negative_hits: list[bool] = field(default_factory=list)
    negative_removed: list[float] = field(default_factory=list)

    def add(self, name: str, iou: float, predicted: float | None = None) -> None:
        """Note the IoU of one answer."""
        self.ious.setdefault(name, []).append(iou)
        if predicted is not None:
            self.predicted.append((predicted, iou))

    def correlation(self) -> float:
        """Return Pearson's correlation of predicted and true IoU."""
        return float(np.corrcoef(np.array(self.predicted).T)[0, 1])


def overlap(answer: Mask, wanted: Mask) -> float:
    """Return the intersection over union."""
    return float((answer & wanted).sum() / max((answer | wanted).sum(), 1))


def innermost(mask: Mask) -> tuple[int, int, float]:
    """Return (x, y) of the pixel farthest from the mask's border, and how far."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y), float(inside[y, x])


def corrective_click(answer: Mask, wanted: Mask) -> Click | None:
    """Return the click an annotator would add, or None where nothing is wrong."""
    missing, excess = innermost(wanted & ~answer), innermost(answer & ~wanted)
    if max(missing[2], excess[2]) <= 0:
        return None
    return (*missing[:2], 1) if missing[2] >= excess[2] else (*excess[:2], 0)


class Judge:
    """Asks the model about one scene after another; about fewer kinds of prompts if ``is_short``."""

    def __init__(self, encoder: Encoder, decoder: Decoder, *, is_short: bool = False) -> None:
        self.encoder, self.decoder, self.is_short = encoder, decoder, is_short

    def answer(
        self,
        embedding: Embedding,
        clicks: list[Click],
        box: NDArray[np.float64] | None = None,
        logits: NDArray[np.float32] | None = None,
    ) -> tuple[Mask, float, NDArray[np.float32]]:
        """Return the mask, its predicted IoU and its logits."""
        coords = np.array([c[:2] for c in clicks], np.float32) if clicks else None
        labels = np.array([c[2] for c in clicks], np.int32) if clicks else None
        prompt = Prompt(coords, labels, None if box is None else box.astype(np.float32), logits)
        masks = self.decoder.decode(embedding, prompt)
        assert masks.iou_predictions is not None
        return masks.masks[0][0].to_array(), masks.iou_predictions[0][0], masks.low_res_masks[0][0]

    def correct(
        self,
        embedding: Embedding,
        wanted: Mask,
        first: Click,
        figures: Figures,
        answer: Mask,
        logits: NDArray[np.float32],
    ) -> None:
        """Add two corrective clicks and note what each gives."""
        clicks = [first]
        for name in ("click + 1 correction", "click + 2 corrections"):
            click = corrective_click(answer, wanted)
            if click is not None:
                excess = answer & ~wanted
                clicks.append(click)
                answer, predicted, logits = self.answer(embedding, clicks, logits=logits)
                figures.add(name, overlap(answer, wanted), predicted)
                if click[2] == 0:
                    self.note_removal(figures, click, excess, answer)
            else:
                figures.add(name, overlap(answer, wanted))

    @staticmethod
    def note_removal(figures: Figures, click: Click, excess: Mask, answer: Mask) -> None:
        """Note whether a negative click on an excess of at least 10 pixels took it away."""
        _, pieces = cv2.connectedComponents(excess.astype(np.uint8))
        piece = pieces == pieces[click[1], click[0]]
        if piece.sum() >= 10:
            figures.negative_hits.append(not answer[click[1], click[0]])
            figures.negative_removed.append(float((piece & ~answer).sum() / piece.sum()))

    def judge(self, rng: Rng, scene: Scene, figures: Figures) -> None:
        """Note the figures of every object of a scene."""
        embedding = self.encoder.encode(scene.image)
        for index, wanted in enumerate(scene.masks):
            own = scene.own_mask(index)
            rows, columns = np.nonzero(wanted)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)
            loose = box + np.tile(box[2:] - box[:2], 2) * rng.uniform(-0.1, 0.1, 4)
            for name, corners in (("box", box), *([] if self.is_short else [("loose box", loose)])):
                answer, predicted, _ = self.answer(embedding, [], corners)
                figures.add(name, overlap(answer, wanted), predicted)
                if name == "box":
                    self.note_groups(figures, name, scene, index, overlap(answer, wanted))
            rows, columns = np.nonzero(own)
            k = int(rng.integers(len(rows)))
            if not self.is_short:
                answer, predicted, _ = self.answer(embedding, [(int(columns[k]), int(rows[k]), 1)])
                figures.add("random click", overlap(answer, wanted), predicted)
            x, y, _ = innermost(own)
            answer, predicted, logits = self.answer(embedding, [(x, y, 1)])
            figures.add("click", overlap(answer, wanted), predicted)
            self.note_groups(figures, "click", scene, index, overlap(answer, wanted))
            self.correct(embedding, wanted, (x, y, 1), figures, answer, logits)

    def note_groups(self, figures: Figures, prompt: str, scene: Scene, index: int, iou: float) -> None:
        """Note an IoU again under the kind and the size of its object, and whether something cuts it in pieces."""
        if self.is_short:
            return
        share = scene.masks[index].mean()
        size = "under 1 %" if share < 0.01 else "1 to 5 %" if share < 0.05 else "over 5 %"
        nested = scene.parents[index] >= 0 or index in scene.parents
        count, _, pieces, _ = cv2.connectedComponentsWithStats(scene.masks[index].astype(np.uint8))
        whole = np.count_nonzero(pieces[1:count, cv2.CC_STAT_AREA] >= 0.01 * scene.masks[index].sum()) < 2
        groups = (
            f"size {size}",
            f"shape {scene.kinds[index]}",
            "parts and wholes" if nested else "not nested",
            "in one piece" if whole else "cut in pieces",
        )
        for group in groups:
            figures.add(f"{prompt}, {group}", iou)


def scene_size(rng: Rng) -> tuple[int, int]:
    """Return a (height, width) with a longest side of 400 to 1200 pixels and an aspect ratio up to 2."""
    longest = int(rng.integers(400, 1201))
    other = round(longest * float(rng.uniform(0.5, 1.0)))
    return (longest, other) if rng.random() < 0.5 else (other, longest)


def evaluate(judge: Judge, family: Family, scenes: int) -> Figures:
    """Return the figures of a family over scenes of held-out seeds."""
    figures, rng = Figures(), np.random.default_rng(12)
    for seed in range(FIRST_SEED, FIRST_SEED + scenes):
        judge.judge(rng, render_scene(seed, scene_size(rng), family), figures)
    return figures


def table(figures: dict[Family, Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| mean IoU | train family | held-out family |", "|---|---|---|"]
    names = dict.fromkeys(name for f in figures.values() for name in f.ious)
    for name in sorted(names, key=lambda name: ("," in name, name if "," in name else "")):
        cells = [
            f"{np.mean(f.ious[name]):.3f} ({len(f.ious[name])})" if name in f.ious else "" for f in figures.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rows = [
        ("predicted and true IoU, correlation", [f.correlation() for f in figures.values()]),
        ("negative clicks that remove their pixel", [float(np.mean(f.negative_hits)) for f in figures.values()]),
        ("excess removed by a negative click", [float(np.mean(f.negative_removed)) for f in figures.values()]),
    ]
    lines += [f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |" for name, values in rows]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=150, help="scenes of each family")
    options = parser.parse_args()
    checkpoint = read(options.weights)
    judge = Judge(load_encoder(checkpoint), load_decoder(checkpoint))
    print(table({family: evaluate(judge, family, options.scenes) for family in FAMILIES}))


if __name__ == "__main__":
    main()
