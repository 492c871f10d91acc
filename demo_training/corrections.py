"""Compare ways to answer corrective clicks: ``python -m demo_training.corrections [--scenes 30]``.

A ``Way`` answers the clicks about one object from these clicks alone, so that the same clicks have the same answer.
Each way gets its own clicks: the first at the centre of the object, the others at the centre of the largest error of
its answer so far (see `demo_training.evaluate`). Scenes are of 200 to 600 pixels. Figures are mean IoUs after 1, 2, 3
and 5 clicks, and for each way the mean difference from ``points alone`` with its standard error, paired by object.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo_training.evaluate import FIRST_SEED, WEIGHTS, Click, corrective_click, innermost, overlap, scene_size
from demo_training.scenes import Family, Mask, render_scene
from model.build import Decoder, load_decoder, load_encoder
from model.types import Embedding, Prompt
from model.weights import read

COUNTS = (1, 2, 3, 5)
SCENES_BETWEEN = 10  # between tables of what is known so far
Logits = NDArray[np.float32]
Score = Callable[[Logits, Sequence[float]], NDArray[np.float64]]


@dataclass(frozen=True)
class Answer:
    """The mask (H, W) of the photo and the logits that it was made of."""

    mask: Mask
    logits: Logits


@dataclass(frozen=True)
class Subject:
    """A decoder and the embedding of an image to segment."""

    decoder: Decoder
    embedding: Embedding

    def best(
        self,
        clicks: Sequence[Click],
        logits: Logits | None = None,
        several: bool | None = None,
        score: Score | None = None,
    ) -> Answer:
        """Return the best mask of one decode.

        Args:
            clicks: the points.
            logits: the mask input.
            several: whether the network gives three masks; None as for an annotator.
            score: rates masks; None takes the predicted IoU.
        """
        coords, labels = np.array([click[:2] for click in clicks]), [click[2] for click in clicks]
        prompt = Prompt(coords, labels, mask_input=logits)  # type: ignore[arg-type]  # the constructor makes an array
        if several is None:
            several = prompt.is_single_point
        masks = self.decoder.decode(self.embedding, prompt, several)
        assert masks.iou_predictions is not None  # the demo model has a score head
        scores = np.array(masks.iou_predictions[0])
        best = int((scores if score is None else score(masks.low_res_masks[0], masks.iou_predictions[0])).argmax())
        return Answer(masks.masks[0][best].to_array(), masks.low_res_masks[0][best])


Way = Callable[[Subject, Sequence[Click]], Answer]


def points_alone(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """One decode of all points."""
    return subject.best(clicks)


def best_of_three(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """One decode of all points, the best of three masks whatever their number."""
    return subject.best(clicks, several=True)


def single_mask(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """One decode of all points, the single mask for the first click too."""
    return subject.best(clicks, several=False)


def steadiest(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """As ``points alone``; of three masks the best by predicted IoU times stability."""
    return subject.best(clicks, score=_steady)


def last_logits(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """Two decodes: all points but the last, then all points with the logits of the first decode."""
    before = subject.best(clicks[:-1]).logits if len(clicks) > 1 else None
    return subject.best(clicks, before)


def all_logits(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """As many decodes as points, each with the logits of the one before, as in training."""
    answer = subject.best(clicks[:1])
    for count in range(2, len(clicks) + 1):
        answer = subject.best(clicks[:count], answer.logits)
    return answer


def without_or_with(subject: Subject, clicks: Sequence[Click]) -> Answer:
    """Three decodes: ``points alone`` or ``last logits``, whichever agrees with more clicks; else the former."""
    answers = [points_alone(subject, clicks), last_logits(subject, clicks)]
    return max(answers, key=lambda answer: sum(answer.mask[y, x] == bool(label) for x, y, label in clicks))


WAYS: dict[str, Way] = {
    "points alone": points_alone,
    "best of three": best_of_three,
    "single mask": single_mask,
    "steadiest of three": steadiest,
    "last logits": last_logits,
    "all logits": all_logits,
    "without or with": without_or_with,
}
BASE = "points alone"


@dataclass
class Figures:
    """The IoUs of each way after each click of every object, and the seconds of each answer to the last click."""

    ious: dict[str, list[list[float]]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, way: Way, subject: Subject, wanted: Mask, first: Click) -> None:
        """Correct the answers of one way about one object."""
        clicks, ious = [first], list[float]()
        while len(ious) < COUNTS[-1]:
            started = time.process_time()
            answer = way(subject, clicks).mask
            took = time.process_time() - started
            ious.append(overlap(answer, wanted))
            click = corrective_click(answer, wanted)
            if click is None:
                ious += [ious[-1]] * (COUNTS[-1] - len(ious))
                break
            clicks.append(click)
        if len(clicks) > COUNTS[-1]:
            self.seconds.setdefault(name, []).append(took)
        self.ious.setdefault(name, []).append(ious)

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        heads = " | ".join(f"{count} click{'s' if count > 1 else ''}" for count in COUNTS)
        lines = [f"| mean IoU of {len(self.ious[BASE])} objects | {heads} | ms of click {COUNTS[-1]} |"]
        lines.append("|---|" + "---|" * (len(COUNTS) + 1))
        base = np.array(self.ious[BASE])
        for name, rows in self.ious.items():
            ious, cells = np.array(rows), []
            for count in COUNTS:
                difference = (ious - base)[:, count - 1]
                error = difference.std() / np.sqrt(len(difference))
                apart = "" if name == BASE else f" ({difference.mean():+.3f} ± {error:.3f})"
                cells.append(f"{ious[:, count - 1].mean():.3f}{apart}")
            cells.append(f"{1000 * float(np.median(self.seconds.get(name, [np.nan]))):.0f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def compare(weights: Path, family: Family, scenes: int, ways: dict[str, Way]) -> Figures:
    """Return the figures of some ways over all objects of scenes of held-out seeds."""
    checkpoint = read(weights)
    encoder, decoder = load_encoder(checkpoint), load_decoder(checkpoint)
    figures, rng = Figures(), np.random.default_rng(12)
    for seed in range(FIRST_SEED, FIRST_SEED + scenes):
        height, width = scene_size(rng)
        scene = render_scene(seed, (height // 2, width // 2), family)
        subject = Subject(decoder, encoder.encode(scene.image))
        for index, wanted in enumerate(scene.masks):
            x, y, _ = innermost(scene.own_mask(index))
            for name, way in ways.items():
                figures.add(name, way, subject, wanted, (x, y, 1))
        if (seed + 1) % SCENES_BETWEEN == 0:
            print(f"after {seed + 1} scenes:\n{figures.table()}", file=sys.stderr)
    return figures


def _steady(logits: Logits, scores: Sequence[float]) -> NDArray[np.float64]:
    inner, outer = ((logits > level).sum(axis=(1, 2)) for level in (1, -1))
    return np.array(scores) * inner / np.maximum(outer, 1)


def main() -> None:
    """Print the table of a family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--family", choices=("train", "held_out"), default="held_out")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options = parser.parse_args()
    ways = {BASE: WAYS[BASE], **{name: WAYS[name] for name in options.ways}}
    print(compare(options.weights, options.family, options.scenes, ways).table())


if __name__ == "__main__":
    main()
