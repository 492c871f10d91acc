"""How long the model takes and how much memory it needs, beside what PaddleX publishes for SAM-H."""

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from model.build import load_decoder, load_encoder
from model.machine import cpu_count
from model.types import Prompt
from model.weights import Checkpoint

PUBLISHED_T4_MS = 144.9
PUBLISHED_CPU_MS = 33_920.7
"""PaddleX's documentation, SAM-H_box and SAM-H_point, one picture with one prompt: on a T4, and on 8 CPU threads."""

PHOTO_SIZE = (480, 640)
MANY = 16
_DECODES_PER_ENCODE = 5


@dataclass(frozen=True)
class Measured:
    """What was measured, times in milliseconds (medians after one run to warm up).

    Attributes:
        model_version: name and digest of the weights.
        input_size: side of the square that the network sees, pixels.
        device: ``cpu`` or ``gpu:N``.
        dtype: what the encoder computed in.
        machine: the processor, or the GPU.
        threads: processor cores that this process may use.
        load_ms: reading the weights into both networks.
        encode_ms: one photo of 640 × 480 to its embedding.
        prompt: the kind of prompt, ``box`` or (where the weights take none) ``point``.
        decode_one_ms: one prompt to its mask at the photo's size.
        decode_many_ms: as many prompts as ``many`` in one call.
        many: see there.
        peak_memory_mb: the most that the process (on a GPU, Paddle there) held at a time, weights and libraries
            included, in 10^6 bytes; None where the system does not tell.
    """

    model_version: str
    input_size: int
    device: str
    dtype: str
    machine: str
    threads: int
    load_ms: float
    encode_ms: float
    prompt: str
    decode_one_ms: float
    decode_many_ms: float
    many: int
    peak_memory_mb: float | None


def measure(checkpoint: Checkpoint, device: str = "auto", dtype: str = "float32", runs: int = 3) -> Measured:
    """Load the model and time it.

    Args:
        checkpoint: the weights.
        device: ``auto``, ``cpu`` or ``gpu:N``.
        dtype: what the encoder computes in.
        runs: encodes to take the median of; the decoder, being quicker, runs more often.

    Raises:
        DeviceError: the device or dtype is not available on this machine.
    """
    start = perf_counter()
    encoder, decoder = load_encoder(checkpoint, device, dtype), load_decoder(checkpoint, device)
    load_ms = (perf_counter() - start) * 1000
    photo = np.random.default_rng(0).integers(0, 256, (*PHOTO_SIZE, 3), dtype=np.uint8)
    embedding = encoder.encode(photo)
    kind = "box" if "boxes" in decoder.capabilities else "point"
    prompts = _prompts(kind)
    return Measured(
        model_version=checkpoint.model_version,
        input_size=checkpoint.config.image_size,
        device=encoder.device,
        dtype=dtype,
        machine=_machine(encoder.device),
        threads=cpu_count(),
        load_ms=load_ms,
        encode_ms=_median_ms(lambda: encoder.encode(photo), runs),
        prompt=kind,
        decode_one_ms=_median_ms(lambda: decoder.decode(embedding, prompts[:1]), runs * _DECODES_PER_ENCODE),
        decode_many_ms=_median_ms(lambda: decoder.decode(embedding, prompts), runs * _DECODES_PER_ENCODE),
        many=MANY,
        peak_memory_mb=_peak_memory_mb(encoder.device),
    )


def as_table(measured: Measured) -> str:
    """Return the figures for people, beside the published ones."""
    once = measured.encode_ms + measured.decode_one_ms
    memory = "unknown" if measured.peak_memory_mb is None else f"{measured.peak_memory_mb:,.0f} MB"
    rows = (
        ("load", f"{measured.load_ms:,.1f} ms"),
        ("encoder", f"{measured.encode_ms:,.1f} ms"),
        (f"decoder, 1 {measured.prompt}", f"{measured.decode_one_ms:,.1f} ms"),
        (
            f"decoder, {measured.many} at once",
            f"{measured.decode_many_ms:,.1f} ms, {measured.decode_many_ms / measured.many:,.1f} each",
        ),
        ("first prompt of a photo", f"{once:,.1f} ms"),
        ("peak memory", memory),
        ("published, PaddleX SAM-H", f"{PUBLISHED_T4_MS:,.1f} ms (T4), {PUBLISHED_CPU_MS:,.1f} ms (CPU, 8 threads)"),
        ("", "per photo and prompt, encoder included every time"),
    )
    head = (
        f"{measured.model_version}, input {measured.input_size} × {measured.input_size}, {measured.dtype}, "
        f"{measured.device}: {measured.machine}, {measured.threads} cores"
    )
    return "\n".join([head, *(f"{name:<26}{value}" for name, value in rows)])


def _prompts(kind: str) -> list[Prompt]:
    """Return prompts spread over the photo."""
    height, width = PHOTO_SIZE
    corners = np.random.default_rng(1).uniform((0.05, 0.05, 0.55, 0.55), (0.45, 0.45, 0.95, 0.95), (MANY, 4))
    boxes = corners * (width, height, width, height)
    if kind == "box":
        return [Prompt(box=box.astype(np.float32)) for box in boxes]
    return [Prompt(box[:2].reshape(1, 2).astype(np.float32), np.ones(1, np.int32)) for box in boxes]


def _median_ms(run: Callable[[], object], runs: int) -> float:
    run()  # to warm up
    times = []
    for _ in range(runs):
        start = perf_counter()
        run()
        times.append((perf_counter() - start) * 1000)
    return median(times)


def _peak_memory_mb(device: str) -> float | None:
    if device.startswith("gpu"):
        import paddle

        return float(paddle.device.cuda.max_memory_allocated(device)) / 1e6
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _machine(device: str) -> str:
    if device.startswith("gpu"):
        import paddle

        return str(paddle.device.cuda.get_device_name(device))
    return _processor() or platform.processor() or platform.machine()


def _processor() -> str | None:
    """Return the processor's name as Linux reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
