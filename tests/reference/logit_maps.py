"""Low-resolution logits that try the way to the photo's mask: blots, specks, nothing, everything.

Made by numpy alone from a frozen stream, so that golden files need to keep only the masks.
"""

import numpy as np

KINDS = ("noise", "blots", "specks", "one", "corner", "empty", "full")


def logit_map(kind: str, size: int, random: np.random.RandomState) -> np.ndarray:
    """(size, size) float32 logits."""
    noise = random.standard_normal((size, size)).astype(np.float32)
    if kind == "noise":
        return 10 * noise
    if kind == "blots":
        at = np.linspace(0, 4, size)
        rows = np.stack([np.interp(at, np.arange(5), column) for column in 10 * noise[:5, :5].T], axis=1)  # (size, 5)
        return np.stack([np.interp(at, np.arange(5), row) for row in rows]).astype(np.float32)
    if kind == "specks":
        return np.where(random.random_sample((size, size)) < 0.01, np.abs(noise), -np.abs(noise))
    if kind == "full":
        return np.abs(noise) + np.float32(0.01)
    logits = -np.abs(noise) - np.float32(0.01)
    if kind == "one":
        logits[tuple(random.randint(0, size, 2))] = 5.0
    if kind == "corner":
        logits[: 1 + size // 8, : 1 + size // 5] = 3.0
    return logits
