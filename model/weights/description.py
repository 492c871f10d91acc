"""``inference.yml``: what PaddleX reads of a model beside its program."""

from pathlib import Path

import yaml

from model.config import PIXEL_MEAN, PIXEL_STD
from model.weights.errors import WeightsError


def image_size(path: Path) -> int | None:
    """Return the side of the square input in pixels, None where the file does not tell.

    Raises:
        WeightsError: the file is no YAML, or its size is no number.
    """
    try:
        described = yaml.safe_load(path.read_bytes())
        size = described.get("Processor", {}).get("size")
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: expected a description of PaddleX (YAML), got other text") from error
    if size is not None and (not isinstance(size, int) or size < 1):
        raise WeightsError(f"{path}: expected Processor.size in pixels, got {size!r:.60}")
    return size


def write(path: Path, model_name: str, size: int) -> None:
    """Write the description of a SAM whose square input has ``size`` pixels a side."""
    described = {
        "Global": {"model_name": model_name},
        "Preprocess": [],
        "Processor": {"type": "SAMProcessor", "size": size, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)},
    }
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
