"""ViT-B at 1024 on this machine's processor: a photo to its embedding, against Meta's code and against PaddleX."""

from collections.abc import Callable, Iterator

import paddle

from model.build import load_decoder, load_encoder
from model.config import VitConfig, vit_b
from model.device import ThreadPool
from model.machine import cpu_count
from model.types import Prompt
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare, processor_flags

ROUNDS = 3
FLOOR_GOAL = 1.4
GOALS = {"avx512f": 0.5, "avx2": 0.75}
"""The share of torch's time that the encoder may take, by the widest instructions that the processor has."""


def run() -> Iterator[Row]:
    """Compare the encoder with torch's, and photo plus box to mask with PaddleX, which has no way to encode alone."""
    encoder, decoder = (load(subjects.checkpoint(), device="cpu") for load in (load_encoder, load_decoder))
    image, box = subjects.image(), Prompt(box=subjects.BOX)
    with subjects.engine("segment_anything_encode") as meta:
        yield compare(
            "encoder, ViT-B at 1024",
            lambda: encoder.encode(image),
            lambda: subjects.ask(meta),
            against="segment-anything, torch eager",
            goal=next((goal for flag, goal in GOALS.items() if flag in processor_flags()), None),
            rounds=ROUNDS,
        )
    yield compare(
        "encoder, ViT-B at 1024",
        lambda: encoder.encode(image),
        floor(),
        against="its matrix products alone",
        goal=FLOOR_GOAL,
        rounds=ROUNDS,
    )
    with subjects.paddlex_engine() as paddlex:
        if paddlex is not None:
            yield compare(
                "encoder and one box, ViT-B at 1024",
                lambda: decoder.decode(encoder.encode(image), box),
                lambda: subjects.ask(paddlex),
                against="PaddleX",
                goal=0.55,
                rounds=ROUNDS,
            )


def on_gpu(device: str) -> list[Row]:
    """Compare the encoder in half precision with itself in single precision, and report the memory of both together."""
    half, single = (load_encoder(subjects.checkpoint(), device, dtype) for dtype in ("bfloat16", "float32"))
    image, name = subjects.image(), f"encoder, ViT-B at 1024, bfloat16 on {device}"
    row = compare(
        name, lambda: half.encode(image), lambda: single.encode(image), against="float32", goal=None, rounds=10
    )
    memory = float(paddle.device.cuda.max_memory_allocated(device)) / 1e6
    return [row, Row(f"memory, both, on {device}", memory, memory, "MB", "itself", None, 1.0)]


def floor() -> Callable[[], object]:
    """Return work that is the matrix products of ViT-B's blocks alone, on all cores, on numbers that stay in place."""
    config = vit_b()
    vit, parallel = config.image_encoder, ThreadPool(cpu_count())
    assert isinstance(vit, VitConfig)
    tokens, dim, heads = config.embedding_size**2, vit.embed_dim, vit.num_heads
    hidden, width = int(dim * vit.mlp_ratio), vit.embed_dim // vit.num_heads
    rows, parts = tokens // parallel.parts, range(parallel.parts)
    layers = [(dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)]
    products = [(random(rows, inputs), random(inputs, outputs)) for inputs, outputs in layers]
    window = vit.window_size**2
    windows = (-(-config.embedding_size // vit.window_size)) ** 2 * heads // parallel.parts
    within = random(windows, window, width), random(windows, width, window), random(windows, window, window)
    queries = tokens // 16  # of a head at a time, as the encoder takes them
    across = random(queries, width), random(width, tokens), random(queries, tokens), random(tokens, width)
    is_global = [index in vit.global_attn_indexes for index in range(vit.depth)]

    def part(_: int) -> None:
        for attends_everywhere in is_global:
            for inputs, weight in products:
                paddle.matmul(inputs, weight)
            if not attends_everywhere:
                paddle.matmul(within[0], within[1])
                paddle.matmul(within[2], within[0])
                continue
            for _ in range(16 * heads // parallel.parts):
                paddle.matmul(across[0], across[1])
                paddle.matmul(across[2], across[3])

    return lambda: parallel.map(part, parts)


def random(*shape: int) -> paddle.Tensor:
    return paddle.rand(shape)
