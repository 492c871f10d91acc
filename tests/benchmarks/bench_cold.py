"""A cold click: from opening a task's page to the mask, for photos of 1, 12 and 50 megapixels, with its stages.

The request of the opened page and the click come one after the other, as fast as they can. The photo comes from a
server on loopback; the model is the demo's. ``python -m tests.benchmarks.bench_cold`` prints the stages as a table.
"""

import io
import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from demo_training.scenes import render_scene
from tests.benchmarks.bench_click import Bench, bench
from tests.benchmarks.rows import Row, say
from tests.support.fakes import HttpServer, Reply
from tests.support.scenes import centre_click, largest
from tests.support.wire_bodies import click, encoded, result

SIZES = {"1 MP": (866, 1155), "12 MP": (3000, 4000), "50 MP": (6120, 8160)}
FORMATS = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}, "WEBP": {"quality": 85, "method": 2}}
STAGES = {"fetch": "fetch", "decode_image": "image to input", "encode": "encode", "decoder": "decode", "rle": "draw"}
ROUNDS = 3
SCENE_SIZE = SIZES["1 MP"]
SCENE = render_scene(1, SCENE_SIZE)


@dataclass(frozen=True)
class Cold:
    """A cold click, in ms: from opening the page to the mask, and each stage by its name in the metrics."""

    total: float
    stages: dict[str, float]


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a scene enlarged to ``size`` (height, width), with a camera's noise."""
    large = cv2.resize(SCENE.image, size[::-1], interpolation=cv2.INTER_LINEAR)
    noise = np.random.default_rng(0).integers(0, 9, (512, size[1], 3), np.uint8)
    for top in range(0, size[0], len(noise)):
        rows = large[top : top + len(noise)]
        cv2.add(rows, noise[: len(rows)], rows)
    return Image.fromarray(large)


def measure(setup: Bench, images: HttpServer, file: bytes, size: tuple[int, int], name: str) -> Cold:
    """Return what a click on a photo costs that no cache has seen."""
    path = f"/{name.replace(' ', '-')}"
    images.routes[path] = Reply(file)
    task = {"id": 1, "data": {"image": path}}
    x, y = centre_click(SCENE, largest(SCENE))
    value = {"x": 100 * x / SCENE_SIZE[1], "y": 100 * y / SCENE_SIZE[0], "width": 1, "keypointlabels": ["Cat"]}
    context = result(value=value, original_width=size[1], original_height=size[0])
    before, start = stages(setup), time.perf_counter()
    setup.post(encoded(click(tasks=[task], params={})))  # the page is opened
    setup.ask(encoded(click(context, tasks=[task])))
    total = (time.perf_counter() - start) * 1000
    return Cold(total, {stage: took - before[stage] for stage, took in stages(setup).items()})


def stages(setup: Bench) -> dict[str, float]:
    """Return what each stage has taken so far, in ms."""
    sample = setup.service.metrics.registry.get_sample_value
    return {name: 1000 * (sample("paddle_sam_stage_seconds_sum", {"stage": name}) or 0.0) for name in STAGES}


def clicks() -> Iterator[tuple[str, Cold]]:
    """Yield the median of a few cold clicks for each size and format."""
    logging.getLogger("backend").setLevel(logging.WARNING)
    with bench() as (setup, images):
        for number, (size_name, size) in enumerate(SIZES.items()):
            pixels = photo(size)
            for kind, options in FORMATS.items():
                name, out = f"{size_name} {kind}", io.BytesIO()
                say(f"measuring a cold click, {name}")
                pixels.save(out, kind, **options)
                # Bytes after a file's end are no part of the picture, but of its content.
                files = [out.getvalue() + bytes([number, turn]) for turn in range(ROUNDS)]
                rounds = [measure(setup, images, file, size, f"{name} {turn}") for turn, file in enumerate(files)]
                middle = {stage: statistics.median(round_.stages[stage] for round_ in rounds) for stage in STAGES}
                yield name, Cold(statistics.median(round_.total for round_ in rounds), middle)


def run() -> Iterator[Row]:
    """Compare each click with the sum of its stages, which it takes where nothing overlaps."""
    for name, cold in clicks():
        in_turn = sum(cold.stages.values())
        yield Row(f"cold click, {name}", cold.total, in_turn, "ms", "its stages in turn", None, cold.total / in_turn)


def main() -> None:
    """Print the stages."""
    print(f"| photo | {' | '.join(STAGES.values())} | page to mask |\n|{'---|' * (len(STAGES) + 2)}")
    for name, cold in clicks():
        cells = (f"{took:.0f} ms" for took in (*cold.stages.values(), cold.total))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
