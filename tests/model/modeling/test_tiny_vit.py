"""MobileSAM gives the numbers of its authors' code, however its work is cut."""

import numpy as np
import paddle
import pytest

from model.build import load_decoder, load_encoder
from model.config import SamConfig, TinyVitConfig, demo
from model.device import ThreadPool
from model.modeling import attention, kernels, tiny_vit
from model.modeling.image_encoder import Sequential
from model.modeling.tiny_vit import TinyVit
from tests.reference.make_golden import SIZE
from tests.reference.make_mobile_golden import MOBILE
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import photo
from tests.support.checkpoints import random_tensors
from tests.support.mobile_files import read_published, tiny_mobile, write_published

ODD_GRID = SamConfig("odd", TinyVitConfig((8, 8, 12, 16), (1, 2, 1, 1), (1, 3, 4), (5, 2, 3)), 80, prompt_embed_dim=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = write_published(tiny_mobile(), tmp_path_factory.mktemp("mobile") / "mobile_sam.pt")
    return read_published(tiny_mobile(), path)


@pytest.fixture(scope="module")
def encoded(checkpoint):
    return load_encoder(checkpoint, device="cpu").encode(photo(*SIZE))


def network(config, parallel) -> TinyVit:
    encoder = TinyVit(config, parallel)
    tensors = random_tensors(config)
    for name, parameter in encoder.named_parameters():
        parameter.set_value(tensors[f"image_encoder.{name}"])
    encoder.eval()
    return encoder


def pixels(config, batch=1) -> paddle.Tensor:
    values = np.random.RandomState(0).standard_normal((batch, 3, config.image_size, config.image_size))
    return paddle.to_tensor(values.astype(np.float32))


def test_the_embedding_is_that_of_the_authors_code(encoded):
    expected = np.load(MOBILE)["embedding"]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(encoded.image_embedding, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_that_of_the_authors_code(checkpoint, encoded, kind):
    golden, config = np.load(MOBILE), tiny_mobile()
    answer = load_decoder(checkpoint, device="cpu").decode(encoded, prompt(kind, SIZE, config.low_res_size), False)
    np.testing.assert_allclose(answer.low_res_masks[0], golden[f"{kind}/low_res"], atol=1e-3)
    np.testing.assert_allclose(answer.iou_predictions[0], golden[f"{kind}/scores"].clip(0, 1), atol=1e-3)
    expected = np.unpackbits(golden[f"{kind}/masks"], count=np.prod(SIZE)).reshape(SIZE).astype(bool)
    ours = answer.masks[0][0].to_array()
    assert np.count_nonzero(ours ^ expected) <= 1e-4 * np.count_nonzero(ours | expected)


@pytest.mark.parametrize(
    "config", [tiny_mobile(), tiny_mobile(256), ODD_GRID], ids=lambda c: f"{c.name}-{c.image_size}"
)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_threads_give_the_numbers_of_one_thread(config, parts):
    x = pixels(config)
    expected = network(config, Sequential())(x).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(network(config, ThreadPool(parts))(x).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("config", [tiny_mobile(), ODD_GRID], ids=lambda c: c.name)
def test_paddles_own_kernels_which_a_gpu_runs_give_the_same_numbers(config, monkeypatch):
    x = pixels(config)
    expected = network(config, Sequential())(x).numpy()
    for module in (kernels, attention):
        monkeypatch.setattr(module, "is_on_cpu", lambda *tensors: False)
    np.testing.assert_allclose(network(config, Sequential())(x).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("parallel", [Sequential(), ThreadPool(2)], ids=["one thread", "two threads"])
def test_a_batch_gives_the_numbers_of_its_images_alone(parallel):
    config = tiny_mobile()
    encoder, x = network(config, parallel), pixels(config, 3)
    alone = np.concatenate([encoder(x[i : i + 1]).numpy() for i in range(3)])
    np.testing.assert_allclose(encoder(x).numpy(), alone, atol=1e-5)


def test_attention_adds_a_bias_for_each_distance_of_two_tokens():
    """Graham et al., "LeViT", 2021: one number per head for how far apart two tokens are in rows and in columns."""
    attention = tiny_vit.Attention(4, 2, 3)
    table = np.arange(18, dtype=np.float32).reshape(2, 9)
    attention.attention_biases.set_value(table)
    attention.prepare()
    for head in range(2):
        for i in range(9):
            for j in range(9):
                distance = abs(i // 3 - j // 3) * 3 + abs(i % 3 - j % 3)
                assert float(attention.bias[head, i, j]) == table[head, distance]


@pytest.mark.parametrize(("config", "complaint"), [
    (demo(), "expected TinyVitConfig, got ConvConfig"),
])  # fmt: skip
def test_a_configuration_of_another_trunk_is_refused(config, complaint):
    with pytest.raises(TypeError, match=complaint):
        TinyVit(config)


def test_an_embedding_at_another_stride_is_refused():
    config = SamConfig("coarse", tiny_mobile().image_encoder, 128, 32, prompt_embed_dim=32)
    with pytest.raises(ValueError, match="expected patch_size=16, got 32"):
        TinyVit(config)
