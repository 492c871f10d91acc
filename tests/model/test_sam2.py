"""SAM 2.1 from a photo to masks: every kind of prompt gets the answer of Meta's code."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

from model.build import load_decoder, load_encoder
from model.modeling.mask_decoder import STABILITY_DELTA, STABILITY_THRESHOLD, stable
from model.transforms import normalize, preprocess
from model.types import Embedding, Prompt
from model.weights import decoder_weights
from tests.reference.make_sam2_golden import GOLDEN, SIZE
from tests.reference.prompts import KINDS, blob, prompt
from tests.reference.random_weights import photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of
from tests.support.decoder_files import decoder_file
from tests.support.sam2_files import tiny_sam2

LOW = tiny_sam2().low_res_size
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def checkpoint():
    return checkpoint_of(tiny_sam2(), lively_sam2(tiny_sam2()))


@pytest.fixture(scope="module")
def decoder(checkpoint):
    return load_decoder(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def embedding(checkpoint):
    return load_encoder(checkpoint, device="cpu").encode(photo(*SIZE))


def agreement(masks: np.ndarray, others: np.ndarray) -> float:
    return np.count_nonzero(masks & others) / max(1, np.count_nonzero(masks | others))


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_that_of_metas_code(decoder, embedding, golden, kind, multimask_output):
    answer = decoder.decode(embedding, prompt(kind, SIZE, LOW), multimask_output)
    key = f"{kind}/{3 if multimask_output else 1}"
    expected = np.unpackbits(golden[f"{key}/masks"])[: len(answer.masks[0]) * SIZE[0] * SIZE[1]].astype(bool)
    masks = np.stack([mask.to_array() for mask in answer.masks[0]])
    assert np.abs(answer.low_res_masks[0] - golden[f"{key}/low_res"]).max() <= TOLERANCE
    assert np.abs(answer.iou_predictions[0] - golden[f"{key}/scores"]).max() <= 1e-5
    assert agreement(masks, expected.reshape(masks.shape)) >= 0.9999


def test_some_single_masks_of_the_golden_file_are_stable_and_others_are_not(golden):
    replaced = {kind: (golden[f"{kind}/3/low_res"] == golden[f"{kind}/1/low_res"]).all((1, 2)).any() for kind in KINDS}
    assert 0 < sum(replaced.values()) < len(KINDS)


def test_several_objects_at_once_get_the_answers_each_gets_alone(decoder, embedding):
    prompts = [prompt(kind, SIZE, LOW) for kind in KINDS]
    together = decoder.decode(embedding, prompts)
    for index, prompt_alone in enumerate(prompts):
        alone = decoder.decode(embedding, prompt_alone)
        np.testing.assert_allclose(together.low_res_masks[index], alone.low_res_masks[0], atol=1e-4)
        np.testing.assert_allclose(together.iou_predictions[index], alone.iou_predictions[0], atol=1e-5)


def test_boxes_of_one_batch_get_the_answers_each_gets_alone(decoder, embedding):
    """A GPU decodes prompts of one shape together; so does this."""
    x, y = 30.0, 20.0
    prompts = [Prompt(box=[x, y, x + 60 * n, y + 50 * n]) for n in (1, 2, 3)]
    in_one, decoder.batch_size = decoder.batch_size, 16
    try:
        together = decoder.decode(embedding, prompts)
    finally:
        decoder.batch_size = in_one
    for index, prompt_alone in enumerate(prompts):
        alone = decoder.decode(embedding, prompt_alone)
        np.testing.assert_allclose(together.low_res_masks[index], alone.low_res_masks[0], atol=1e-4)


def test_a_click_gets_the_best_of_three_by_predicted_iou(decoder, embedding):
    click = prompt("point", SIZE, LOW)
    all_three, best = decoder.decode(embedding, click, True), decoder.decode(embedding, click)
    index = int(np.argmax(all_three.iou_predictions[0]))
    np.testing.assert_array_equal(best.low_res_masks[0][0], all_three.low_res_masks[0][index])


def test_logits_are_cut_where_metas_code_cuts_them_and_serve_as_a_mask_input(decoder, embedding):
    loud = replace(embedding, further_maps={n: a * 30 for n, a in embedding.further_maps.items()})
    answer = decoder.decode(loud, prompt("box", SIZE, LOW), True)
    assert np.abs(answer.low_res_masks[0]).max() == 32
    decoder.decode(embedding, Prompt(box=[10, 10, 90, 90], mask_input=answer.low_res_masks[0][0]))


def test_a_drawn_mask_fills_the_whole_mask_input(decoder, embedding):
    """The photo fills the square, so that a drawing of its lower right corner is the mask input's, too."""
    drawn = np.zeros(SIZE, bool)
    drawn[SIZE[0] // 2 :, SIZE[1] // 2 :] = True
    logits = np.full((LOW, LOW), -8.0, np.float32)
    logits[LOW // 2 :, LOW // 2 :] = 8
    rough = decoder.decode(embedding, Prompt(rough_mask=drawn), True)
    expected = decoder.decode(embedding, Prompt(mask_input=logits), True)
    np.testing.assert_allclose(rough.low_res_masks[0], expected.low_res_masks[0], atol=0.05)


def test_the_decoder_reads_each_of_the_maps(decoder, embedding):
    box_prompt = prompt("box", SIZE, LOW)
    plain = decoder.decode(embedding, box_prompt, True).low_res_masks[0]
    for name in embedding.further_maps:
        maps = {**embedding.further_maps, name: 2 * embedding.further_maps[name]}
        other_logits = decoder.decode(replace(embedding, further_maps=maps), box_prompt, True).low_res_masks[0]
        assert np.abs(other_logits - plain).max() > 0.01, name


def test_an_embedding_of_sam_is_refused_in_one_sentence(decoder):
    foreign = Embedding(np.zeros((32, 8, 8), np.float32), SIZE, (128, 85), decoder.model_version)
    message = r"^embedding: expected one of a sam2 network, tiny_sam2@0+, got one of a sam network, tiny_sam2@0+$"
    with pytest.raises(ValueError, match=message):
        decoder.decode(foreign, prompt("box", SIZE, LOW))


def test_an_embedding_without_the_maps_of_higher_resolution_is_refused(decoder, embedding):
    bare = replace(embedding, further_maps={})
    with pytest.raises(ValueError, match=r"expected \(32, 8, 8\), high_res_feat_s0 \(4, 32, 32\), .* got \(32, 8, 8\)"):
        decoder.decode(bare, prompt("box", SIZE, LOW))


@pytest.mark.parametrize("size", [(1, 1), (5000, 40), (40, 5000), (128, 128), (300, 401)])
def test_a_photo_of_any_shape_fills_the_square_as_pillow_stretches_it(size):
    image = photo(*size)
    model_input = preprocess(image, tiny_sam2(128))
    assert (model_input.pixels.shape, model_input.original_size) == ((128, 128, 3), size)
    pixels = normalize(model_input.pixels, tiny_sam2(128))
    assert (pixels.shape, pixels.dtype) == ((3, 128, 128), np.float32)
    stretched = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR), np.float64)
    expected = (stretched / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(pixels, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5000, 40), (300, 401)])
