"""Times encoding and decoding masks against label-studio-sdk, in pairs on the same masks.

Needs label-studio-sdk in the same interpreter: ``python -m tests.benchmarks.bench_rle``.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle

from backend import rle
from model.types import Mask


def subjects() -> dict[str, np.ndarray]:
    rows, columns = np.mgrid[:3000, :4000]
    random = np.random.default_rng(0)
    return {
        "object 4000×3000": ((columns - 2000) / 1500) ** 2 + ((rows - 1500) / 1200) ** 2 < 1,
        "small object 4000×3000": ((columns - 700) / 150) ** 2 + ((rows - 500) / 120) ** 2 < 1,
        "noise 1000×1000": random.random((1000, 1000)) < 0.5,
    }


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Return the medians of both and of their ratio, timed alternately."""
    pairs = [(milliseconds(ours), milliseconds(theirs)) for _ in range(rounds)]
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(other / mine for mine, other in pairs),
    )


def compare(name: str, array: np.ndarray, rounds: int) -> None:
    mask, gray, size = Mask.from_array(array), array.astype(np.uint8) * 255, array.shape
    code, listed = rle.encode(mask), mask2rle(gray)
    assert list(code) == listed
    assert np.array_equal(rle.decode(code, size).to_array(), array)
    for what, ours, theirs in (
        ("encode", lambda: rle.encode(mask), lambda: mask2rle(gray)),
        ("decode", lambda: rle.decode(code, size), lambda: decode_rle(listed).reshape(*size, 4)[:, :, 3] > 0),
    ):
        mine, other, ratio = paired(ours, theirs, rounds)
        print(f"{name:24} {what:8} {mine:9.2f} {other:9.1f} {ratio:6.1f}×")


def main() -> None:
    print(f"{'mask':24} {'what':8} {'ours ms':>9} {'SDK ms':>9} {'ratio':>7}")
    for name, array in subjects().items():
        compare(name, array, rounds=5 if "noise" in name else 9)


if __name__ == "__main__":
    main()
