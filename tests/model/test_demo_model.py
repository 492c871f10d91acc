"""The demo model: its encoder agrees with the one that was trained, its file is small and complete."""

from functools import cache
from importlib.util import find_spec

import numpy as np
import paddle
import pytest
from safetensors import safe_open

from demo_training.evaluate import WEIGHTS, Figures, Judge, evaluate
from model.build import load_decoder, load_encoder
from model.config import ConvConfig, SamConfig, demo
from model.modeling.conv_encoder import ConvEncoder
from model.weights import read
from tests.support.checkpoints import tiny

SMALL = SamConfig(
    "small",
    ConvConfig(widths=(8, 16, 24), depths=(1, 2, 1), attn_depth=2, attn_heads=3),
    image_size=64,
    patch_size=8,
    prompt_embed_dim=16,
    decoder_num_heads=2,
    decoder_mlp_dim=32,
    iou_head_hidden_dim=16,
)


def test_an_encoder_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a ConvConfig, got VitConfig"):
        ConvEncoder(tiny())


def test_the_embedding_has_the_size_the_configuration_says() -> None:
    config = demo()
    with paddle.no_grad():
        embedding = ConvEncoder(config)(paddle.zeros([2, 3, config.image_size, config.image_size]))
    side = config.embedding_size
    assert embedding.shape == [2, config.prompt_embed_dim, side, side]


needs_segment_anything = pytest.mark.skipif(
    find_spec("segment_anything") is None, reason="segment-anything, which only training needs, is not installed"
)


@needs_segment_anything
@pytest.mark.parametrize("config", [SMALL, demo()], ids=lambda config: config.name)
def test_the_paddle_encoder_gives_the_embedding_of_the_torch_encoder(config: SamConfig) -> None:
    torch = pytest.importorskip("torch")
    from demo_training.export import paddle_state
    from demo_training.network import DemoSam

    torch.manual_seed(0)
    trained = DemoSam(config)
    images = torch.randn(2, 3, config.image_size, config.image_size)
    trained.train()
    for _ in range(3):  # norms learn statistics that differ from their start
        trained.image_encoder(images)
    trained.eval()
    with torch.no_grad():
        expected = trained.image_encoder(images).numpy()
    encoder = ConvEncoder(config)
    prefix = "image_encoder."
    state = {k[len(prefix) :]: v for k, v in paddle_state(trained).items() if k.startswith(prefix)}
    missing, unexpected = encoder.set_state_dict(state)
    encoder.eval()
    with paddle.no_grad():
        embedding = encoder(paddle.to_tensor(images.numpy())).numpy()
    assert (missing, unexpected) == ([], [])
    np.testing.assert_allclose(embedding, expected, atol=1e-4)


@needs_segment_anything
def test_training_begins_with_exported_weights_as_if_it_had_never_stopped(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file

    from demo_training.export import paddle_state
    from demo_training.network import DemoSam
    from demo_training.warm_start import load_exported

    torch.manual_seed(0)
    images = torch.randn(4, 3, SMALL.image_size, SMALL.image_size)
    trained, resumed = DemoSam(SMALL), DemoSam(SMALL)
    for _ in range(3):  # norms learn statistics that differ from their start
        trained.image_encoder(images)
    expected = paddle_state(trained.eval())
    save_file(expected, tmp_path / "exported.safetensors")
    load_exported(resumed, tmp_path / "exported.safetensors", [images])
    state = paddle_state(resumed)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=1e-5, err_msg=name)
    with torch.no_grad():  # norms that learn again take out of these pictures what they put in
        at_rest, learning = resumed.eval().image_encoder(images), resumed.train().image_encoder(images)
    np.testing.assert_allclose(learning, at_rest, atol=1e-4)


@needs_segment_anything
def test_the_training_decoder_gives_the_numbers_of_metas_decoder() -> None:
    torch = pytest.importorskip("torch")
    from demo_training.network import DemoSam

    torch.manual_seed(0)
    model = DemoSam(SMALL).eval()
    size = SMALL.low_res_size
    with torch.no_grad():
        embedding = torch.randn(1, SMALL.prompt_embed_dim, SMALL.embedding_size, SMALL.embedding_size)
        points = (64 * torch.rand(3, 2, 2), torch.tensor([[1.0, 0.0]] * 3))
        sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=torch.randn(3, 1, size, size))
        output = model.decode(embedding.expand(3, -1, -1, -1), sparse, dense)
        position = model.prompt_encoder.get_dense_pe()
        expected = model.mask_decoder.predict_masks(embedding, position, sparse, dense)
    np.testing.assert_allclose(output[0].numpy(), expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(output[1].numpy(), expected[1].numpy(), atol=1e-5)


@cache
def figures(family) -> Figures:
    """Return the figures of the shipped model over a few scenes it was not trained on."""
    checkpoint = read(WEIGHTS)
    return evaluate(Judge(load_encoder(checkpoint), load_decoder(checkpoint), is_short=True), family, scenes=20)


def mean_iou(family, name) -> float:
    return float(np.mean(figures(family).ious[name]))


def test_the_shipped_file_is_small_and_says_what_network_it_is() -> None:
    assert WEIGHTS.stat().st_size < 20e6
    with safe_open(WEIGHTS, "np") as file:
        assert file.metadata()["format"] == "paddle-sam"
        assert SamConfig.from_json(file.metadata()["config"]) == demo()


@pytest.mark.parametrize(("family", "least"), [("train", 0.86), ("held_out", 0.77)])
def test_one_click_on_an_object_gives_the_object(family, least) -> None:
    assert mean_iou(family, "click") >= least


@pytest.mark.parametrize(("family", "least"), [("train", 0.87), ("held_out", 0.81)])
def test_a_box_around_an_object_gives_the_object(family, least) -> None:
    assert mean_iou(family, "box") >= least


@pytest.mark.parametrize("family", ["train", "held_out"])
def test_two_corrective_clicks_make_the_mask_better(family) -> None:
    assert mean_iou(family, "click + 2 corrections") > mean_iou(family, "click")


@pytest.mark.parametrize("family", ["train", "held_out"])
def test_the_predicted_iou_goes_with_the_true_one(family) -> None:
    assert figures(family).correlation() >= 0.6
