"""``inference.yml``: what PaddleX reads of a model beside its program."""

from pathlib import Path

import yaml

from model.config import PIXEL_MEAN, PIXEL_STD
from model.weights.errors import WeightsError

_NULL = "tag:yaml.org,2002:null"


def image_size(path: Path) -> int | None:
    """Return the side of the square input in pixels, None where the file does not tell.

    Only what is asked for is made of the text: its aliases can stand for more than any memory holds.

    Raises:
        WeightsError: the file is no YAML, or its size is no number.
    """
    try:
        processor = _value(yaml.compose(path.read_bytes(), yaml.SafeLoader), "Processor")
        node = None if processor is None else _value(processor, "size")
        size = yaml.safe_load(node.value) if isinstance(node, yaml.ScalarNode) else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected a description of PaddleX (YAML), got other text") from error
    if node is not None and node.tag != _NULL and (not isinstance(size, int) or size < 1):
        raise WeightsError(f"{path}: expected Processor.size in pixels, got {_told(node)}")
    return size


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return what a mapping has under this key, None if nothing.

    Raises:
        ValueError: the node is no mapping.
    """
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("expected a mapping")
    found = [value for name, value in node.value if isinstance(name, yaml.ScalarNode) and name.value == key]
    return found[-1] if found else None


def _told(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r:.60}"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a sequence"


def write(path: Path, model_name: str, size: int) -> None:
    """Write the description of a SAM whose square input has ``size`` pixels a side."""
    described = {
        "Global": {"model_name": model_name},
        "Preprocess": [],
        "Processor": {"type": "SAMProcessor", "size": size, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)},
    }
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
