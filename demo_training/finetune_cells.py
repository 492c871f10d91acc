"""Fine-tune the demo model on cells and judge it: ``python -m demo_training.finetune_cells [--mix 0.45]``.

It learns from 60 scenes of `demo_training.cells`, and is judged on the fifth of them that is kept aside, on new scenes
of cells, and on scenes of the family that the model was trained on, for what it has lost.
"""

import argparse
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from demo_training.cells import render_cells
from demo_training.evaluate import FIRST_SEED, WEIGHTS
from demo_training.scenes import Mask, Scene, render_scene
from model.build import Encoder, load_decoder, load_encoder
from model.coco import rle
from model.finetuning import judging
from model.finetuning.examples import TrainingImage, TrainingObject
from model.finetuning.judging import Judgement, Scores
from model.finetuning.training import Progress, Training, TrainingOptions
from model.types import Mask as ModelMask
from model.weights import Checkpoint, read

LEARNED_SEED, NEW_SEED = 5000, 9000
SCENES, JUDGED = 60, 30


def examples(encoder: Encoder, scenes: Iterable[Scene]) -> list[TrainingImage]:
    """Return scenes as images to learn from or to judge by."""
    found = []
    for number, scene in enumerate(scenes):
        embedding = encoder.encode(scene.image)

        def of(kind: str, mask: Mask, size: tuple[int, int] = embedding.input_size) -> TrainingObject:
            return TrainingObject.of(kind, rle.encode(ModelMask.from_array(mask)), size, encoder.config)

        objects = tuple(of(kind, mask) for kind, mask in zip(scene.kinds, scene.masks, strict=True))
        found.append(TrainingImage(str(number), lambda embedding=embedding: embedding, objects))
    return found


def counted(images: list[TrainingImage]) -> str:
    """Return how many images and masks there are."""
    return f"{len(images)} images with {sum(len(image.objects) for image in images)} masks"


def show_row(name: str, *judged: Sequence[Judgement]) -> None:
    """Print a row of the table, with three digits of every mean IoU."""
    ious = [iou for judgements in judged for iou in Scores.of(judgements).ious.values()]
    print(f"| {name} | {' | '.join(f'{iou:.3f}' for iou in ious)} |", flush=True)


def judged(images: list[TrainingImage], checkpoint: Checkpoint) -> list[Judgement]:
    """Return what a decoder makes of some images."""
    return list(judging.judge(load_decoder(checkpoint), images, lambda image: image.load()))


def show(progress: Progress) -> None:
    """Print how far the training is."""
    best = max(progress.scores)
    print(f"step {progress.step} of {progress.steps}, {progress.left_s:.0f} s left, mean IoU {best:.3f}", flush=True)


def main() -> None:
    """Train and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", type=float, default=TrainingOptions().mix)
    parser.add_argument("--state", type=Path, help="file that keeps the state, to go on from when it is run again")
    options = parser.parse_args()
    base = read(WEIGHTS)
    encoder, began = load_encoder(base), (time.monotonic(), time.process_time())
    images = examples(encoder, (render_cells(LEARNED_SEED + number) for number in range(SCENES)))
    training = Training(base, images, TrainingOptions(mix=options.mix), options.state)
    result = training.run(threading.Event(), show)
    taken = time.monotonic() - began[0], time.process_time() - began[1]
    new = examples(encoder, (render_cells(NEW_SEED + number) for number in range(JUDGED)))
    old = examples(encoder, (render_scene(FIRST_SEED + number) for number in range(JUDGED)))
    print(f"{counted(images)}: {taken[0]:.0f} s, {taken[1]:.0f} s of processor time; ended as {result.ended}")
    print(f"new cells: {counted(new)}; old family: {counted(old)}\n")
    print("| `--mix` | kept aside: click | box | corrected | new cells: click | box | corrected | ", end="")
    print("old family: click | box | corrected |\n" + "|---" * 10 + "|")
    tuned = replace(base, tensors={**base.tensors, **result.tensors})
    show_row("base", result.before, judged(new, base), judged(old, base))
    show_row(f"{options.mix:g}", result.after, judged(new, tuned), judged(old, tuned))


if __name__ == "__main__":
    main()
