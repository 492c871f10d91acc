"""Train the demo's detector on CPU: ``python -m demo_training.detector.train --scenes DIR --out DIR --minutes 75``.

It begins with the image encoder of the demo model that ships, and resumes from ``OUT/last.pt``. A cell is taught the
IoU of its own box as its sureness (quality focal loss, Li et al., 2020), its box with GIoU, and its words with
cross-entropy; each object counts the same, however many cells it has.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_training.dataset import Shards
from demo_training.detector.network import DetectorNetwork
from demo_training.detector.targets import Batch, draw_batch
from demo_training.detector.words import SHAPES
from demo_training.evaluate import WEIGHTS
from demo_training.network import DemoSam, normalise
from demo_training.train import parameter_groups, quickly, rate_at, save, update_average
from demo_training.warm_start import load_exported
from model.config import demo

IMAGES = 10
PEAK_RATE, HEAD_FACTOR = 5e-4, 3.0
SURE_WEIGHT, BOX_WEIGHT, WORD_WEIGHT = 1.0, 2.0, 0.5
CALIBRATION_BATCHES = 12
SAVE_EVERY_S = 120


def losses(network: DetectorNetwork, batch: Batch) -> dict[str, Tensor]:
    """Return the losses of a batch, and how good it is: ``iou`` of boxes, ``right`` words of shape."""
    with quickly():
        sure, boxes, words = network(batch.pixels)
    spoken = batch.cells >= 0
    numbers = batch.cells[spoken]  # (P,)
    weight = 1 / torch.bincount(numbers, minlength=len(batch.boxes)).clamp(min=1)[numbers].float()
    total = weight.sum().clamp(min=1)  # objects
    iou, giou = overlaps(boxes[spoken], batch.boxes[numbers])
    wanted = torch.zeros_like(sure)
    wanted[spoken] = iou.detach()
    error = functional.binary_cross_entropy_with_logits(sure, wanted, reduction="none")
    error = error * (torch.sigmoid(sure.detach()) - wanted).abs() ** 2 * (batch.cells > -2)
    targets = batch.words[numbers]
    word_error = functional.binary_cross_entropy_with_logits(words[spoken], targets.clamp(min=0), reduction="none")
    word_error = (word_error * (targets >= 0)).sum(1)
    return {
        "sure": error.sum() / spoken.sum().clamp(min=1) * 4,
        "box": ((1 - giou) * weight).sum() / total,
        "words": (word_error * weight).sum() / total,
        "iou": (iou.detach() * weight).sum() / total,
        "right": (_is_right(words[spoken].detach(), targets) * weight).sum() / total,
    }


def _is_right(words: Tensor, targets: Tensor) -> Tensor:
    """Return whether the likeliest shape and the likeliest colour are both true, (P,)."""
    parts = (slice(0, len(SHAPES)), slice(len(SHAPES), None))
    hits = [targets[:, part].gather(1, words[:, part].argmax(1, keepdim=True))[:, 0] != 0 for part in parts]
    return (hits[0] & hits[1]).float()


def overlaps(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (P,) of boxes (P, 4), XYXY."""
    inner = (torch.minimum(found[:, 2:], wanted[:, 2:]) - torch.maximum(found[:, :2], wanted[:, :2])).clamp(min=0)
    outer = torch.maximum(found[:, 2:], wanted[:, 2:]) - torch.minimum(found[:, :2], wanted[:, :2])
    both = inner.prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - both
    iou = both / union
    return iou, iou - 1 + union / outer.prod(1)


def begin(weights: Path, shards: Shards) -> DetectorNetwork:
    """Return an untrained detector on the image encoder of the demo model."""
    rng = np.random.default_rng(0)
    batches = (draw_batch(rng, shards, IMAGES) for _ in range(CALIBRATION_BATCHES))
    sam = DemoSam(demo())
    load_exported(sam, weights, (normalise(b.pixels.permute(0, 2, 3, 1), []) for b in batches))
    return DetectorNetwork(sam)


def groups(network: DetectorNetwork) -> list[dict[str, object]]:
    """Return the parameters: those of the encoder learn slower than the heads, which begin from nothing."""
    heads = nn.ModuleDict({name: part for name, part in network.named_children() if name != "image_encoder"})
    own = [*parameter_groups(heads), {"params": [network.words, network.word_bias], "weight_decay": 0.0}]
    return [{**group, "factor": HEAD_FACTOR} for group in own] + [
        {**group, "factor": 1.0} for group in parameter_groups(network.image_encoder)
    ]


def run(scenes: Path, out: Path, minutes: float, weights: Path) -> None:
    """Train until the time is used up, from the last checkpoint if there is one."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    shards = Shards(scenes)
    last = out / "last.pt"
    state = torch.load(last, weights_only=True) if last.exists() else None
    network = (begin(weights, shards) if state is None else DetectorNetwork()).to(memory_format=torch.channels_last)
    network.train()
    optimiser = torch.optim.AdamW(groups(network), lr=PEAK_RATE, betas=(0.9, 0.98))
    step, used_s = 0, 0.0
    if state is not None:
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, used_s = state["step"], state["used_s"]
    average = {k: v.detach().clone() for k, v in (network.state_dict() if state is None else state["average"]).items()}
    rng, pool, sums = np.random.default_rng([1, step]), ThreadPoolExecutor(1), dict[str, float]()
    coming, saved_at, began = pool.submit(draw_batch, rng, shards, IMAGES), time.monotonic(), time.monotonic()
    progress = 0.0
    while progress < 1:
        progress = (used_s + time.monotonic() - began) / (60 * minutes)
        batch = coming.result()
        coming = pool.submit(draw_batch, rng, shards, IMAGES)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * group["factor"] * rate_at(min(progress, 1.0), step)
        found = losses(network, batch)
        loss = SURE_WEIGHT * found["sure"] + BOX_WEIGHT * found["box"] + WORD_WEIGHT * found["words"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        update_average(average, network, step)
        sums = {k: 0.96 * sums.get(k, float(v)) + 0.04 * float(v) for k, v in found.items()}
        if step % 20 == 0:
            shown = " ".join(f"{k}={v:.3f}" for k, v in sums.items())
            print(f"step={step} minutes={minutes * progress:.1f} {shown}", flush=True)
        if time.monotonic() - saved_at > SAVE_EVERY_S or progress >= 1:
            saved_at, used = time.monotonic(), used_s + time.monotonic() - began
            kept = {"model": network.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            save(last, {**kept, "step": step, "used_s": used})
            print(f"saved step={step} scenes={shards.refresh()}", flush=True)
    pool.shutdown()


def main() -> None:
    """Train with the folders and the time named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of demo_training.dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, outside the repository")
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--start", type=Path, default=WEIGHTS, help="the demo model whose image encoder it begins with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options.scenes, options.out, options.minutes, options.start)


if __name__ == "__main__":
    main()
