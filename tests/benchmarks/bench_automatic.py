"""Everything in a picture, against segment-anything's generator: time, and at 12 megapixels the most memory.

Both find the same masks, see ``tests/reference/test_automatic.py``. The memory of each is that of a fresh process,
``python -m tests.benchmarks.bench_automatic ours|theirs``.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from demo_training.scenes import render_scene
from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.build import load_decoder, load_encoder
from model.machine import cpu_count
from model.paddlex.model import DEMO_WEIGHTS
from model.weights import Checkpoint, read
from tests.benchmarks import subjects
from tests.benchmarks.peak_memory import own_peak
from tests.benchmarks.rows import Row, compare, say

ROOT = Path(__file__).parents[2]
AGAINST = "segment-anything, torch eager"
SOFT = {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
"""Lets a few dozen of the demo model's masks through."""
OPEN = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
"""Lets most masks of random weights through."""
LARGE, SMALL = (3000, 4000), (600, 800)
FEW_AT_ONCE = {"points_per_side": 8, "points_per_batch": 16}
"""At segment-anything's own 64 at once, its logits of 12 megapixels alone take 9 GB."""

Find = Callable[..., object]


def ours(checkpoint: Checkpoint) -> Find:
    """Our generator."""
    encoder, decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")

    def find(image: Any, **settings: Any) -> object:
        return AutomaticMaskGenerator(decoder, encoder, AutomaticSettings(**settings)).generate(image)

    return find


def theirs(checkpoint: Checkpoint) -> Find:
    """segment-anything's generator with as many threads as cores; masks stay run lengths, as ours do."""
    import torch

    from tests.reference.demo_network import build_demo
    from tests.reference.meta import build_sam, generate

    torch.set_num_threads(cpu_count())
    build = build_demo if checkpoint.config.name == "demo" else build_sam
    sam = build(checkpoint.config, dict(checkpoint.tensors))

    def find(image: Any, **settings: Any) -> object:
        return generate(sam, image, output_mode="uncompressed_rle", **settings)

    return find


def timed(name: str, checkpoint: Checkpoint, image: Any, settings: dict[str, Any], rounds: int) -> Row:
    """Find everything with both, alternately."""
    mine, other = ours(checkpoint), theirs(checkpoint)
    return compare(
        name,
        lambda: mine(image, **settings),
        lambda: other(image, **settings),
        against=AGAINST,
        goal=1.0,
        rounds=rounds,
    )


def peak(side: str) -> float:
    """The most memory, in MB, that a fresh process takes for 12 megapixels."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_automatic", side]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return int(completed.stdout.split()[-1]) / 1e6


def run() -> Iterator[Row]:
    """Compare time and memory."""
    demo = read(DEMO_WEIGHTS)
    small = {"points_per_side": 16, **SOFT}
    yield timed("everything, 256 points, 800×600", demo, render_scene(1, SMALL).image, small, rounds=3)
    few = {**FEW_AT_ONCE, **SOFT}
    yield timed("everything, 64 points, 4000×3000", demo, render_scene(1, LARGE).image, few, rounds=1)
    vit_b = {"points_per_side": 8, **OPEN}
    name = "everything, ViT-B, 64 points, 800×600"
    yield timed(name, subjects.checkpoint(), subjects.image(), vit_b, rounds=1)
    say("measuring the memory of everything in 4000×3000")
    mine, other = peak("ours"), peak("theirs")
    yield Row("peak memory, everything, 4000×3000", mine, other, "MB", AGAINST, 0.5, mine / other)


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](read(DEMO_WEIGHTS))(
        render_scene(1, LARGE).image, **FEW_AT_ONCE, **SOFT
    )
    print(own_peak())
