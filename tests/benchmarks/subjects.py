"""The networks and photos that benchmarks share; the same random weights for everyone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from model.config import vit_b
from model.machine import cpu_count
from model.weights import Checkpoint
from tests.reference.random_weights import lively_tensors, photo

ROOT = Path(__file__).parents[2]
PHOTO_SIZE = (600, 800)
BOX = (100.0, 100.0, 400.0, 400.0)
MANY = 16


@lru_cache
def tensors() -> dict[str, np.ndarray]:
    """Random ViT-B weights."""
    return lively_tensors(vit_b())


def checkpoint() -> Checkpoint:
    """Random ViT-B weights in memory."""
    return Checkpoint("vit_b", vit_b(), tensors(), "0" * 64, "native", Path("random"))


@lru_cache
def meta_predictor() -> Any:
    """Meta's predictor with those weights and as many threads as cores; it has seen `image`."""
    import torch

    from tests.reference.meta import build_sam, predictor

    torch.set_num_threads(cpu_count())
    return predictor(build_sam(vit_b(), tensors()), image())


def boxes(count: int) -> list[tuple[float, ...]]:
    """Different boxes, the first of them `BOX`."""
    return [tuple(edge + 5 * index for edge in BOX) for index in range(count)]


def image() -> np.ndarray:
    """A photo of `PHOTO_SIZE`."""
    return photo(*PHOTO_SIZE)


@contextmanager
def paddlex_engine() -> Iterator[subprocess.Popen[str] | None]:
    """PaddleX with those weights, exported by a plain network, in its own process; None where it is not installed.

    Each line sent to it makes it answer `BOX` on `image` once and print a line. `PADDLEX_PYTHON` names the interpreter.
    """
    python = Path(os.environ.get("PADDLEX_PYTHON", ROOT / ".venv-paddlex" / "bin" / "python"))
    if not python.exists():
        yield None
        return
    from tests.support.paddle_reference_network import build, save

    with tempfile.TemporaryDirectory() as folder:
        save(build(vit_b(), tensors()), vit_b(), str(Path(folder, "inference")))
        Path(folder, "inference.yml").write_text(
            "Global: {model_name: SAM-H_box}\nPreprocess: []\nProcessor: {type: SAMProcessor, size: 1024}\n"
        )
        np.save(Path(folder, "photo.npy"), image())
        command = [python, Path(__file__).with_name("paddlex_engine.py"), folder, *map(str, BOX)]
        with _engine(command, {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}) as process:
            yield process


@contextmanager
def engine(work: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that does a work of `tests.benchmarks.engine` at each `ask`, with variables in its environment."""
    with _engine([sys.executable, "-W", "ignore", "-m", "tests.benchmarks.engine", work], environ or {}) as process:
        yield process


@contextmanager
def _engine(command: Sequence[str | Path], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env={**os.environ, **environ},
        cwd=ROOT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str]) -> None:
    """Let an engine answer once.

    Raises:
        RuntimeError: it ended.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    while (line := process.stdout.readline()) != "answered\n":
        if not line:
            raise RuntimeError(f"engine: expected an answer, got exit status {process.wait()}")
