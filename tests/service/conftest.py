"""What tests of the whole service share."""

import pytest

from backend.composition import parts, web
from backend.settings import read


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The service as it ships, demo model and all."""
    folder = tmp_path_factory.mktemp("cache")
    chosen = read({"PADDLE_SAM_CACHE_DIR": str(folder), "PADDLE_SAM_DEVICE": "cpu"})
    service = web.build(chosen, parts.read_weights(chosen))
    yield service
    service.close()
