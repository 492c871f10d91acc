"""From an image file to the network's input: what the publishers' own code makes of the whole upright image."""

import io
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageOps

from backend.images.decode import PixelLimits, decode
from model.config import mobile_sam, sam2_1_hiera_tiny
from model.transforms import normalize, preprocess
from tests.reference.random_weights import photo
from tests.reference.torchvision_stand_in import torchvision_stand_in
from tests.support.orientation_files import exif_bytes

pytestmark = pytest.mark.reference

SIZES = [(1, 1), (5000, 40), (40, 5000), (130, 97), (3000, 4000)]
UNTURNED, TURNED = 1, 6
FILES = [*((size, UNTURNED, "PNG") for size in SIZES), ((3000, 4000), TURNED, "JPEG"), ((40, 3000), TURNED, "PNG")]


def write(size, turn, kind) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(*size)).save(stream, kind, exif=exif_bytes(turn), compress_level=1)
    return stream.getvalue()


def network_input(data, config):
    """(3, S, S) that the service's decoder and this network's preprocessing make of a file."""
    picture = decode(data, PixelLimits(model_side=config.image_size, keeps_shape=config.keeps_shape))
    resized = replace(preprocess(picture.pixels, config), original_size=picture.original_size)
    return normalize(resized.pixels, config), resized.pixels.shape[:2]


def upright(data) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize(("size", "turn", "kind"), FILES)
def test_a_file_becomes_what_metas_transforms_make_of_it_for_sam_and_mobile_sam(size, turn, kind):
    with torchvision_stand_in():
        from segment_anything.utils.transforms import ResizeLongestSide

    config, data = mobile_sam(), write(size, turn, kind)
    ours, (height, width) = network_input(data, config)
    theirs = ResizeLongestSide(config.image_size).apply_image(upright(data))
    assert theirs.shape == (height, width, 3)
    mean, deviation = (
        np.array(values)[:, None, None] for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    assert np.abs(ours[:, :height, :width] * deviation + mean - theirs.transpose(2, 0, 1)).max() <= 1 + 1e-3
    assert not ours[:, height:].any()
    assert not ours[:, :, width:].any()


@pytest.mark.skipif(
    find_spec("sam2") is None, reason="sam2 is not installed; see tests/reference/requirements-sam2.txt"
)
@pytest.mark.parametrize(("size", "turn", "kind"), FILES)
def test_a_file_becomes_what_metas_transforms_make_of_it_for_sam_2(size, turn, kind):
    from tests.reference.sam2_meta import importing

    with importing():
        from sam2.utils.transforms import SAM2Transforms

        transform = SAM2Transforms(1024, 0.0)
    config, data = sam2_1_hiera_tiny(), write(size, turn, kind)
    ours, input_size = network_input(data, config)
    theirs = transform(upright(data)).numpy()
    assert input_size == (config.image_size, config.image_size)
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    assert np.abs((ours - theirs) * deviation).max() <= (1 + 1e-3) / 255
