"""A training on CPU: its arguments, its loop with batches drawn ahead, and its checkpoint, ``OUT/last.pt``.

A checkpoint holds ``model``, ``optimiser``, ``average`` (the moving average of the weights), ``step`` and ``used_s``; a
training whose folder has one goes on from there.
"""

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from demo_training.dataset import Shards

WARM_UP_STEPS = 100
EMA_DECAY = 0.998
SAVE_EVERY_S, PRINT_EVERY = 120, 20
LONGEST_STEP_S = 15.0  # a pause of the process is not training
BatchT = TypeVar("BatchT")
Rng = np.random.Generator


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, and which of the workers this process is."""

    scenes: Path
    out: Path
    minutes: float
    start: Path | None
    peak_rate: float
    seed: int = 0
    workers: int = 1
    rank: int = 0

    @property
    def last(self) -> Path:
        """The checkpoint."""
        return self.out / "last.pt"


def parser(description: str | None, minutes: float, peak_rate: float, start: Path | None) -> argparse.ArgumentParser:
    """Return a parser of what every training takes, with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of demo_training.dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, outside the repository")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--start", type=Path, default=start, help="weights to begin with where OUT has no checkpoint")
    parser.add_argument("--peak-rate", type=float, default=peak_rate, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    return parser


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


def rate_at(progress: float, step: int) -> float:
    """Return the share of the highest learning rate: a warm-up by steps, a cosine by how much of the time is used."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


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


class Training:
    """A network that learns until the time is used up.

    Attributes:
        average: the moving average of the weights.
        step: how many batches were learned from.
        used_s: the seconds that took.
    """

    def __init__(self, plan: Plan, network: nn.Module, groups: list[dict[str, Any]]) -> None:
        """Take a network with its groups of parameters (``factor`` times the learning rate), and any checkpoint."""
        self._plan, self._network = plan, network
        self._optimiser = torch.optim.AdamW(groups, lr=plan.peak_rate, betas=(0.9, 0.98))
        self.step, self.used_s = 0, 0.0
        plan.out.mkdir(parents=True, exist_ok=True)
        if plan.last.exists():
            state = torch.load(plan.last, weights_only=True)
            network.load_state_dict(state["model"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.average, self.step, self.used_s = state["average"], state["step"], state["used_s"]
        else:
            self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @property
    def progress(self) -> float:
        """The share of the time that is used."""
        return self.used_s / (60 * self._plan.minutes)

    def run(
        self,
        shards: Shards,
        draw: Callable[[Rng], BatchT],
        learn: Callable[[BatchT, int, float], dict[str, float]],
        largest_gradient: float,
        share: Callable[[float], float] = lambda progress: progress,
    ) -> None:
        """Learn until the time is used up, and save every two minutes and at the end.

        Args:
            shards: the scenes; new ones are taken up whenever the checkpoint is saved.
            draw: returns a batch.
            learn: computes the gradients of a batch, given the step and the progress; returns figures to print.
            largest_gradient: the norm that gradients are cut to.
            share: exchanges the gradients with other workers; returns the first one's progress.
        """
        plan = self._plan
        torch.manual_seed(plan.seed + 1000 * plan.rank + self.step)
        rng, sums = np.random.default_rng([plan.seed, self.step, plan.rank]), dict[str, float]()
        saved_at, progress = time.monotonic(), self.progress
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(draw, rng)
            while progress < 1:
                began, batch = time.monotonic(), coming.result()
                coming = pool.submit(draw, rng)
                rate = plan.peak_rate * rate_at(progress, self.step)
                for group in self._optimiser.param_groups:
                    group["lr"] = group.get("factor", 1.0) * rate
                self._optimiser.zero_grad(set_to_none=True)
                figures = learn(batch, self.step, progress)
                progress = share(self.progress)
                norm = nn.utils.clip_grad_norm_(self._network.parameters(), largest_gradient)
                self._optimiser.step()
                self.step += 1
                self.used_s += min(time.monotonic() - began, LONGEST_STEP_S)
                if plan.rank:
                    continue
                update_average(self.average, self._network, self.step)
                figures["norm"] = float(norm)
                sums.update({name: 0.96 * sums.get(name, value) + 0.04 * value for name, value in figures.items()})
                if self.step % PRINT_EVERY == 0:
                    shown = " ".join(f"{name}={value:.3f}" for name, value in sums.items())
                    print(f"step={self.step} minutes={self.used_s / 60:.1f} rate={rate:.5f} {shown}", flush=True)
                if time.monotonic() - saved_at > SAVE_EVERY_S or progress >= 1:
                    saved_at = time.monotonic()
                    self.save()
                    print(f"saved step={self.step} scenes={shards.refresh()}", flush=True)

    def save(self) -> None:
        """Write the checkpoint so that an interruption leaves the one before."""
        temporary = self._plan.last.with_suffix(".part")
        kept = {"model": self._network.state_dict(), "optimiser": self._optimiser.state_dict(), "average": self.average}
        torch.save({**kept, "step": self.step, "used_s": self.used_s}, temporary)
        temporary.rename(self._plan.last)
