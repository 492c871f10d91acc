"""One encoder and decoder without state: every prompt, alone or among others, in any thread, gets its own answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from model.build import load_decoder
from model.decoder import GPU_BATCH, Decoder
from model.errors import CapabilityError
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint
from tests.reference.make_golden import GOLDEN, SIZE
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import photo

LOW = 32  # side of the small network's low-resolution logits
TOLERANCE = 1e-4  # of logits that reach ±20; one batch and another sum in another order


def point(x: float, y: float) -> Prompt:
    return Prompt(point_coords=[[x, y]], point_labels=[1])


def every_kind() -> list[Prompt]:
    return [prompt(kind, SIZE, LOW) for kind in KINDS]


def assert_equal(first: Masks, second: Masks, tolerance: float = TOLERANCE):
    assert len(first) == len(second)
    for a, b in zip(first.low_res_masks, second.low_res_masks, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
    for a, b in zip(first.iou_predictions, second.iou_predictions, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
    for row, other_row in zip(first.masks, second.masks, strict=True):
        for a, b in zip(row, other_row, strict=True):
            assert np.count_nonzero(a.to_array() ^ b.to_array()) <= 1e-4 * a.area


def without(checkpoint: Checkpoint, *prefixes: str) -> Decoder:
    """A decoder of a pruned export."""
    tensors = {name: value for name, value in checkpoint.tensors.items() if not name.startswith(prefixes)}
    pruned = Checkpoint(checkpoint.name, checkpoint.config, tensors, checkpoint.digest, "native", checkpoint.path)
    return load_decoder(pruned, device="cpu")


POINTS = ("prompt_encoder.point_embeddings.1.", "prompt_encoder.not_a_point_embed.")
NEGATIVE = "prompt_encoder.point_embeddings.0."
BOXES = ("prompt_encoder.point_embeddings.2.", "prompt_encoder.point_embeddings.3.")
MASK = "prompt_encoder.mask_downscaling."
SCORE = "mask_decoder.iou_prediction_head."


@pytest.mark.parametrize(("kind", "count"), [*((kind, 1) for kind in KINDS), ("point", 3), ("box", 3), ("mask", 3)])
def test_the_answer_is_that_of_metas_code(tiny_decoder, embedding, kind, count):
    golden = np.load(GOLDEN / "network.npz")
    answer = tiny_decoder.decode(embedding, prompt(kind, SIZE, LOW), multimask_output=count == 3)
    np.testing.assert_allclose(answer.low_res_masks[0], golden[f"{kind}/{count}/low_res"], atol=1e-4)
    np.testing.assert_allclose(answer.iou_predictions[0], golden[f"{kind}/{count}/scores"].clip(0, 1), atol=1e-4)
    shape = (count, *SIZE)
    expected = np.unpackbits(golden[f"{kind}/{count}/masks"], count=np.prod(shape)).reshape(shape).astype(bool)
    for ours, theirs in zip(answer.masks[0], expected, strict=True):
        assert np.count_nonzero(ours.to_array() ^ theirs) <= 1e-4 * np.count_nonzero(ours.to_array() | theirs)


def test_a_single_point_gets_the_best_of_three_by_predicted_iou(tiny_decoder, embedding):
    prompts = [point(x, y) for x in (20, 150, 280) for y in (20, 100, 180)]
    best, all_three = tiny_decoder.decode(embedding, prompts), tiny_decoder.decode(embedding, prompts, True)
    chosen = set()
    for index in range(len(prompts)):
        assert len(best.masks[index]) == 1
        winner = int(np.argmax(all_three.iou_predictions[index]))
        chosen.add(winner)
        assert best.iou_predictions[index] == (all_three.iou_predictions[index][winner],)
        np.testing.assert_array_equal(best.low_res_masks[index][0], all_three.low_res_masks[index][winner])
        np.testing.assert_array_equal(best.masks[index][0].to_array(), all_three.masks[index][winner].to_array())
    assert len(set(all_three.iou_predictions[0])) == 3  # there was a choice


def test_a_caller_can_make_something_else_of_the_logits(tiny_checkpoint, embedding):
    tensors = dict(tiny_checkpoint.tensors)
    tensors["mask_decoder.iou_prediction_head.layers.2.bias"] = np.float32([0, 1.5, 1.6, -1])
    decoder = load_decoder(replace(tiny_checkpoint, tensors=tensors), device="cpu")
    prompts = [point(20, 20), Prompt(box=[10, 10, 90, 80]), point(150, 100)]
    answer = decoder.decode(embedding, prompts, True)
    outcomes = decoder.decode_each(embedding, prompts, True, lambda index, logits, scores: (index, logits, scores))
    assert [index for index, _, _ in outcomes] == [0, 1, 2]
    for (_, logits, scores), low_res, clipped in zip(
        outcomes, answer.low_res_masks, answer.iou_predictions, strict=True
    ):
        np.testing.assert_array_equal(logits, low_res)
        assert scores.max() > 1  # as the network says it
        assert scores.min() < 0
        np.testing.assert_array_equal(scores.clip(0, 1), np.float32(clipped))
    mask, (higher, lower) = decoder.mask_and_areas(outcomes[1][1][0], embedding, (1.0, -1.0))
    np.testing.assert_array_equal(mask.to_array(), answer.masks[1][0].to_array())
    assert higher < mask.area < lower


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "point"])
def test_anything_else_gets_the_single_mask(tiny_decoder, embedding, kind):
    prompt_of_kind = prompt(kind, SIZE, LOW)
    assert_equal(
        tiny_decoder.decode(embedding, prompt_of_kind), tiny_decoder.decode(embedding, prompt_of_kind, False), 0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("multimask_output", "count"), [(True, 3), (False, 1), (None, 1)])
def test_each_prompt_gets_as_many_masks_scores_and_logits_as_asked_for(
    tiny_decoder, embedding, kind, multimask_output, count
):
    answer = tiny_decoder.decode(embedding, prompt(kind, SIZE, LOW), multimask_output)
    assert len(answer.masks[0]) == len(answer.iou_predictions[0]) == count
    assert answer.low_res_masks[0].shape == (count, LOW, LOW)
    assert all(mask.original_size == SIZE for mask in answer.masks[0])
    assert all(0 <= score <= 1 for score in answer.iou_predictions[0])


@pytest.mark.parametrize("multimask_output", [None, True, False])
def test_prompts_of_mixed_kinds_keep_their_order_and_get_the_answers_they_get_alone(
    tiny_decoder, embedding, multimask_output
):
    prompts = [*every_kind(), *reversed(every_kind()), point(10, 10), *every_kind()]
    together = tiny_decoder.decode(embedding, prompts, multimask_output)
    alone = [tiny_decoder.decode(embedding, prompt, multimask_output) for prompt in prompts]
    joined = Masks(
        tuple(answer.masks[0] for answer in alone),
        tuple(answer.iou_predictions[0] for answer in alone),
        tuple(answer.low_res_masks[0] for answer in alone),
    )
    assert_equal(together, joined)
    assert not np.allclose(together.low_res_masks[0], together.low_res_masks[1], atol=0.1)  # the prompts do matter


def test_more_prompts_than_fit_a_batch_are_all_answered(tiny_decoder, embedding):
    prompts = [Prompt(box=[x, 10, x + 90, 150]) for x in range(2 * GPU_BATCH + 3)]
    answer = tiny_decoder.decode(embedding, prompts)
    assert len(answer) == len(prompts)
    for index in (0, GPU_BATCH - 1, GPU_BATCH, 2 * GPU_BATCH + 2):
        alone = tiny_decoder.decode(embedding, prompts[index])
        np.testing.assert_allclose(answer.low_res_masks[index], alone.low_res_masks[0], atol=TOLERANCE)


def test_low_resolution_logits_go_back_in_as_a_mask_input(tiny_decoder, embedding):
    first = tiny_decoder.decode(embedding, point(100, 80))
    refined = tiny_decoder.decode(embedding, Prompt(box=[60, 40, 160, 120], mask_input=first.low_res_masks[0][0]))
    unaided = tiny_decoder.decode(embedding, Prompt(box=[60, 40, 160, 120]))
    assert np.abs(refined.low_res_masks[0] - unaided.low_res_masks[0]).max() > 0.1


def test_a_rough_mask_is_a_mask_input_drawn_on_the_photo(tiny_decoder, embedding):
    drawn = np.zeros(SIZE, dtype=bool)
    drawn[50:120, 60:200] = True
    shifted = np.roll(drawn, 80, axis=1)
    answers = tiny_decoder.decode(embedding, [Prompt(rough_mask=drawn), Prompt(rough_mask=shifted)])
    assert np.abs(answers.low_res_masks[0] - answers.low_res_masks[1]).max() > 0.1


def test_a_rough_mask_of_another_photo_is_refused(tiny_decoder, embedding):
    with pytest.raises(ValueError, match=r"rough_mask: expected the photo's size \(200, 300\), got \(200, 301\)"):
        tiny_decoder.decode(embedding, Prompt(rough_mask=np.ones((200, 301), dtype=bool)))


def test_a_mask_input_of_wrong_size_is_refused(tiny_decoder, embedding):
    with pytest.raises(ValueError, match=r"mask_input: expected shape \(32, 32\), got \(256, 256\)"):
        tiny_decoder.decode(embedding, Prompt(mask_input=np.zeros((256, 256))))


def test_no_prompt_at_all_is_refused(tiny_decoder, embedding):
    with pytest.raises(ValueError, match="prompts: expected at least one, got none"):
        tiny_decoder.decode(embedding, [])


@pytest.mark.parametrize("change", ["model_version", "shape"])
def test_an_embedding_of_another_model_is_refused_with_both_names(tiny_decoder, embedding, change):
    version, array = embedding.model_version, embedding.image_embedding
    if change == "model_version":
        version = "other@12345678"
    else:
        array = array[:, :4]
    foreign = Embedding(array, embedding.original_size, embedding.input_size, version)
    with pytest.raises(ValueError, match=rf"expected \(32, 8, 8\) made by tiny@00000000, got .* made by {version}"):
        tiny_decoder.decode(foreign, point(1, 1))


def test_an_embedding_of_another_family_of_networks_is_refused_in_one_sentence(tiny_decoder, embedding):
    foreign = replace(embedding, family="sam2")
    with pytest.raises(ValueError, match=r"^embedding: expected one of a sam network, .*, got one of a sam2 network, "):
        tiny_decoder.decode(foreign, point(1, 1))


def test_a_float16_embedding_gives_nearly_the_same_masks(tiny_decoder, embedding):
    half = Embedding(
        embedding.image_embedding.astype(np.float16),
        embedding.original_size,
        embedding.input_size,
        embedding.model_version,
    )
    exact, rough = (tiny_decoder.decode(each, every_kind()) for each in (embedding, half))
    for a, b in zip(exact.masks, rough.masks, strict=True):
        pixels = a[0].to_array(), b[0].to_array()
        assert np.count_nonzero(pixels[0] & pixels[1]) > 0.97 * np.count_nonzero(pixels[0] | pixels[1])


@pytest.mark.parametrize(
    ("pruned", "kind", "lacking"),
    [
        (POINTS, "point", "points"),
        ((NEGATIVE,), "points", "negative points"),
        ((NEGATIVE,), "negative_point", "negative points"),
        (BOXES, "box", "boxes"),
        (BOXES, "box_and_points", "boxes"),
        ((MASK,), "mask", "mask input"),
    ],
)
def test_weights_that_lack_what_a_prompt_needs_say_so(tiny_checkpoint, embedding, pruned, kind, lacking):
    decoder = without(tiny_checkpoint, *pruned)
    with pytest.raises(CapabilityError, match=f"tiny@00000000 cannot take {lacking}: expected one of "):
        decoder.decode(embedding, prompt(kind, SIZE, LOW))


def test_weights_for_boxes_alone_answer_boxes_as_the_whole_do(tiny_checkpoint, tiny_decoder, embedding):
    decoder = without(tiny_checkpoint, *POINTS, NEGATIVE, MASK)
    box_prompt = prompt("box", SIZE, LOW)
    assert_equal(decoder.decode(embedding, box_prompt), tiny_decoder.decode(embedding, box_prompt), 0)


def test_without_a_score_head_there_are_no_scores_and_a_point_gets_the_single_mask(
    tiny_checkpoint, tiny_decoder, embedding
):
    answer = without(tiny_checkpoint, SCORE).decode(embedding, point(100, 80))
    assert answer.iou_predictions is None
    single = tiny_decoder.decode(embedding, point(100, 80), multimask_output=False)
    np.testing.assert_array_equal(answer.low_res_masks[0], single.low_res_masks[0])


def test_an_encoded_photo_remembers_its_size_and_its_model(embedding):
    assert embedding.original_size == SIZE
    assert embedding.input_size == (85, 128)
    assert embedding.model_version == "tiny@00000000"
    assert embedding.image_embedding.shape == (32, 8, 8)


def test_what_an_embedding_determines_is_kept_beside_it_for_the_next_prompt_and_for_a_copy_of_another_size(
    tiny_encoder, tiny_decoder
):
    embedding = tiny_encoder.encode(photo(*SIZE))
    own_bytes, box_prompt = embedding.nbytes, Prompt(box=[10, 10, 90, 80])
    first = tiny_decoder.decode(embedding, box_prompt).low_res_masks[0]
    assert (prepared := embedding.prepared.get(tiny_decoder.model_version)) is not None
    assert embedding.nbytes == own_bytes + sum(array.nbytes for array in prepared) == own_bytes + 4 * 8 * 8 * 32
    np.testing.assert_array_equal(tiny_decoder.decode(embedding, box_prompt).low_res_masks[0], first)
    copy = embedding.at_size((2 * SIZE[0], 2 * SIZE[1]))
    tiny_decoder.decode(copy, Prompt(box=[20, 20, 180, 160]))
    assert copy.prepared.get(tiny_decoder.model_version) is prepared
    assert copy.prepared.get("another@00000000") is None
    tiny_decoder.decode(
        embedding, Prompt(mask_input=np.ones((LOW, LOW), np.float32))
    )  # adds its own map to what is kept
    np.testing.assert_array_equal(tiny_decoder.decode(embedding, box_prompt).low_res_masks[0], first)


def test_a_small_network_answers_one_prompt_in_the_callers_thread(tiny_checkpoint, embedding):
    decoder, before = load_decoder(tiny_checkpoint, device="cpu"), set(threading.enumerate())
    decoder.decode(embedding, Prompt(box=np.array([10, 10, 100, 100])))
    assert not set(threading.enumerate()) - before


def test_sixteen_threads_on_eight_photos_each_get_the_answer_of_one_thread_alone(tiny_encoder, tiny_decoder):
    photos = [photo(120 + 10 * i, 200 - 12 * i, seed=i) for i in range(8)]

    def answer(index: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        embedding = tiny_encoder.encode(photos[index])
        prompts = [prompt(kind, embedding.original_size, LOW) for kind in KINDS]
        masks = tiny_decoder.decode(embedding, prompts)
        full = [mask.to_array() for row in masks.masks for mask in row]
        return embedding.image_embedding, list(masks.low_res_masks), full

    expected = [answer(index) for index in range(8)]
    with ThreadPoolExecutor(16) as pool:
        order = [(8 * turn + thread) % 8 for turn in range(3) for thread in range(16)]
        for index, (embedding, low_res, full) in zip(order, pool.map(answer, order), strict=True):
            np.testing.assert_array_equal(embedding, expected[index][0])
            for actual, want in zip(low_res + full, expected[index][1] + expected[index][2], strict=True):
                np.testing.assert_array_equal(actual, want)
