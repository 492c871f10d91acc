"""MobileSAM's published file: recognised, its batch norms folded, the rest left out; and written as our own."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from model import create_model, weights
from model.config import TinyVitConfig, mobile_sam
from model.weights import infer_config, parameters
from model.weights.export import export
from model.weights.summary import inspect
from tests.benchmarks.peak_memory import measure
from tests.support import torch_file
from tests.support.checkpoints import differing, to_torch_layout
from tests.support.mobile_files import published_state, read_published, tiny_mobile, write_published

BESIDE = {"optimizer": {"state": {0: {"step": np.ones((), np.float32)}}}, "epoch": 35}
BLOCK = "image_encoder.layers.0.blocks.0.conv2"


@pytest.fixture(scope="module")
def state():
    return published_state(tiny_mobile())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tiny_mobile(), tmp_path_factory.mktemp("mobile") / "mobile_sam.pt")


def test_the_configuration_is_inferred_from_the_parameters(published):
    checkpoint = weights.read(published)
    assert checkpoint.config.image_encoder == tiny_mobile().image_encoder
    assert (checkpoint.config.image_size, checkpoint.config.patch_size) == (1024, 16)  # of every file published
    assert checkpoint.capabilities == set(parameters.CAPABILITIES)
    assert (checkpoint.name, checkpoint.format) == ("mobile_sam", "meta")


def test_the_published_sizes_are_known_by_name():
    config = infer_config.infer(parameters.parameters(mobile_sam()))
    assert config == mobile_sam()
    assert sum(np.prod(shape) for shape in parameters.parameters(config).values()) == pytest.approx(9.8e6, rel=0.02)


def test_batch_norms_are_folded_as_precisely_as_float32_allows(published, state):
    folded = weights.read(published).tensors
    wide = {
        part: state[f"{BLOCK}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    factor = wide["weight"] / np.sqrt(wide["running_var"] + 1e-5)
    weight = (state[f"{BLOCK}.c.weight"].astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
    np.testing.assert_array_equal(folded[f"{BLOCK}.weight"], weight)
    bias = (wide["bias"] - wide["running_mean"] * factor).astype(np.float32)
    np.testing.assert_array_equal(folded[f"{BLOCK}.bias"], bias)


def test_what_needs_no_folding_is_read_value_by_value(published, state):
    read = to_torch_layout(dict(weights.read(published).tensors))
    plain = [name for name in read if name in state]
    assert len(plain) > 100
    assert all(np.array_equal(read[name], state[name]) for name in plain)


def test_what_is_written_as_our_own_is_read_back_value_by_value_with_its_input_size(published, tmp_path):
    checkpoint = read_published(tiny_mobile(), published)
    reread = weights.read(export(checkpoint, tmp_path / "own", "native"))
    assert reread.config == tiny_mobile()
    assert differing(reread, dict(checkpoint.tensors)) == []


WRAPPED = {
    "MedSAM's": lambda state: {"model": state, **BESIDE},
    "DistributedDataParallel's": lambda state: {f"module.{name}": value for name, value in state.items()},
    "prefixed in a wrapper": lambda state: {
        "state_dict": {f"model.sam.{name}": value for name, value in state.items()},
        **BESIDE,
    },
    "an averaged copy beside it": lambda state: {
        "model": state,
        "model_ema": {name: value + 1 for name, value in state.items()},
    },
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("write", [torch_file.save, torch_file.save_old])
def test_a_wrapped_state_dict_gives_the_same_numbers(published, state, tmp_path, write, wrapped):
    path = write(WRAPPED[wrapped](state), tmp_path / "best.pt")
    assert differing(weights.read(path), dict(weights.read(published).tensors)) == []


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_with_its_names_give_the_same_numbers(published, state, tmp_path, prefix):
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "model.safetensors")
    checkpoint = weights.read(tmp_path / "model.safetensors")
    assert differing(checkpoint, dict(weights.read(published).tensors)) == []


def test_safetensors_in_paddles_layout_are_recognised_by_a_matrix(published, tmp_path):
    tensors = dict(weights.read(published).tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    assert differing(weights.read(tmp_path / "model.safetensors"), tensors) == []


@pytest.mark.parametrize(
    ("name", "actual_name"),
    [("sam_vit_b", "a TinyViT of 6 blocks, 32 channels"), ("mobile_sam", "a TinyViT of 6 blocks, 32 channels")],
)
def test_a_file_of_another_model_than_was_named_is_refused(published, name, actual_name):
    with pytest.raises(
        weights.WeightsError, match=f"^Model name mismatch: expected weights of {name}, got {actual_name} in"
    ):
        create_model(name, published)


def test_paddlex_which_has_no_such_network_is_not_written_for(published, tmp_path):
    with pytest.raises(
        weights.WeightsError, match="got mobile_sam, which PaddleX does not know; --format native writes"
    ):
        export(read_published(replace(tiny_mobile(), name="mobile_sam"), published), tmp_path / "out", "paddlex")
    assert not (tmp_path / "out").exists()


def test_the_directory_of_the_file_will_do_too(published):
    assert inspect(published.parent).digest == inspect(published).digest


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda state: state.pop(f"{BLOCK}.bn.running_var"), rf"expected parameter {BLOCK}\.bn\.running_var, got none"),
        (
            lambda state: state.update({f"{BLOCK}.bn.bias": np.zeros(3, np.float32)}),
            rf"{BLOCK}\.bn\.bias: expected shape \(64,\), got \(3,\)",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if ".layers.3." in name],
            "of 4 stages, got 3",
        ),
        (
            lambda state: state.update({"image_encoder.layers.1.blocks.0.attn.attention_biases": np.ones((2, 15))}),
            r"attention_biases: expected shape \(2, 9\), got \(2, 15\)",
        ),
        (
            lambda state: state.update({"image_encoder.layers.1.blocks.0.attn.attention_biases": np.ones((3, 16))}),
            "num_heads: expected a divisor of 16, got 3",
        ),
        (
            lambda state: state.pop("image_encoder.layers.2.blocks.1.mlp.fc2.bias"),
            r"expected parameter image_encoder\.layers\.2\.blocks\.1\.mlp\.fc2\.bias, got none",
        ),
        (lambda state: state.update({"image_encoder.extra": np.ones(2)}), "expected the parameters of a SAM network"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(state, damage, complaint, tmp_path):
    damaged = dict(state)
    damage(damaged)
    with pytest.raises(weights.WeightsError, match=complaint):
        weights.read(torch_file.save(damaged, tmp_path / "mobile_sam.pt"))


def test_a_batch_norm_without_a_square_root_is_refused_when_it_is_read(state, tmp_path):
    damaged = {**state, f"{BLOCK}.bn.running_var": np.full(64, -1, np.float32)}
    checkpoint = weights.read(torch_file.save(damaged, tmp_path / "mobile_sam.pt"))
    with pytest.raises(weights.WeightsError, match=rf"{BLOCK}\.weight.*expected variances of 0 or more"):
        checkpoint.tensors[f"{BLOCK}.weight"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"embed_dims": (16, 16, 24)}, "embed_dims: expected 4 whole numbers"),
        ({"window_sizes": (4, 0, 8)}, "window_sizes: expected a whole number from 1 to"),
        ({"num_heads": (3, 3, 2)}, "num_heads: expected a divisor of 16, got 3"),
        ({"mlp_ratio": 0}, "mlp_ratio: expected a positive number, got 0"),
        ({"expand_ratio": "4"}, "expand_ratio: expected a positive number, got '4'"),
    ],
)
def test_a_configuration_that_no_network_can_have_is_refused(change, complaint):
    sizes = {"embed_dims": (16, 16, 24, 32), "depths": (2, 1, 2, 1), "num_heads": (2, 3, 2), "window_sizes": (4, 3, 8)}
    assert TinyVitConfig(**sizes) == tiny_mobile().image_encoder
    with pytest.raises(ValueError, match=complaint):
        TinyVitConfig(**(sizes | change))


def test_the_parameters_are_those_of_the_layers():
    from model.build import image_encoder

    layers = {f"image_encoder.{name}": tuple(p.shape) for name, p in image_encoder(mobile_sam()).named_parameters()}
    listed = {name: shape for name, shape in parameters.parameters(mobile_sam()).items() if name in layers}
    assert layers == listed


@pytest.mark.slow
def test_a_process_with_mobile_sam_stays_within_nine_hundred_megabytes(tmp_path):
    path = write_published(mobile_sam(), tmp_path / "mobile_sam.pt")
    assert measure(path, "answer") <= 900e6
