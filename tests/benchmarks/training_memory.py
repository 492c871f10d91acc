"""Fine-tunes a decoder of a published SAM's size in a fresh process and prints the most memory it held, in bytes.

Usage: ``python -m tests.benchmarks.training_memory STEPS``

Its encoder is small, since a training does not use it; the embeddings are random, 4 MB each as SAM's.
"""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from tests.benchmarks.peak_memory import own_peak

PHOTO, IMAGES, OBJECTS = (768, 1024), 6, 10


def main(steps: int) -> None:
    """Train and print the peak."""
    from model.coco import rle
    from model.config import SamConfig, VitConfig
    from model.finetuning.examples import TrainingImage, TrainingObject
    from model.finetuning.training import Progress, Training, TrainingOptions
    from model.types import Embedding, Mask
    from tests.support.checkpoints import random_checkpoint

    base = random_checkpoint(SamConfig("large", VitConfig(32, 1, 2, ()), 1024))
    rows, columns = np.mgrid[: PHOTO[0], : PHOTO[1]]

    def image(number: int) -> TrainingImage:
        rng = np.random.default_rng(number)
        centres = rng.uniform([100, 100], [PHOTO[1] - 100, PHOTO[0] - 100], (OBJECTS, 2))
        discs = [Mask.from_array((columns - x) ** 2 + (rows - y) ** 2 < 80**2) for x, y in centres]
        objects = tuple(TrainingObject.of("disc", rle.encode(disc), PHOTO, base.config) for disc in discs)

        def load() -> Embedding:
            shape = base.config.embedding_shapes["image_embedding"]
            return Embedding(rng.standard_normal(shape).astype(np.float32), PHOTO, PHOTO, base.encoder_version)

        return TrainingImage(str(number), load, objects)

    stop = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.step >= steps:
            stop.set()

    Training(base, [image(number) for number in range(IMAGES)], TrainingOptions(), None, "cpu").run(stop, on_progress)
    print(own_peak())


def measure(steps: int) -> int:
    """Return the peak resident memory, in bytes, of a fresh process that makes so many steps."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.training_memory", str(steps)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(completed.stdout.split()[-1])


if __name__ == "__main__":
    main(int(sys.argv[1]))
