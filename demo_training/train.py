"""Train the demo model on CPU: ``python -m demo_training.train --scenes DIR --out DIR --minutes 100``.

As in the SAM paper: a box or a click first, then corrective clicks with the previous logits as mask input; the best of
three masks is taught for a single click; a head predicts the IoU. Two things make it learn soon: an auxiliary
loss that asks which tokens belong together for many clicks at once (it needs no decoder), and binary cross-entropy
with dice, which start to fall at once where focal loss stays flat. It resumes from ``OUT/last.pt``; where that is not
there it begins with the exported weights of ``--start``, or from nothing.
"""

import os
import subprocess
import sys

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from demo_training.dataset import Shards
from demo_training.loop import Plan, Training, fast_dtype, parameter_groups, parser, quickly
from demo_training.network import DemoSam, normalise
from demo_training.prompting import Batch, corrective_clicks, draw_batch, embed_prompts
from demo_training.warm_start import load_exported
from model.config import demo

IMAGES, OBJECTS = 8, 3  # of each worker
PEAK_RATE, LARGEST_GRADIENT = 1.5e-3, 2.0
CALIBRATION_BATCHES = 20
AFFINITY_CLICKS = 6
CLICK_REACH = 6.0  # low-res cells around a corrective click
CLICKS_ALONE = 0.3  # how often corrective clicks come without the logits they correct
LATER_ROUNDS, CORRECTION = 0.5, 0.8  # what corrections weigh beside first prompts, and the error beside the whole mask


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy + dice (N, K) of logits (N, K, h, w) against soft targets (N, 1, h, w).

    The cross-entropy is divided by the geometric mean of the object's and the picture's area, so that small objects
    count.
    """
    logits, wanted = logits.flatten(2), targets.flatten(2).transpose(1, 2)  # (N, K, h*w), (N, h*w, 1)
    area = wanted.sum(1)  # (N, 1)
    cross = functional.softplus(logits).sum(2) - (logits @ wanted)[..., 0]
    cross = cross / ((area + 16) * logits.shape[-1]).sqrt()
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p @ wanted)[..., 0] + 1) / (p.sum(2) + area + 1)
    return cross + dice


def correction_loss(logits: Tensor, targets: Tensor, previous: Tensor, click: Tensor) -> Tensor:
    """Return the cross-entropy where the logits of the round before were wrong, most of all around the last click.

    Without it a model that is mostly right learns to leave the mask it is given as it is.
    """
    cells = torch.arange(logits.shape[-1])
    away = [(cells - (click[:, axis : axis + 1] / 2)) ** 2 for axis in (0, 1)]  # (N, w), (N, h)
    near = torch.exp(-(away[1][:, :, None] + away[0][:, None]) / (2 * CLICK_REACH**2))[:, None]  # (N, 1, h, w)
    weight = ((previous > 0) != (targets > 0.5)) * (0.2 + near)
    cross = functional.softplus(logits) - logits * targets
    return ((cross * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) + 4)).mean()


def true_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU (N, K) of logits (N, K, h, w) with targets (N, 1, h, w)."""
    found, wanted = logits > 0, targets > 0.5
    return (found & wanted).sum((2, 3)) / (found | wanted).sum((2, 3)).clamp(min=1)


def auxiliary_loss(model: DemoSam, embedding: Tensor, batch: Batch) -> Tensor:
    """Return how badly the embedding says which cells share an object, and where objects meet.

    Several clicks into every object are answered at once by dot products: of the clicked token's query with four keys
    of each token, one for each quarter of it.
    """
    b, _, h, w = embedding.shape
    tokens = (embedding + model.prompt_encoder.get_dense_pe()).flatten(2).transpose(1, 2)  # (B, h*w, C)
    own = functional.adaptive_avg_pool2d(batch.every_own, (h, w)).flatten(1)  # (M, h*w)
    wanted = functional.adaptive_avg_pool2d(batch.every_mask, (2 * h, 2 * w))  # (M, 2h, 2w)
    wanted = wanted.reshape(-1, h, 2, w, 2).permute(0, 1, 3, 2, 4).reshape(-1, 1, 4 * h * w, 1)  # by tokens' quarters
    clicks = torch.multinomial(own**3 + 1e-9, AFFINITY_CLICKS, replacement=True)  # (M, clicks)
    query = model.aux["query"](tokens[batch.scene_of[:, None], clicks])  # (M, clicks, 64)
    keys = model.aux["key"](tokens).reshape(b, 4 * h * w, 64)
    counts = torch.bincount(batch.scene_of, minlength=b).tolist()
    logits = torch.cat([q.flatten(0, 1) @ k.T for q, k in zip(query.split(counts), keys, strict=True)]) / 8 - 2
    logits = logits.reshape(len(own), AFFINITY_CLICKS, 4 * h * w)
    edges = functional.pixel_shuffle(model.aux["edge"](embedding), 4)[:, 0]
    edge_loss = functional.binary_cross_entropy_with_logits(edges, batch.edges, pos_weight=torch.tensor(3.0))
    return mask_losses(logits[..., None], wanted).mean() + edge_loss


