"""With the same weights, our numbers are those of Meta's code (segment-anything 1.0), from the photo to the mask."""

import numpy as np
import pytest

from model import weights
from model.build import load_decoder, load_encoder
from model.config import vit_b
from model.transforms import longest_side_size, mask_and_areas
from model.types import Embedding
from tests.reference import logit_maps
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import tiny

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
SIZES = {
    "landscape": (300, 400),
    "portrait": (401, 299),
    "square": (128, 128),
    "small": (7, 11),
    "wide": (3, 600),
    "tall": (500, 4),
    "large": (1500, 2000),
}


class Pair:
    """The same weights in Meta's code and, through a ``.pth`` file, in ours."""

    def __init__(self, config, folder):
        import torch

        from tests.reference.meta import build_sam

        self.config = config
        self.sam = build_sam(config, lively_tensors(config))
        path = folder / "sam_vit_random_0a1b2c.pth"
        torch.save(self.sam.state_dict(), path)
        checkpoint = weights.read(path)
        self.encoder, self.decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")
        self._seen = {}

    def see(self, size: tuple[int, int]):
        """The photo of this size, encoded by both; once per size."""
        from tests.reference.meta import predictor

        if size not in self._seen:
            image = photo(*size)
            self._seen[size] = predictor(self.sam, image), self.encoder.encode(image)
        return self._seen[size]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Pair(tiny(), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Pair(vit_b(), tmp_path_factory.mktemp("base"))


def assert_same_embedding(theirs, ours: Embedding):
    expected = theirs.features[0].numpy()
    assert np.abs(expected).max() > 1  # there is something to compare
    assert ours.input_size == theirs.input_size
    assert np.abs(ours.image_embedding - expected).max() <= TOLERANCE


def assert_same_answer(pair: Pair, size: tuple[int, int], kind: str, multimask_output: bool):
    from tests.reference.meta import predict

    theirs, embedding = pair.see(size)
    prompt_of_kind = prompt(kind, size, pair.config.low_res_size)
    masks, scores, low_res = predict(theirs, prompt_of_kind, multimask_output)
    answer = pair.decoder.decode(embedding, prompt_of_kind, multimask_output)
    assert np.abs(answer.low_res_masks[0] - low_res).max() <= TOLERANCE
    assert np.abs(np.array(answer.iou_predictions[0]) - scores.clip(0, 1)).max() <= TOLERANCE
    for ours, expected in zip(answer.masks[0], masks, strict=True):
        union = np.count_nonzero(ours.to_array() | expected)
        wrong = np.count_nonzero(ours.to_array() ^ expected)
        assert wrong <= 1e-4 * union, f"IoU {1 - wrong / union:.6f}, {wrong} of {union} pixels differ"


@pytest.mark.parametrize("shape", SIZES)
def test_a_small_network_embeds_photos_of_any_shape_as_metas_code_does(small, shape):
    assert_same_embedding(*small.see(SIZES[shape]))


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SIZES)
def test_a_small_network_answers_every_kind_of_prompt_as_metas_code_does(small, shape, kind, multimask_output):
    assert_same_answer(small, SIZES[shape], kind, multimask_output)


@pytest.mark.parametrize("size", [(600, 900), (1024, 20)])
def test_vit_b_at_1024_embeds_photos_as_metas_code_does(base, size):
    assert_same_embedding(*base.see(size))


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_vit_b_at_1024_answers_every_kind_of_prompt_as_metas_code_does(base, kind, multimask_output):
    assert_same_answer(base, (600, 900), kind, multimask_output)


@pytest.mark.parametrize("kind", logit_maps.KINDS)
def test_three_hundred_logit_maps_of_each_kind_give_metas_masks_to_the_pixel(kind):
    from tests.reference.meta import postprocess

    random = np.random.RandomState(7)
    for _ in range(300):
        low_res_size, ratio = random.choice([16, 32, 64, 256]), random.choice([2, 4])
        image_size = int(low_res_size * ratio)
        size = tuple(int(side) for side in np.exp(random.uniform(0, np.log(1200), 2)))
        logits = logit_maps.logit_map(kind, low_res_size, random)
        geometry = longest_side_size(size, image_size), size, image_size
        expected = postprocess(logits, *geometry) > 0
        np.testing.assert_array_equal(mask_and_areas(logits, *geometry)[0].to_array(), expected, err_msg=str(geometry))


@pytest.mark.parametrize("name", ["small", "base"])
def test_the_masks_compared_are_neither_empty_nor_full(name, request):
    pair, size = request.getfixturevalue(name), (600, 900) if name == "base" else (300, 400)
    _, embedding = pair.see(size)
    prompts = [prompt(kind, size, pair.config.low_res_size) for kind in KINDS]
    shares = [
        m.area / (size[0] * size[1]) for masks in pair.decoder.decode(embedding, prompts, True).masks for m in masks
    ]
    assert np.mean([0.02 < share < 0.98 for share in shares]) > 0.8, shares
