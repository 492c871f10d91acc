"""Encoding and decoding masks against label-studio-sdk, in pairs on the same masks.

The SDK lives in Label Studio's environment (its pins are not ours), so this module runs itself there, in the
interpreter that LABEL_STUDIO_PYTHON names or that ``make demo`` makes, and reads what it prints.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from backend.protocol import rle
from model.types import Mask
from tests.benchmarks.rows import Row, compare, say

ROOT = Path(__file__).parents[2]
ENCODE_GOAL, DECODE_GOAL = 1 / 10, 1 / 20


def subjects() -> dict[str, np.ndarray]:
    rows, columns = np.mgrid[:3000, :4000]
    random = np.random.default_rng(0)
    return {
        "object 4000×3000": ((columns - 2000) / 1500) ** 2 + ((rows - 1500) / 1200) ** 2 < 1,
        "small object 4000×3000": ((columns - 700) / 150) ** 2 + ((rows - 500) / 120) ** 2 < 1,
        "noise 1000×1000": random.random((1000, 1000)) < 0.5,
    }


def against_sdk() -> list[Row]:
    """Measure, in an interpreter that has the SDK; the results are compared first."""
    from label_studio_sdk.converter.brush import decode_rle, mask2rle

    rows = []
    for name, array in subjects().items():
        mask, gray, size = Mask.from_array(array), array.astype(np.uint8) * 255, array.shape
        code, listed = rle.encode(mask), mask2rle(gray)
        assert list(code) == listed
        assert np.array_equal(rle.decode(code, size).to_array(), array)
        works = (
            ("encode", ENCODE_GOAL, lambda m=mask: rle.encode(m), lambda g=gray: mask2rle(g)),
            (
                "decode",
                DECODE_GOAL,
                lambda c=code, s=size: rle.decode(c, s),
                lambda c=listed, s=size: decode_rle(c).reshape(*s, 4)[:, :, 3] > 0,
            ),
        )
        rounds = 3 if "noise" in name else 7
        rows += [
            compare(f"RLE {direction}, {name}", ours, theirs, against="label-studio-sdk", goal=goal, rounds=rounds)
            for direction, goal, ours, theirs in works
        ]
    return rows


def run() -> list[Row]:
    """Measure in Label Studio's interpreter; nothing, with a word about it, where there is none."""
    python = Path(os.environ.get("LABEL_STUDIO_PYTHON") or ROOT / ".venv-label-studio" / "bin" / "python")
    if not python.exists():
        say(f"RLE is not measured: there is no {python}; `make demo` installs Label Studio, whose SDK is the reference")
        return []
    command = [str(python), "-m", "tests.benchmarks.bench_rle"]
    completed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**fields) for fields in json.loads(completed.stdout)]


if __name__ == "__main__":
    json.dump([asdict(row) for row in against_sdk()], sys.stdout)