def prompt_rounds(model: DemoSam, embedding: Tensor, batch: Batch, rounds: int) -> tuple[Tensor, dict[str, float]]:
    """Run the prompt rounds; return the embedding's gradient and the figures of the batch."""
    leaf = embedding.detach().requires_grad_()
    n = batch.points.shape[0]
    by_box = torch.arange(n) % 2 == 0
    points, labels = batch.points[:, None], torch.ones(n, 1)
    previous: Tensor | None = None
    figures: dict[str, float] = {}
    for number in range(rounds):
        given = previous if torch.rand(()) > CLICKS_ALONE else None
        sparse, dense = embed_prompts(model, points, labels, batch.boxes, by_box, given)
        with quickly():
            per_object = leaf.to(fast_dtype()).repeat_interleave(n // leaf.shape[0], dim=0)
            logits, predicted = model.decode(per_object, sparse.to(fast_dtype()), dense.to(fast_dtype()))
        heads = 4 if number == 0 else 1
        logits, predicted = logits[:, :heads].float(), predicted[:, :heads].float()
        losses, iou = mask_losses(logits, batch.targets), true_iou(logits.detach(), batch.targets)
        loss = losses[:, 0].mean() + functional.mse_loss(predicted, iou)
        best = torch.zeros(n, dtype=torch.long)
        if previous is not None:
            loss = loss + CORRECTION * correction_loss(logits, batch.targets, previous, points[:, -1])
        if number == 0:
            loss = loss + 0.9 * losses[:, 1:].min(1).values.mean() + 0.1 * losses[:, 1:].mean()
            best = torch.where(by_box, 0, 1 + predicted.detach()[:, 1:].argmax(1))
        (loss * (LATER_ROUNDS if number else 1.0)).backward()
        chosen = iou[torch.arange(n), best]
        if number == 0:
            figures.update(box=float(chosen[by_box].mean()), click=float(chosen[~by_box].mean()))
        else:
            figures[f"round{number + 1}"] = float(chosen.mean())
        figures["loss"] = float(loss.detach())
        previous = logits.detach()[torch.arange(n), best][:, None]
        click, label = corrective_clicks(previous, batch.targets)
        points, labels = torch.cat([points, click[:, None]], 1), torch.cat([labels, label[:, None]], 1)
    assert leaf.grad is not None
    return leaf.grad, figures


def train_step(model: DemoSam, batch: Batch, rounds: int, aux_weight: float) -> dict[str, float]:
    """Accumulate the gradients of one batch; return its figures."""
    with quickly():
        embedding = model.image_encoder(normalise(batch.images, batch.sizes))
    embedding = embedding.float()
    gradient, figures = prompt_rounds(model, embedding, batch, rounds)
    aux = auxiliary_loss(model, embedding, batch)
    ((embedding * gradient).sum() + aux_weight * aux).backward()
    return {**figures, "aux": float(aux.detach())}


def rounds_at(step: int, progress: float) -> int:
    """Return the number of prompt rounds: one until masks appear, then one, two or three, more of them at the end."""
    if step < 300:
        return 1
    return (1, 2, 1, 1, 3, 1)[step % 6] if progress < 0.8 else (2, 1, 1, 3)[step % 4]


def share_gradients(model: nn.Module, workers: int, progress: float) -> float:
    """Average the gradients over the workers; return the progress, which only the first worker knows."""
    parameters = list(model.parameters())
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([progress])])
    if workers > 1:
        distributed.all_reduce(flat)
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, flat[:-1].split(sizes), strict=True):
        parameter.grad = (part / workers).view_as(parameter)
    return float(flat[-1])


def run(plan: Plan) -> None:
    """Train until the time is used up, from the last checkpoint if there is one."""
    torch.manual_seed(plan.seed)
    model, shards = DemoSam(demo()).to(memory_format=torch.channels_last), Shards(plan.scenes)

    def draw(rng: np.random.Generator) -> Batch:
        return draw_batch(rng, shards, IMAGES, OBJECTS, demo().image_size)

    if plan.start is not None and not plan.last.exists():
        rng = np.random.default_rng(plan.seed)
        batches = (draw(rng) for _ in range(CALIBRATION_BATCHES))
        load_exported(model, plan.start, (normalise(batch.images, batch.sizes) for batch in batches))

    def learn(batch: Batch, step: int, progress: float) -> dict[str, float]:
        return train_step(model, batch, rounds_at(step, progress), 1.0 - 0.7 * progress)

    def share(progress: float) -> float:
        return share_gradients(model, plan.workers, 0.0 if plan.rank else progress)

    Training(plan, model, parameter_groups(model)).run(shards, draw, learn, LARGEST_GRADIENT, share)


def main() -> None:
    """Train with the folders and the time named on the command line."""
    arguments = parser(__doc__, 100.0, PEAK_RATE, None)
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread each")
    arguments.add_argument("--rank", type=int, default=0, help="set by the first worker for those it starts")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    others = []
    if options.workers > 1:
        if options.rank == 0:
            (options.out / "rendezvous").unlink(missing_ok=True)
            command = [sys.executable, "-m", "demo_training.train", *sys.argv[1:], "--rank"]
            others = [subprocess.Popen([*command, str(k)]) for k in range(1, options.workers)]  # noqa: S603  # ourselves
        where = f"file://{(options.out / 'rendezvous').resolve()}"
        distributed.init_process_group("gloo", init_method=where, rank=options.rank, world_size=options.workers)
    run(Plan(**vars(options)))
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
