"""Scenes on which everything is found, by our generator or by segment-anything's, each in a process of its own.

Both find the same masks, see ``tests/reference/test_automatic.py``. ``python -m tests.benchmarks.everything ours|theirs
SCENE`` prints the most memory that one takes.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from demo_training.scenes import render_scene
from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.machine import cpu_count
from model.weights import Checkpoint, read
from model.weights.catalogue import DEMO_WEIGHTS
from tests.benchmarks import subjects
from tests.benchmarks.peak_memory import own_peak

SOFT = {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
"""Lets a few dozen of the demo model's masks through."""
OPEN = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
"""Lets most masks of random weights through."""


@dataclass(frozen=True)
class Scene:
    """A picture, the weights and the settings with which everything is found on it."""

    checkpoint: Callable[[], Checkpoint]
    image: Callable[[], np.ndarray]
    settings: Mapping[str, float]


SCENES = {
    "everything": Scene(
        lambda: read(DEMO_WEIGHTS), lambda: render_scene(1, (600, 800)).image, {"points_per_side": 16, **SOFT}
    ),
    # At segment-anything's own 64 points at once, its logits of 12 megapixels alone take 9 GB.
    "everything_12mp": Scene(
        lambda: read(DEMO_WEIGHTS),
        lambda: render_scene(1, (3000, 4000)).image,
        {"points_per_side": 8, "points_per_batch": 16, **SOFT},
    ),
    "everything_vit_b": Scene(subjects.checkpoint, subjects.image, {"points_per_side": 8, **OPEN}),
}


def ours(name: str) -> Callable[[], object]:
    """Return the work of our generator."""
    from model.build import load_decoder, load_encoder

    scene = SCENES[name]
    checkpoint, image = scene.checkpoint(), scene.image()
    encoder, decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")
    generator = AutomaticMaskGenerator(decoder, encoder, AutomaticSettings(**scene.settings))
    return lambda: generator.generate(image)


def theirs(name: str) -> Callable[[], object]:
    """Return the work of segment-anything's with as many threads as cores; masks stay run lengths, as ours do."""
    import torch

    from tests.reference.demo_network import build_demo
    from tests.reference.meta import build_sam, generate

    torch.set_num_threads(cpu_count())
    scene = SCENES[name]
    checkpoint, image = scene.checkpoint(), scene.image()
    build = build_demo if checkpoint.config.name == "demo" else build_sam
    sam = build(checkpoint.config, dict(checkpoint.tensors))
    return partial(generate, sam, image, output_mode="uncompressed_rle", **scene.settings)


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](sys.argv[2])()
    print(own_peak())
