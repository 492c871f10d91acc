"""SAM 2's image encoder gives Meta's numbers, however its work is cut, on whichever path."""

from dataclasses import replace

import numpy as np
import paddle
import pytest

from model.build import load_encoder
from model.config import (
    HieraConfig,
    SamConfig,
    sam2_1_hiera_base_plus,
    sam2_1_hiera_large,
    sam2_1_hiera_small,
    sam2_1_hiera_tiny,
    vit_b,
)
from model.device import ThreadPool
from model.errors import DeviceError
from model.modeling import attention, kernels
from model.modeling.hiera import Sam2ImageEncoder
from model.modeling.image_encoder import Sequential
from tests.reference.make_sam2_golden import GOLDEN, SIZE
from tests.reference.random_weights import photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of, random_tensors
from tests.support.sam2_files import tiny_sam2

SEVERAL_HEADS = SamConfig(
    "heads", HieraConfig(16, 2, (2, 1, 1, 1), (), 7, (8, 4, 8, 4)), 64, prompt_embed_dim=32, decoder_mlp_dim=64
)
TWO_GLOBAL = SamConfig(
    "global", HieraConfig(16, 1, (1, 2, 3, 1), (2, 4, 5), 4, (4, 4, 2, 1)), 64, prompt_embed_dim=32, decoder_mlp_dim=64
)
CONFIGS = [tiny_sam2(), tiny_sam2(256), SEVERAL_HEADS, TWO_GLOBAL]


def network(config: SamConfig, parallel) -> Sam2ImageEncoder:
    encoder = Sam2ImageEncoder(config, parallel)
    tensors = random_tensors(config)
    for name, parameter in encoder.named_parameters():
        parameter.set_value(tensors[f"image_encoder.{name}"])
    return encoder


def pixels(config: SamConfig, batch: int = 1) -> paddle.Tensor:
    values = np.random.RandomState(0).standard_normal((batch, 3, config.image_size, config.image_size))
    return paddle.to_tensor(values.astype(np.float32))


def assert_alike(maps, expected, tolerance: float = 1e-5):
    for actual, wanted in zip(maps, expected, strict=True):
        actual, wanted = np.asarray(actual), np.asarray(wanted)
        assert actual.shape == wanted.shape
        assert np.abs(wanted).max() > 0.1
        assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()


def test_every_map_of_the_embedding_is_that_of_metas_code():
    config, golden = tiny_sam2(), np.load(GOLDEN)
    encoder = load_encoder(checkpoint_of(config, lively_sam2(config)), device="cpu")
    embedding = encoder.encode(photo(*SIZE))
    assert list(embedding.maps) == ["image_embedding", "high_res_feat_s0", "high_res_feat_s1"]
    assert_alike(embedding.maps.values(), [golden[name] for name in embedding.maps], 1e-4)
    assert (embedding.original_size, embedding.input_size, embedding.family) == (SIZE, (128, 128), "sam2")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}-{c.image_size}")
@pytest.mark.parametrize("parts", [2, 3])
def test_threads_give_the_numbers_of_one_thread(config, parts):
    x = pixels(config)
    assert_alike(network(config, ThreadPool(parts))(x), network(config, Sequential())(x))


@pytest.mark.parametrize("parallel", [Sequential(), ThreadPool(2)], ids=["one thread", "two threads"])
def test_a_batch_gives_the_numbers_of_its_images_alone(parallel):
    config = tiny_sam2()
    encoder, x = network(config, parallel), pixels(config, 3)
    alone = [encoder(x[index : index + 1]) for index in range(3)]
    assert_alike(encoder(x), [np.concatenate(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}-{c.image_size}")
def test_what_a_gpu_computes_is_what_numpy_does_here(config, monkeypatch):
    x = pixels(config, 2)
    expected = network(config, Sequential())(x)
    for module in (kernels, attention):
        monkeypatch.setattr(module, "is_on_cpu", lambda *tensors: False)
    assert_alike(network(config, Sequential())(x), expected)


def test_scores_that_do_not_fit_at_once_give_the_same(monkeypatch):
    config, x = tiny_sam2(), pixels(tiny_sam2())
    expected = network(config, Sequential())(x)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 100)
    assert_alike(network(config, ThreadPool(2))(x), expected)


def test_bfloat16_on_a_cpu_which_has_no_kernels_for_it_is_refused():
    checkpoint = checkpoint_of(tiny_sam2(), random_tensors(tiny_sam2()))
    with pytest.raises(DeviceError, match="'bfloat16': expected a GPU for tiny_sam2, got cpu; use float32 there"):
        load_encoder(checkpoint, device="cpu", dtype="bfloat16")


def test_a_configuration_of_another_trunk_is_refused():
    with pytest.raises(TypeError, match="expected HieraConfig, got VitConfig"):
        Sam2ImageEncoder(vit_b())


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (sam2_1_hiera_tiny, 27),
        (sam2_1_hiera_small, 34),
        (sam2_1_hiera_base_plus, 69),
        (sam2_1_hiera_large, 212),
    ],
)
def test_the_published_sizes_have_as_many_parameters_as_their_authors_say(make, millions):
    from model.weights.parameters import parameters

    config = make()
    trunk = [np.prod(shape) for name, shape in parameters(config).items() if ".trunk." in name]
    assert round(sum(trunk) / 1e6) == millions
    assert SamConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_attn_indexes": (3,)}, "global_attn_indexes: expected blocks below 8 that begin no stage"),
        ({"global_attn_indexes": (8,)}, "global_attn_indexes: expected blocks below 8"),
        ({"window_sizes": (8, 4, 7, 7)}, "window_sizes: expected even sides but for the last"),
        ({"window_sizes": (8, 4)}, "window_sizes: expected 4 whole numbers"),
        ({"num_heads": 3}, "embed_dim: expected a multiple of num_heads=3"),
        ({"depths": (1, 2, 0, 2)}, "depths: expected a whole number from 1"),
        ({"mlp_ratio": 0}, "mlp_ratio: expected a positive number"),
    ],
)
def test_sizes_that_make_no_network_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_sam2().image_encoder, **change)


@pytest.mark.parametrize(("change", "message"), [({"image_size": 80}, "image_size"), ({"patch_size": 8}, "patch_size")])
def test_an_input_that_windows_do_not_fill_is_refused(change, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        replace(tiny_sam2(), **change)
