"""Fine-tune the demo model on cells and judge it: ``python -m demo_training.finetune_cells [--mix 0.45]``.

It learns from 60 scenes of `demo_training.cells`, and is judged on the fifth of them that is kept aside, on new scenes
of cells, and on scenes of the family that the model was trained on, for what it has lost. A first table shows other
mixes of the same training on further scenes of that family, so that a mix can be chosen on scenes that it is not
judged on.
"""

import argparse
import json
import resource
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from demo_training.cells import render_cells
from demo_training.evaluate import WEIGHTS
from demo_training.scenes import Mask, Scene, render_scene
from model.build import Encoder, load_decoder, load_encoder
from model.coco import rle
from model.finetuning import judging
from model.finetuning.examples import TrainingImage, TrainingObject
from model.finetuning.judging import Scores
from model.finetuning.training import Progress, Training, TrainingOptions
from model.types import FloatArray
from model.types import Mask as ModelMask
from model.weights import Checkpoint, read

LEARNED_SEED, NEW_SEED = 5000, 29_000  # of cells
CHOICE_SEED, OLD_SEED = 0, 30_000  # of the old family
SCENES, JUDGED = 60, 25
MIXES = "0.35", "0.45", "0.55", "0.7"
TABLE = "click | box | corrected |"


def examples(encoder: Encoder, scenes: Iterable[Scene]) -> list[TrainingImage]:
    """Return scenes as images to learn from or to judge by."""
    images = []
    for number, scene in enumerate(scenes):
        embedding = encoder.encode(scene.image)

        def of(kind: str, mask: Mask, size: tuple[int, int] = embedding.input_size) -> TrainingObject:
            return TrainingObject.of(kind, rle.encode(ModelMask.from_array(mask)), size, encoder.config)

        objects = tuple(of(kind, mask) for kind, mask in zip(scene.kinds, scene.masks, strict=True))
        images.append(TrainingImage(str(number), lambda embedding=embedding: embedding, objects))
    return images


def counted(images: list[TrainingImage]) -> str:
    """Return how many images and masks there are."""
    return f"{len(images)} images with {sum(len(image.objects) for image in images)} masks"


class Judge:
    """Judges decoders, and keeps the figures in a file, so that a run that was stopped goes on from there."""

    def __init__(self, path: Path | None) -> None:
        """Keep the figures in ``path``, or in memory alone."""
        self._path = path
        is_there = path is not None and path.exists()
        self._ious: dict[str, list[float]] = json.loads(path.read_text()) if path and is_there else {}

    def ious(self, scenes: str, mix: str, images: list[TrainingImage], checkpoint: Checkpoint) -> list[float]:
        """Return the mean IoUs of a decoder, by kind of prompt, on images that are called ``scenes``."""
        name = f"{scenes}, mix {mix}"
        if name not in self._ious:
            judgements = list(judging.judge(load_decoder(checkpoint), images, lambda image: image.load()))
            self._ious[name] = list(Scores.of(judgements).ious.values())
            if self._path is not None:
                self._path.write_text(json.dumps(self._ious))
        return self._ious[name]


def show_row(mix: str, *ious: list[float]) -> None:
    """Print a row of a table, with three digits of every mean IoU."""
    print(
        f"| {mix if float(mix) else 'base'} | {' | '.join(f'{iou:.3f}' for row in ious for iou in row)} |", flush=True
    )


class Clock:
    """Prints how far a training is, and notes how long it took to the best decoder."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.process_time()
        self._best, self.best = 0.0, ""

    def __call__(self, progress: Progress) -> None:
        """Note the progress."""
        if max(progress.scores) > self._best:
            self._best, self.best = max(progress.scores), self.taken()
        at = f"step {progress.step} of {progress.steps} after {self.taken()}"
        print(f"{at}, {progress.left_s:.0f} s left, mean IoU {self._best:.3f}", flush=True)

    def taken(self) -> str:
        """Return the time since the beginning."""
        return f"{time.monotonic() - self._began[0]:.0f} s ({time.process_time() - self._began[1]:.0f} s of processor)"


def mixed(base: Checkpoint, tensors: Mapping[str, FloatArray], share: float) -> Checkpoint:
    """Return the base with a share of the change to ``tensors``."""
    changed = {
        name: base.tensors[name] + np.float32(share) * (value - base.tensors[name]) for name, value in tensors.items()
    }
    return replace(base, tensors={**base.tensors, **changed})


def main() -> None:
    """Train and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", type=float, default=TrainingOptions().mix)
    parser.add_argument(
        "--state", type=Path, help="file that keeps the state; with .json, the figures: run again, it goes on"
    )
    options = parser.parse_args()
    base, clock = read(WEIGHTS), Clock()
    encoder = load_encoder(base)
    images = examples(encoder, (render_cells(LEARNED_SEED + number) for number in range(SCENES)))
    result = Training(base, images, TrainingOptions(mix=options.mix), options.state).run(threading.Event(), clock)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{counted(images)}: best after {clock.best or 'an earlier run'}, ended after {clock.taken()} as {result.ended}"
    )
    print(f"peak memory {peak_mb:.0f} MB")
    judge = Judge(options.state and options.state.with_suffix(".json"))
    aside = list({id(each.image): each.image for each in result.before}.values())
    choice = examples(encoder, (render_scene(CHOICE_SEED + number) for number in range(JUDGED)))
    print(f"\nTo choose a mix: old family: {counted(choice)}\n\n| `--mix` | kept aside: {TABLE} old family: {TABLE}")
    print("|---" * 7 + "|")
    for mix in ("0", *MIXES):
        tuned = mixed(base, result.tensors, float(mix) / options.mix)
        show_row(mix, judge.ious("aside", mix, aside, tuned), judge.ious("choice", mix, choice, tuned))
    new = examples(encoder, (render_cells(NEW_SEED + number) for number in range(JUDGED)))
    old = examples(encoder, (render_scene(OLD_SEED + number) for number in range(JUDGED)))
    print(f"\nJudged: new cells: {counted(new)}; old family: {counted(old)}\n")
    print(f"| `--mix` | kept aside: {TABLE} new cells: {TABLE} old family: {TABLE}\n" + "|---" * 10 + "|")
    for mix in ("0", f"{options.mix:g}"):
        tuned = mixed(base, result.tensors, float(mix) / options.mix)
        judged = [
            judge.ious(name, mix, scenes, tuned) for name, scenes in (("aside", aside), ("new", new), ("old", old))
        ]
        show_row(mix, *judged)


if __name__ == "__main__":
    main()
