"""``inference.yml``: what PaddleX reads of a model beside its program."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from model.config import PIXEL_MEAN, PIXEL_STD, SamConfig
from model.weights.errors import WeightsError

_NULL = "tag:yaml.org,2002:null"
_OURS = "PaddleSAM"
"""A section that PaddleX does not read: what neither program nor parameters show, such as numbers of heads."""


@dataclass(frozen=True)
class Description:
    """What the file says.

    Attributes:
        image_size: side of the square input in pixels, None where it does not tell.
        model_name: what PaddleX calls the model, such as ``SAM-H_box``; None where it does not tell.
        config: the network's sizes, where our own `write` made the file.
    """

    image_size: int | None = None
    model_name: str | None = None
    config: SamConfig | None = None


def read(path: Path) -> Description:
    """Read the file, if it is there.

    Only the requested values are built from the text: its aliases can stand for more than any memory holds.

    Raises:
        WeightsError: the file is no YAML, its size is no number, or its configuration is that of no network.
    """
    if not path.is_file():
        return Description()
    try:
        root = yaml.compose(path.read_bytes(), yaml.SafeLoader)
        node, name, config = (_scalar(root, *keys) for keys in (
            ("Processor", "size"), ("Global", "model_name"), (_OURS, "config"),
        ))  # fmt: skip
        size = yaml.safe_load(node.value) if isinstance(node, yaml.ScalarNode) else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected a description of PaddleX (YAML), got other text") from error
    if node is not None and node.tag != _NULL and (not isinstance(size, int) or size < 1):
        raise WeightsError(f"{path}: expected Processor.size in pixels, got {_shown(node)}")
    try:
        parsed = SamConfig.from_json(config.value) if isinstance(config, yaml.ScalarNode) else None
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Description(size, name.value if isinstance(name, yaml.ScalarNode) else None, parsed)


def _scalar(root: yaml.Node | None, section: str, key: str) -> yaml.Node | None:
    """Return what lies under a key of a section, None if nothing.

    Raises:
        ValueError: one of the two is no mapping.
    """
    node = _value(root, section)
    return None if node is None or node.tag == _NULL else _value(node, key)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return what a mapping has under this key, None if nothing.

    Raises:
        ValueError: the node is no mapping.
    """
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("expected a mapping")
    values = [value for name, value in node.value if isinstance(name, yaml.ScalarNode) and name.value == key]
    return values[-1] if values else None


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r:.60}"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a sequence"


def write(path: Path, model_name: str, config: SamConfig) -> None:
    """Write the description of a network; ``model_name`` is what PaddleX calls it."""
    size = config.image_size
    described = {
        "Global": {"model_name": model_name},
        "Preprocess": [],
        "Processor": {"type": "SAMProcessor", "size": size, "mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)},
        _OURS: {"config": config.to_json()},
    }
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
