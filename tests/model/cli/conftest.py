"""Weights and photos for the command line."""

import pytest
from PIL import Image

from model.weights.formats import native
from tests.reference.random_weights import photo
from tests.support.checkpoints import random_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a small random network, as a file."""
    return native.write(random_checkpoint(), tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def photos(tmp_path):
    """A directory with two photos, one of them in a directory of its own."""
    for index, name in enumerate(("photos/a.jpg", "photos/more/b.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(80, 120, index)).save(tmp_path / name)
    return tmp_path / "photos"
