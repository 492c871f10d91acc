"""Write pairs.json: random masks and the bytes label-studio-sdk's mask2rle makes of them.

Run with an interpreter that has label-studio-sdk: ``python tests/golden/rle/make_pairs.py``.
"""

import json
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import mask2rle


def masks(count: int):
    random = np.random.default_rng(7)
    for number in range(count):
        height, width = (int(side) for side in random.integers(1, 28, 2))
        mask = random.random((height, width)) < random.random()
        if number % 3 == 1:
            mask[:] = False
            (top, bottom), (left, right) = sorted(random.integers(0, height, 2)), sorted(random.integers(0, width, 2))
            mask[top : bottom + 1, left : right + 1] = True
        if number % 3 == 2:
            mask = np.repeat(np.repeat(mask, 5, axis=0), 3, axis=1)
        yield mask


pairs = [
    {
        "size": list(mask.shape),
        "mask": np.packbits(mask).tobytes().hex(),
        "rle": bytes(mask2rle(mask.astype(np.uint8) * 255)).hex(),
    }
    for mask in masks(80)
]
Path(__file__).with_name("pairs.json").write_text(json.dumps(pairs, indent=0) + "\n")
