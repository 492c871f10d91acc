"""Everything in a picture, against segment-anything's generator: time, and at 12 megapixels the most memory."""

import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks import everything, subjects
from tests.benchmarks.rows import Row, compare, say

AGAINST = "segment-anything, torch eager"


def timed(name: str, scene: str, rounds: int) -> Row:
    """Find everything with both, alternately."""
    ours = everything.ours(scene)
    with subjects.engine(scene) as theirs:
        return compare(name, ours, lambda: subjects.ask(theirs), against=AGAINST, goal=1.0, rounds=rounds)


def peak(side: str) -> float:
    """The most memory, in MB, that a fresh process takes for 12 megapixels."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.everything", side, "everything_12mp"]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=subjects.ROOT)
    return int(completed.stdout.split()[-1]) / 1e6


def run() -> Iterator[Row]:
    """Compare time and memory."""
    yield timed("everything, 256 points, 800×600", "everything", rounds=3)
    yield timed("everything, 64 points, 4000×3000", "everything_12mp", rounds=1)
    yield timed("everything, ViT-B, 64 points, 800×600", "everything_vit_b", rounds=1)
    say("measuring the memory of everything in 4000×3000")
    mine, other = peak("ours"), peak("theirs")
    yield Row("peak memory, everything, 4000×3000", mine, other, "MB", AGAINST, 0.5, mine / other)
