"""The most memory that ViT-B takes: load, encode a photo, decode a box, in a fresh process."""

import tempfile
from pathlib import Path

from model.weights.formats import native
from tests.benchmarks import subjects
from tests.benchmarks.peak_memory import measure
from tests.benchmarks.rows import Row, limit

LIMIT_MB = 2500.0


def run() -> list[Row]:
    """Compare the peak with the limit."""
    with tempfile.TemporaryDirectory() as folder:
        path = native.write(subjects.checkpoint(), Path(folder, "vit_b.safetensors"))
        return [limit("peak memory, ViT-B at 1024", measure(path, "answer") / 1e6, LIMIT_MB, "MB")]
