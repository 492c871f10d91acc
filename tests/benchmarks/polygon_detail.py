"""The corners, IoU and time of polygons by their detail: ``python -m tests.benchmarks.polygon_detail``.

Prints a Markdown table. IoUs compare the pixels whose centres lie in the polygon with the mask. Times are of the
processor, the best of five.
"""

import time

import numpy as np

from backend.segmentation import polygons
from backend.shapes import DEFAULT_DETAIL, Detail
from model.types import Mask
from tests.benchmarks.rows import say
from tests.support.outlines import covered, iou, wavy

OBJECTS = {
    "smooth, 0.5 megapixels": wavy((1200, 1600), 0.6),
    "ragged, 0.4 megapixels": wavy((1200, 1600), 0.55, waves=300, unevenness=0.06, seed=3),
    "huge, 6 megapixels": wavy((3000, 4000), 0.8, waves=24, unevenness=0.08, seed=5),
}
EVERY = 1_000_000
"""A number of corners that no outline has."""
DETAILS = {
    "default": DEFAULT_DETAIL,
    **{f"tolerance {pixels:g}": Detail(pixels, EVERY) for pixels in (0, 0.5, 1, 2, 4, 8)},
    **{f"corners {count}": Detail(corners=count) for count in (100, 50, 20)},
}
ROUNDS = 5


def cell(array: np.ndarray, detail: Detail) -> str:
    """Return the corners, the IoU and the milliseconds of one object."""
    mask, times = Mask.from_array(array), []
    for _ in range(ROUNDS):
        started = time.process_time()
        rings = polygons.rings(mask, detail)
        times.append(time.process_time() - started)
    [ring] = rings
    return f"{len(ring)} | {iou(covered([ring], array.shape), array):.4f} | {1000 * min(times):.0f}"


def table() -> str:
    """Return the table."""
    lines = ["| detail | " + " | ".join(f"{name}: corners | IoU | ms" for name in OBJECTS) + " |", "|---" * 10 + "|"]
    for name, detail in DETAILS.items():
        say(name)
        lines.append(f"| {name} | " + " | ".join(cell(array, detail) for array in OBJECTS.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    for name, array in OBJECTS.items():
        say(f"{name}: {array.sum()} pixels")
    print(table())
