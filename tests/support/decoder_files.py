"""Fine-tuned decoders for tests, and a command that trains in no time."""

import sys
import textwrap
from pathlib import Path

import numpy as np

from model.weights import decoder_weights
from model.weights.checkpoint import Checkpoint
from model.weights.decoder_weights import DecoderInfo, TrainingFigures

ROOT = Path(__file__).parents[2]
PROJECT = 1  # what `tests.support.wire_bodies.click` asks about


def decoder_file(base: Checkpoint, seed: int = 1, project: int = PROJECT, gain: float = 0.08) -> bytes:
    """Return the file of a decoder that answers unlike the base, and unlike that of another seed."""
    tensors, rng = decoder_weights.own_tensors(base), np.random.default_rng(seed)
    changed = {name: (array + 0.1 * rng.standard_normal(array.shape)).astype("f4") for name, array in tensors.items()}
    figures = TrainingFigures(60, 300, {"click": 0.7, "box": 0.8}, {"click": 0.7 + gain, "box": 0.85})
    created = f"2026-01-{seed:02}T12:00:00Z"
    return decoder_weights.dump(
        DecoderInfo(base.name, base.digest, base.config.family, project, created, figures), changed
    )


def training_program(folder: Path, body: str) -> tuple[str, ...]:
    """Return a command that runs ``body`` in place of ``python -m backend finetune``; it takes ``--project N``."""
    path = folder / "training.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(body)}")
    return sys.executable, str(path)
