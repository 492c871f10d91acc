"""Train the demo model on CPU: ``python -m demo_training.train --scenes DIR --out DIR --minutes 100``.

As in the SAM paper: a box or a click first, then corrective clicks with the previous logits as mask input; the best of
three masks is taught for a single click; a head predicts the IoU. Two things make it learn soon: an auxiliary
loss that asks which tokens belong together for many clicks at once (it needs no decoder), and binary cross-entropy
with dice, which start to fall at once where focal loss stays flat. It resumes from ``OUT/last.pt``; where that is not
there it begins with the exported weights of ``--start``, or from nothing.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from demo_training.dataset import Shards
from demo_training.network import DemoSam, normalise
from demo_training.prompting import Batch, corrective_clicks, draw_batch, embed_prompts
from demo_training.warm_start import load_exported
from model.config import demo

IMAGES, OBJECTS = 8, 3  # of each worker
PEAK_RATE, WARM_UP_STEPS = 1.5e-3, 100
EMA_DECAY = 0.998
CALIBRATION_BATCHES = 20
AFFINITY_CLICKS = 6
CLICK_REACH = 6.0  # low-res cells around a corrective click
CLICKS_ALONE = 0.3  # how often corrective clicks come without the logits they correct
LATER_ROUNDS, CORRECTION = 0.5, 0.8  # what corrections weigh beside first prompts, and the error beside the whole mask


def fast_dtype() -> torch.dtype:
    """Return what matrix products are computed in: bfloat16 where the processor has instructions for it, else float32.

    Without them torch takes ten times as long in bfloat16 as in float32.
    """
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


def quickly() -> torch.autocast:
    """Return what makes torch compute matrix products in `fast_dtype`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)


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


def rate_at(progress: float, step: int) -> float:
    """Return the share of the highest learning rate: a warm-up by steps, a cosine by how much of the time is used."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def rounds_at(step: int, progress: float) -> int:
    """Return the number of prompt rounds: one until masks appear, then one, two or three, more of them at the end."""
    if step < 300:
        return 1
    return (1, 2, 1, 1, 3, 1)[step % 6] if progress < 0.8 else (2, 1, 1, 3)[step % 4]


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:  # Any: what torch's optimisers take
    """Return weights to be decayed and, apart, biases, norms and embeddings."""
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim > 1 and "embed" not in name)]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch's own types are not read
def update_average(average: dict[str, Tensor], model: nn.Module, step: int) -> None:
    """Move the exponential moving average of the weights (and of the norms' statistics) one step."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)


def save(path: Path, state: dict[str, Any]) -> None:  # Any: a checkpoint holds tensors and numbers
    """Write a checkpoint so that an interruption leaves the one before."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(path)


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


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, and which of the workers this process is."""

    scenes: Path
    out: Path
    minutes: float
    seed: int
    workers: int
    rank: int
    start: Path | None
    peak_rate: float


def resume(
    plan: Plan, model: DemoSam, optimiser: torch.optim.Optimizer, shards: Shards
) -> tuple[dict[str, Tensor], int, float]:
    """Load the last checkpoint, else the exported weights that training starts from, if there are any.

    Returns:
        The averaged weights, the step and the seconds used.
    """
    if not (plan.out / "last.pt").exists():
        if plan.start is not None:
            drawn = np.random.default_rng(plan.seed)
            batches = (
                draw_batch(drawn, shards, IMAGES, OBJECTS, demo().image_size) for _ in range(CALIBRATION_BATCHES)
            )
            load_exported(model, plan.start, (normalise(batch.images, batch.sizes) for batch in batches))
        return {name: value.detach().clone() for name, value in model.state_dict().items()}, 0, 0.0
    state = torch.load(plan.out / "last.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["average"], state["step"], state["used_s"]


def run(plan: Plan) -> None:
    """Train until the time is used up, from the last checkpoint if there is one."""
    torch.manual_seed(plan.seed)
    model = DemoSam(demo()).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameter_groups(model), lr=plan.peak_rate, betas=(0.9, 0.98))
    shards = Shards(plan.scenes)
    average, step, used_s = resume(plan, model, optimiser, shards)
    torch.manual_seed(plan.seed + 1000 * plan.rank + step)
    rng = np.random.default_rng([plan.seed, step, plan.rank])
    sums: dict[str, float] = {}
    saved_at, pool = time.monotonic(), ThreadPoolExecutor(1)
    coming = pool.submit(draw_batch, rng, shards, IMAGES, OBJECTS, demo().image_size)
    progress = used_s / (60 * plan.minutes)
    while progress < 1:
        began = time.monotonic()
        batch = coming.result()
        coming = pool.submit(draw_batch, rng, shards, IMAGES, OBJECTS, demo().image_size)
        for group in optimiser.param_groups:
            group["lr"] = plan.peak_rate * rate_at(progress, step)
        optimiser.zero_grad(set_to_none=True)
        figures = train_step(model, batch, rounds_at(step, progress), 1.0 - 0.7 * progress)
        progress = share_gradients(model, plan.workers, 0.0 if plan.rank else used_s / (60 * plan.minutes))
        figures["norm"] = float(nn.utils.clip_grad_norm_(model.parameters(), 2.0))
        optimiser.step()
        step += 1
        used_s += min(time.monotonic() - began, 15.0)  # a pause of the process is not training
        if plan.rank:
            continue
        update_average(average, model, step)
        smooth = {k: 0.96 * sums.get(k, v) + 0.04 * v for k, v in figures.items()}
        sums = {**sums, **smooth}
        if step % 20 == 0:
            shown = " ".join(f"{k}={v:.3f}" for k, v in sums.items())
            print(
                f"step={step} minutes={used_s / 60:.1f} rate={plan.peak_rate * rate_at(progress, step):.5f} {shown}",
                flush=True,
            )
        if time.monotonic() - saved_at > 240 or progress >= 1:
            saved_at = time.monotonic()
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            save(plan.out / "last.pt", {**state, "step": step, "used_s": used_s})
            print(f"saved step={step} scenes={shards.refresh()}", flush=True)
    pool.shutdown()


def main() -> None:
    """Train with the folders and the time named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of demo_training.dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, outside the repository")
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--start", type=Path, help="exported weights to begin with where OUT has no checkpoint")
    parser.add_argument("--peak-rate", type=float, default=PEAK_RATE, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--rank", type=int, default=0, help="set by the first worker for those it starts")
    options = parser.parse_args()
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
