"""The mask decoder's shortcuts give the numbers of the plain computation, for one prompt and for many at once."""

import sys
from collections import Counter

import numpy as np
import paddle
import pytest
from paddle import nn

from model.device import ThreadPool
from model.modeling import blas, onednn
from model.modeling import tokens as few
from model.modeling.image_encoder import Sequential
from model.modeling.mask_decoder import MaskDecoder
from model.modeling.transformer import Attention
from tests.support.checkpoints import random_tensors, tiny


def random_layer(layer: nn.Layer, seed: int = 0) -> nn.Layer:
    random = np.random.RandomState(seed)
    for parameter in layer.parameters():
        parameter.set_value((0.3 * random.standard_normal(parameter.shape)).astype(np.float32))
    return layer


def filled(decoder: MaskDecoder) -> MaskDecoder:
    tensors = random_tensors(tiny())
    for name, parameter in decoder.named_parameters():
        parameter.set_value(tensors[f"mask_decoder.{name}"])
    return decoder


def tokens(batch: int, count: int, width: int, seed: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(seed).standard_normal((batch, count, width)).astype(np.float32))


@pytest.mark.parametrize(("batch", "image_batch"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_attention_with_moved_projections_is_plain_attention(batch, image_batch, count):
    attention = random_layer(Attention(32, 4, 2))
    prompt, other = tokens(batch, count, 32, 1), tokens(batch, count, 32, 2)
    image, image_value = tokens(image_batch, 50, 32, 3), tokens(image_batch, 50, 32, 4)
    whole, whole_value = image.expand([batch, 50, 32]), image_value.expand([batch, 50, 32])
    np.testing.assert_allclose(
        attention.to_image(prompt, image, image_value).numpy(),
        attention(prompt, whole, whole_value).numpy(),
        atol=2e-5,
    )
    np.testing.assert_allclose(
        attention.from_image(image, prompt, other).numpy(), attention(whole, prompt, other).numpy(), atol=2e-5
    )


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_heads: expected a divisor of 32, got 5"):
        Attention(32, 5)


@pytest.mark.parametrize("has_own_images", [False, True])
def test_a_batch_of_prompts_gets_the_answers_each_gets_alone(has_own_images):
    config = tiny()
    decoder = filled(MaskDecoder(config))
    sparse, image_pe = tokens(3, 2, 32, 1), tokens(1, 64, 32, 2)
    image = tokens(3 if has_own_images else 1, 64, 32, 3)
    logits, scores = decoder(image, image_pe, sparse, [0, 1, 2, 3])
    assert logits.shape == [3, 4, 32, 32]
    for index in range(3):
        own = image[index : index + 1] if has_own_images else image
        alone, alone_scores = decoder(own, image_pe, sparse[index : index + 1], [0, 1, 2, 3])
        np.testing.assert_allclose(logits[index].numpy(), alone[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(scores[index].numpy(), alone_scores[0].numpy(), atol=1e-4)
    assert not np.allclose(logits[0].numpy(), logits[1].numpy(), atol=1e-2)


@pytest.mark.parametrize("size", [1, 100])  # scores of some, and of more than float32 holds the exponentials of
@pytest.mark.parametrize("parallel", [ThreadPool(2), ThreadPool(3), Sequential(4), ThreadPool(9)])
def test_an_image_in_parts_gives_the_numbers_of_the_whole(parallel, size):
    decoder = filled(MaskDecoder(tiny()))
    image, dense = tokens(1, 64, 32, 3) * size, tokens(1, 1, 32, 4)
    sparse, image_pe = tokens(1, 2, 32, 1), tokens(1, 64, 32, 2)
    whole, scores = decoder(image + dense, image_pe, sparse, [0, 1])
    logits, scores_in_parts = decoder(image, image_pe, sparse, [0, 1], dense=dense, parallel=parallel)
    assert np.abs(whole.numpy()).max() > 0.1
    np.testing.assert_allclose(logits.numpy(), whole.numpy(), atol=1e-4 * np.abs(whole.numpy()).max())
    np.testing.assert_allclose(scores_in_parts.numpy(), scores.numpy(), atol=1e-4)


def test_the_same_parts_in_one_thread_give_the_same_numbers_to_the_bit():
    decoder, config = filled(MaskDecoder(tiny())), tiny()
    image, sparse, image_pe = tokens(1, 64, 32, 3), tokens(1, 2, 32, 1), tokens(1, 64, 32, 2)
    dense = tokens(1, config.embedding_size**2, 32, 4)
    outputs = [
        decoder(image, image_pe, sparse, [0], dense=dense, parallel=p)[0] for p in (ThreadPool(3), Sequential(3))
    ]
    np.testing.assert_array_equal(outputs[0].numpy(), outputs[1].numpy())


def test_a_prompt_costs_few_calls_in_python_which_take_longer_than_its_products():
    decoder = filled(MaskDecoder(tiny()))
    image, dense = tokens(1, 64, 32, 3), tokens(1, 1, 32, 4)
    sparse, image_pe = tokens(1, 2, 32, 1), tokens(1, 64, 32, 2)
    decoder(image, image_pe, sparse, [1, 2, 3], dense=dense)  # what the first call alone does is not counted
    events: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: events.update([event]))
    try:
        decoder(image, image_pe, sparse, [1, 2, 3], dense=dense)
    finally:
        sys.setprofile(None)
    assert events["call"] < 1000


def test_numpy_gives_the_numbers_that_paddle_gives_where_parameters_are_in_training():
    decoder = filled(MaskDecoder(tiny()))
    image, sparse, image_pe = tokens(1, 64, 32, 3), tokens(1, 2, 32, 1), tokens(1, 64, 32, 2)
    dense = tokens(1, 1, 32, 4)
    logits, scores = decoder(image, image_pe, sparse, [0, 1, 2], dense=dense)
    for parameter in decoder.parameters():
        parameter.stop_gradient = False
    trained, trained_scores = decoder(image, image_pe, sparse, [0, 1, 2], dense=dense)
    assert not trained.stop_gradient
    np.testing.assert_allclose(logits.numpy(), trained.numpy(), atol=1e-4 * np.abs(trained.numpy()).max())
    np.testing.assert_allclose(scores.numpy(), trained_scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("lacks_blas", [False, True])
@pytest.mark.parametrize("lacks_onednn", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_numpy_alone_gives_the_numbers_of_mkl_and_onednn(batch, lacks_onednn, lacks_blas, monkeypatch):
    decoder = filled(MaskDecoder(tiny()))
    image, sparse, image_pe = (tokens(*shape).numpy() for shape in ((1, 64, 32, 3), (batch, 2, 32, 1), (1, 64, 32, 2)))
    arguments, dense = (image * 100, image_pe, sparse, [0, 1]), tokens(1, 64, 32, 4).numpy()
    monkeypatch.setattr(few, "LARGE", 1)
    logits, scores = decoder(*arguments, dense=dense)
    if lacks_onednn:
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    if lacks_blas:
        monkeypatch.setattr(blas, "sgemm", lambda: None)
    else:
        monkeypatch.setattr(few, "LARGE", 1 << 30)
    others, other_scores = decoder(*arguments, dense=dense)
    np.testing.assert_allclose(others, logits, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(other_scores, scores, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 64])
def test_arrays_give_arrays_with_the_numbers_of_tensors_and_stay_as_they_are(rows):
    decoder = filled(MaskDecoder(tiny()))
    tensors = [tokens(1, 64, 32, 3), tokens(1, 64, 32, 2), tokens(3, 2, 32, 1), tokens(1, rows, 32, 4)]
    arrays, copies = ([tensor.numpy() for tensor in tensors] for _ in range(2))
    logits, scores = decoder(*arrays[:3], [0, 2, 3], dense=arrays[3])
    expected, expected_scores = decoder(*tensors[:3], [0, 2, 3], dense=tensors[3])
    assert isinstance(logits, np.ndarray)
    assert isinstance(scores, np.ndarray)
    np.testing.assert_array_equal(logits, expected.numpy())
    np.testing.assert_array_equal(scores, expected_scores.numpy())
    for copy, array, tensor in zip(copies, arrays, tensors, strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(tensor.numpy(), copy)


def test_what_takes_gradients_is_never_the_memory_of_an_array_which_paddle_frees_without_the_gil(monkeypatch):
    decoder = filled(MaskDecoder(tiny()))
    for parameter in decoder.parameters():
        parameter.stop_gradient = False
    arrays = [tokens(*shape).numpy() for shape in ((1, 64, 32, 3), (1, 64, 32, 2), (3, 2, 32, 1), (1, 64, 32, 4))]
    monkeypatch.setattr(few, "tensor", lambda values: pytest.fail("shared with Paddle"))
    logits, scores = decoder(*arrays[:3], [0, 1], dense=arrays[3])
    (logits.mean() + scores.mean()).backward()
    assert np.abs(decoder.mask_tokens.weight.grad.numpy()).max() > 0


def test_a_parameter_that_changes_counts_in_the_next_decode():
    decoder, changed = filled(MaskDecoder(tiny())), filled(MaskDecoder(tiny()))
    image, sparse, image_pe = tokens(1, 64, 32, 3), tokens(1, 2, 32, 1), tokens(1, 64, 32, 2)
    changed(image, image_pe, sparse, [0])
    for own, others in zip(changed.parameters(), decoder.parameters(), strict=True):
        own.set_value(others.numpy() * np.float32(0.9))
        others.set_value(own.numpy())
    expected, scores = decoder(image, image_pe, sparse, [0])
    logits, changed_scores = changed(image, image_pe, sparse, [0])
    np.testing.assert_array_equal(logits.numpy(), expected.numpy())
    np.testing.assert_array_equal(changed_scores.numpy(), scores.numpy())
