"""The largest network loads within its own size and one gigabyte more."""

import json

import numpy as np
import pytest

from model.config import vit_h
from model.weights import parameters
from model.weights.formats.native import FORMAT
from tests.benchmarks.peak_memory import measure


def write_vit_h(path):
    """A file of ViT-H's 2.5 GB, its numbers small and random, written without holding them."""
    shapes, header, offset = parameters.parameters(vit_h()), {}, 0
    header["__metadata__"] = {"format": FORMAT, "config": vit_h().to_json()}
    for name, shape in shapes.items():
        end = offset + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            (random.random(shape, dtype=np.float32) * 0.01).tofile(stream)
    return path


@pytest.mark.slow
def test_vit_h_loads_within_its_own_size_and_a_gigabyte(tmp_path):
    path = write_vit_h(tmp_path / "vit_h.safetensors")
    size = path.stat().st_size
    assert size > 2.4e9
    try:
        assert measure(path, "load") <= size + 1e9
    finally:
        path.unlink()