def test_masks_have_the_shape_of_the_photo(checkpoint, decoder, size):
    embedding = load_encoder(checkpoint, device="cpu").encode(photo(*size))
    answer = decoder.decode(embedding, [prompt(kind, size, LOW) for kind in KINDS])
    assert all(mask.to_array().shape == size for row in answer.masks for mask in row)


def test_what_is_no_photo_is_refused():
    with pytest.raises(ValueError, match=r"image: expected uint8 RGB of shape \(H, W, 3\), got uint8 \(4, 4\)"):
        preprocess(np.zeros((4, 4), np.uint8), tiny_sam2(128))


@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_an_unstable_single_mask_gives_way_to_the_best_of_the_others(scale):
    random = np.random.RandomState(0)
    logits = scale * random.standard_normal((6, 4, 16, 16)).astype(np.float32)
    logits[0, 0] = -9  # nothing at either level: stable
    scores = random.uniform(size=(6, 4)).astype(np.float32)
    logits_chosen, ious = stable(paddle.to_tensor(logits), paddle.to_tensor(scores))
    for index in range(6):
        inner, outer = ((logits[index, 0] > level).sum() for level in (STABILITY_DELTA, -STABILITY_DELTA))
        is_stable = outer == 0 or inner / outer >= STABILITY_THRESHOLD
        chosen = 0 if is_stable else 1 + int(scores[index, 1:].argmax())
        np.testing.assert_array_equal(logits_chosen.numpy()[index, 0], logits[index, chosen])
        assert ious.numpy()[index, 0] == scores[index, chosen]


def test_a_mask_input_of_a_soft_disc_is_taken(decoder, embedding):
    assert decoder.decode(embedding, Prompt(mask_input=blob(LOW))).masks[0][0].to_array().shape == SIZE


def test_decoders_of_projects_that_take_turns_on_an_image_never_use_what_another_has_prepared(
    checkpoint, decoder, embedding, tmp_path
):
    tuned = []
    for seed in (1, 2):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(decoder_file(checkpoint, seed))
        tuned.append(load_decoder(decoder_weights.apply(checkpoint, decoder_weights.read(path)), device="cpu"))
    decoders = [decoder, *tuned]
    box_prompt = Prompt(box=[30, 20, 120, 90])
    resized = embedding.at_size((SIZE[0], SIZE[1] + 1))

    def alone(decoder):
        return decoder.decode(replace(resized), box_prompt).low_res_masks[0]  # a copy, beside which nothing is kept

    expected, start = [alone(decoder) for decoder in decoders], threading.Barrier(8)
    assert all(np.abs(expected[0] - other).max() > 0.1 for other in expected[1:])

    def take_turns(first):
        start.wait()
        order = [(first + turn) % 3 for turn in range(12)]
        return [(index, decoders[index].decode(resized, box_prompt).low_res_masks[0]) for index in order]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(take_turns, range(8)):
            for index, logits in answers:
                np.testing.assert_array_equal(logits, expected[index])
