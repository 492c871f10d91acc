"""From low-resolution logits to the mask of a large photo."""

import numpy as np

from model.modeling.blas import product
from model.transforms import mask_and_areas
from tests.benchmarks.rows import Row, compare, limit
from tests.reference.meta import postprocess

GEOMETRY = ((768, 1024), (3000, 4000), 1024)
LIMIT_MS = 10.0
ROUNDS = 9


def disc(share: float) -> np.ndarray:
    """(256, 256) float32 logits of a disc that covers this share of the photo."""
    rows, columns = np.mgrid[:256, :256]
    radius = np.sqrt(share * 192 * 256 / np.pi)  # the photo ends at row 192
    return np.asarray(radius - np.hypot(rows - 96, columns - 128), dtype=np.float32)


def run() -> list[Row]:
    """Compare with Meta's code for a small and a large object, and the small one with the limit."""
    rows = []
    for share, goal in ((0.05, 1.0), (0.9, None)):
        logits = disc(share)
        row = compare(
            f"mask of {share:.0%} of 4000×3000",
            lambda logits=logits: mask_and_areas(logits, *GEOMETRY, product=product)[0],
            lambda logits=logits: postprocess(logits, *GEOMETRY) > 0,
            against="segment-anything, torch eager",
            goal=goal,
            rounds=ROUNDS,
        )
        rows.append(row)
    return [*rows, limit(f"{rows[0].name}, alone", rows[0].ours, LIMIT_MS, "ms")]
