"""The image encoder gives the same numbers however its work is cut, on whichever path."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from model.config import SamConfig, VitConfig, demo
from model.device import ThreadPool
from model.modeling import attention, image_encoder, kernels
from model.modeling.attention import fused_attention
from model.modeling.image_encoder import Attention, ImageEncoderViT, Sequential
from tests.reference.make_golden import GOLDEN
from tests.support.checkpoints import random_tensors, tiny

WINDOW_FITS = SamConfig("fits", VitConfig(32, 2, 2, (1,), window_size=4), 128, prompt_embed_dim=32)
ONE_HEAD = SamConfig("one-head", VitConfig(24, 2, 1, (0,), window_size=5), 96, prompt_embed_dim=16)
ONLY_GLOBAL = SamConfig("only-global", VitConfig(32, 2, 4, (0, 1), window_size=14), 64, prompt_embed_dim=32)


def network(config: SamConfig, parallel) -> ImageEncoderViT:
    encoder = ImageEncoderViT(config, parallel)
    tensors = random_tensors(config)
    for name, parameter in encoder.named_parameters():
        parameter.set_value(tensors[f"image_encoder.{name}"])
    return encoder


def pixels(config: SamConfig, batch: int = 1) -> paddle.Tensor:
    values = np.random.RandomState(0).standard_normal((batch, 3, config.image_size, config.image_size))
    return paddle.to_tensor(values.astype(np.float32))


def test_the_embedding_is_that_of_metas_code(embedding):
    expected = np.load(GOLDEN / "network.npz")["embedding"]
    np.testing.assert_allclose(embedding.image_embedding, expected, atol=1e-4)


@pytest.mark.parametrize(
    "config", [tiny(), tiny(256), WINDOW_FITS, ONE_HEAD, ONLY_GLOBAL], ids=lambda c: f"{c.name}-{c.image_size}"
)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_threads_give_the_numbers_of_one_thread(config, parts):
    x = pixels(config)
    expected = network(config, Sequential())(x).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(network(config, ThreadPool(parts))(x).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("config", [tiny(), WINDOW_FITS, ONE_HEAD], ids=lambda c: c.name)
def test_paddles_own_kernels_which_a_gpu_runs_give_the_same_numbers(config, monkeypatch):
    x = pixels(config)
    expected = network(config, Sequential())(x).numpy()
    for module in (kernels, attention, image_encoder):
        monkeypatch.setattr(module, "is_on_cpu", lambda *tensors: False)
    np.testing.assert_allclose(network(config, Sequential())(x).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("parallel", [Sequential(), ThreadPool(2)], ids=["one thread", "two threads"])
def test_a_batch_gives_the_numbers_of_its_images_alone(parallel):
    config = tiny()
    encoder, x = network(config, parallel), pixels(config, 3)
    alone = np.concatenate([encoder(x[i : i + 1]).numpy() for i in range(3)])
    np.testing.assert_allclose(encoder(x).numpy(), alone, atol=1e-5)


def test_the_gpus_attention_is_a_plain_softmax_attention():
    random = np.random.RandomState(0)
    query, key = (paddle.to_tensor(random.standard_normal((3, 20, 24)).astype(np.float32)) for _ in range(2))
    value = paddle.to_tensor(random.standard_normal((3, 20, 8)).astype(np.float32))
    expected = paddle.matmul(functional.softmax(paddle.matmul(query, key, transpose_y=True)), value)
    np.testing.assert_allclose(fused_attention(query, key, value).numpy(), expected.numpy(), atol=1e-5)
    wide = paddle.concat([value, value, value], axis=-1)  # as wide as query and key: nothing to pad
    expected = paddle.concat([expected, expected, expected], axis=-1)
    np.testing.assert_allclose(fused_attention(query, key, wide).numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("most_keys", [6, 256])
@pytest.mark.parametrize("scores_at_once", [1, 12, 60, 144, 1000])
def test_attention_adds_the_decomposed_relative_position_of_the_paper(scores_at_once, most_keys, monkeypatch):
    """Each score is q·k·d**-0.5 + q·Rh[row distance] + q·Rw[column distance] (ViTDet, appendix; Li et al. 2022)."""
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr(attention, "GRID_SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr(image_encoder, "MOST_KEYS", most_keys)
    height, width, dim = 3, 4, 8
    subject = Attention(dim, 1, (height, width))
    random = np.random.RandomState(0)
    for parameter in subject.parameters():
        parameter.set_value(random.standard_normal(parameter.shape).astype(np.float32))
    q, k, v = random.standard_normal((3, height * width, dim)).astype(np.float32)
    rel_h, rel_w = subject.rel_pos_h.numpy(), subject.rel_pos_w.numpy()
    expected = np.zeros((height * width, dim))
    for i in range(height * width):
        scores = np.zeros(height * width)
        for j in range(height * width):
            rows, columns = i // width - j // width + height - 1, i % width - j % width + width - 1
            scores[j] = q[i] @ k[j] * dim**-0.5 + q[i] @ rel_h[rows] + q[i] @ rel_w[columns]
        weights = np.exp(scores - scores.max())
        expected[i] = weights @ v / weights.sum()
    qkv = paddle.to_tensor(np.stack([q, k, v])[:, None])  # (3, 1, h*w, d)
    output = subject.attend(qkv, *subject.relative_positions(), subject.position_keys())
    np.testing.assert_allclose(output[0].numpy(), expected, atol=1e-4)


@pytest.mark.timeout(60)
def test_a_tensor_may_be_freed_whose_memory_came_from_a_tensor_of_numpys():
    first = kernels.permute(paddle.ones([2, 3, 4]), [1, 0, 2])
    second = kernels.permute(first.unsqueeze(0), [1, 0, 2, 3])  # in the same order in memory
    del first
    expected = second.numpy()
    del second  # Paddle would wait for itself here
    assert (expected == 1).all()


def test_scores_whose_exponentials_float32_cannot_hold_give_the_same_attention():
    random = np.random.RandomState(0)
    query, key, value = (paddle.to_tensor(random.standard_normal((2, 3, 20, 8)).astype(np.float32)) for _ in range(3))
    bias = paddle.to_tensor(random.standard_normal((3, 20, 20)).astype(np.float32))
    query = query * 100.0
    expected = functional.softmax(paddle.matmul(query, key, transpose_y=True) + bias, axis=-1)
    assert float(paddle.matmul(query, key, transpose_y=True).max()) > 2 * kernels.SAFE_SCORE
    output = attention.attend(query, key, value, 1.0, bias=bias)
    np.testing.assert_allclose(output.numpy(), attention.merge_heads(paddle.matmul(expected, value)).numpy(), atol=1e-4)


def test_a_configuration_of_another_trunk_is_refused():
    with pytest.raises(TypeError, match="expected VitConfig, got ConvConfig"):
        ImageEncoderViT(demo())
