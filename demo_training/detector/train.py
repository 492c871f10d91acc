"""Train the demo's detector on CPU: ``python -m demo_training.detector.train --scenes DIR --out DIR --minutes 75``.

It begins with the image encoder of the demo model that ships, and resumes from ``OUT/last.pt``. A cell is taught the
IoU of its own box as its sureness (quality focal loss, Li et al., 2020), its box with GIoU, and its words with
cross-entropy; each object counts the same, however many cells it has.
"""

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
from demo_training.loop import Plan, Training, parameter_groups, parser, quickly
from demo_training.network import DemoSam, normalise
from demo_training.warm_start import load_exported
from model.config import demo

IMAGES = 10
PEAK_RATE, HEAD_FACTOR = 5e-4, 3.0
SURE_WEIGHT, BOX_WEIGHT, WORD_WEIGHT = 1.0, 2.0, 0.5
CALIBRATION_BATCHES = 12
LARGEST_GRADIENT = 5.0


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


def run(plan: Plan) -> None:
    """Train until the time is used up, from the last checkpoint if there is one."""
    torch.manual_seed(plan.seed)
    shards = Shards(plan.scenes)
    network = DetectorNetwork() if plan.start is None or plan.last.exists() else begin(plan.start, shards)
    network = network.to(memory_format=torch.channels_last).train()

    def draw(rng: np.random.Generator) -> Batch:
        return draw_batch(rng, shards, IMAGES)

    def learn(batch: Batch, step: int, progress: float) -> dict[str, float]:
        found = losses(network, batch)
        (SURE_WEIGHT * found["sure"] + BOX_WEIGHT * found["box"] + WORD_WEIGHT * found["words"]).backward()
        return {name: float(value.detach()) for name, value in found.items()}

    Training(plan, network, groups(network)).run(shards, draw, learn, LARGEST_GRADIENT)


def main() -> None:
    """Train with the folders and the time named on the command line."""
    torch.set_num_threads(1)
    run(Plan(**vars(parser(__doc__, 75.0, PEAK_RATE, WEIGHTS).parse_args())))


if __name__ == "__main__":
    main()
