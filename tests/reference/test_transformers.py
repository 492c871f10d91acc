"""A safetensors directory that transformers wrote gives the numbers of transformers' SamModel."""

import numpy as np
import pytest

from model import weights
from model.build import load_decoder, load_encoder
from model.transforms import normalize, preprocess
from tests.reference.prompts import prompt
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import tiny

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
SIZES = [(300, 400), (401, 299), (500, 4)]
KINDS = ["box", "whole_box", "point", "negative_point", "points", "box_and_points", "box_and_mask", "points_and_mask"]


@pytest.fixture(scope="module")
def theirs():
    from tests.reference.huggingface import build_model

    return build_model(tiny(), lively_tensors(tiny()))


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory):
    from tests.reference.huggingface import save

    return weights.read(save(theirs, tmp_path_factory.mktemp("sam-vit-tiny")))


@pytest.fixture(scope="module")
def ours(checkpoint):
    return load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")


def test_the_directory_is_recognised_with_all_it_can_do(checkpoint):
    assert checkpoint.format == "huggingface"
    assert checkpoint.capabilities == {"points", "negative_points", "boxes", "mask_input", "score"}
    expected = lively_tensors(tiny())
    assert set(checkpoint.tensors) == set(expected)
    assert all(np.array_equal(checkpoint.tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_embedding_logits_and_scores_are_those_of_transformers(theirs, ours, size, kind, multimask_output):
    from tests.reference.huggingface import predict

    encoder, decoder = ours
    prompt_of_kind, image = prompt(kind, size, tiny().low_res_size), photo(*size)
    resized = preprocess(image, tiny()).pixels
    pixels, input_size = normalize(resized, tiny()), resized.shape[:2]
    scale = np.array([input_size[1] / size[1], input_size[0] / size[0]])
    embedding, low_res, scores = predict(theirs, pixels, prompt_of_kind, scale, multimask_output)
    encoded = encoder.encode(image)
    assert np.abs(embedding).max() > 1
    assert np.abs(encoded.image_embedding - embedding).max() <= TOLERANCE
    answer = decoder.decode(encoded, prompt_of_kind, multimask_output)
    assert np.abs(low_res).max() > 1
    assert np.abs(answer.low_res_masks[0] - low_res).max() <= TOLERANCE
    assert np.abs(np.array(answer.iou_predictions[0]) - scores.clip(0, 1)).max() <= TOLERANCE
