"""With the same weights, our numbers are those of MobileSAM's authors, from the photo to the mask."""

import io

import numpy as np
import pytest
from PIL import Image

from model import load
from model.build import load_decoder, load_encoder
from model.config import mobile_sam
from tests.reference.meta import predict
from tests.reference.mobile import build_mobile, predictor
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import photo
from tests.support.mobile_files import published_state, read_published, tiny_mobile

pytestmark = pytest.mark.reference

EMBEDDING, LOGITS = 1e-4, 1e-3
"""Greatest differences: of the embedding as a share of its largest number, of the low-resolution logits as they are."""
SIZES = {
    "landscape": (300, 400),
    "portrait": (401, 299),
    "one pixel": (1, 1),
    "wide": (3, 600),
    "thin": (5000, 40),
    "large": (1500, 2000),
}


class Pair:
    """The same weights in the authors' code and, through a file that torch wrote, in ours."""

    def __init__(self, config, folder):
        import torch

        self.config = config
        self.sam = build_mobile(config, published_state(config))
        torch.save(self.sam.state_dict(), folder / "mobile_sam.pt")
        self.checkpoint = read_published(config, folder / "mobile_sam.pt")
        self.encoder, self.decoder = (make(self.checkpoint, device="cpu") for make in (load_encoder, load_decoder))
        self._seen = {}

    def see(self, size):
        """The photo of this size, encoded by both; once per size."""
        if size not in self._seen:
            image = photo(*size)
            self._seen[size] = predictor(self.sam, image), self.encoder.encode(image)
        return self._seen[size]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Pair(tiny_mobile(), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return Pair(mobile_sam(), tmp_path_factory.mktemp("published"))


def assert_same_embedding(theirs, ours):
    expected = theirs.features[0].numpy()
    scale = np.abs(expected).max()
    assert scale > 1  # there is something to compare
    assert ours.input_size == theirs.input_size
    assert np.abs(ours.image_embedding - expected).max() <= EMBEDDING * scale


def assert_same_answer(pair, size, kind, multimask_output):
    theirs, embedding = pair.see(size)
    prompt_of_kind = prompt(kind, size, pair.config.low_res_size)
    masks, scores, low_res = predict(theirs, prompt_of_kind, multimask_output)
    answer = pair.decoder.decode(embedding, prompt_of_kind, multimask_output)
    assert np.abs(answer.low_res_masks[0] - low_res).max() <= LOGITS
    assert np.abs(np.array(answer.iou_predictions[0]) - scores.clip(0, 1)).max() <= LOGITS
    for ours, expected in zip(answer.masks[0], masks, strict=True):  # in a small mask one pixel is more than a share
        union = np.count_nonzero(ours.to_array() | expected)
        wrong = np.count_nonzero(ours.to_array() ^ expected)
        assert wrong <= max(1, 1e-4 * union), f"IoU {1 - wrong / union:.6f}, {wrong} of {union} pixels differ"


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", ["small", "published"])
def test_photos_of_any_shape_are_embedded_as_by_the_authors_code(name, shape, request):
    assert_same_embedding(*request.getfixturevalue(name).see(SIZES[shape]))


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", ["small", "published"])
def test_every_kind_of_prompt_is_answered_as_by_the_authors_code(name, shape, kind, multimask_output, request):
    assert_same_answer(request.getfixturevalue(name), SIZES[shape], kind, multimask_output)


@pytest.mark.parametrize("name", ["small", "published"])
def test_a_photo_that_its_camera_turned_is_embedded_upright(name, request, tmp_path):
    pair, upright = request.getfixturevalue(name), photo(300, 200)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    content = io.BytesIO()
    turned.save(content, "PNG", exif=exif)
    path = tmp_path / "turned.png"
    path.write_bytes(content.getvalue())
    assert_same_embedding(predictor(pair.sam, upright), load(pair.checkpoint, device="cpu").encode(str(path)))


@pytest.mark.parametrize("name", ["small", "published"])
def test_the_masks_compared_are_neither_empty_nor_full(name, request):
    pair, size = request.getfixturevalue(name), SIZES["landscape"]
    _, embedding = pair.see(size)
    prompts = [prompt(kind, size, pair.config.low_res_size) for kind in KINDS]
    shares = [
        m.area / (size[0] * size[1]) for masks in pair.decoder.decode(embedding, prompts, True).masks for m in masks
    ]
    assert np.mean([0.02 < share < 0.98 for share in shares]) > 0.8, shares
