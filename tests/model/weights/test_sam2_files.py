"""SAM 2.1's weights as Meta and Hugging Face publish them are read back to the same numbers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import weights
from model.config import sam2_1_hiera_base_plus, sam2_1_hiera_large, sam2_1_hiera_small, sam2_1_hiera_tiny
from model.weights import WeightsError, sam2_names
from model.weights.export import export
from model.weights.hiera import recognise
from model.weights.infer_config import infer
from model.weights.parameters import parameters
from model.weights.tensors import Stored
from tests.support import torch_file
from tests.support.checkpoints import checkpoint_of, differing, random_tensors, to_torch_layout
from tests.support.sam2_files import (
    MEMORY,
    huggingface_config,
    meta_state,
    tiny_sam2,
    write_huggingface_sam2,
    write_meta_sam2,
)

PUBLISHED = [sam2_1_hiera_tiny, sam2_1_hiera_small, sam2_1_hiera_base_plus, sam2_1_hiera_large]
ALL = {"points", "negative_points", "boxes", "mask_input", "score"}


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(tiny_sam2())


def test_a_huggingface_directory_is_read_to_the_same_numbers(tensors, tmp_path):
    checkpoint = weights.read(write_huggingface_sam2(tiny_sam2(), tensors, tmp_path / "sam2.1-hiera-tiny"))
    assert checkpoint.format == "huggingface"
    assert checkpoint.name == "sam2.1-hiera-tiny"
    assert checkpoint.capabilities == ALL
    assert checkpoint.config.image_encoder == tiny_sam2().image_encoder
    assert checkpoint.config.image_size == 128
    assert differing(checkpoint, tensors) == []


def test_what_a_trainer_wrapped_is_found_under_its_prefix(tensors, tmp_path):
    folder = write_huggingface_sam2(tiny_sam2(), tensors, tmp_path / "mine")
    wrapped = {f"model.module.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(wrapped, folder / "model.safetensors")
    assert differing(weights.read(folder), tensors) == []
    state = {f"module.{key}": value for key, value in meta_state(tensors).items()}
    memory = {f"module.{key}": np.zeros(shape, np.float32) for key, shape in MEMORY.items()}
    path = torch_file.save({"model": state | memory, "epoch": 3}, tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"mine\.pt: expected the sizes of sam2\.1_hiera_tiny, "):
        weights.read(path)


def test_the_memory_of_videos_is_left_out_and_the_rest_is_ours(tensors):
    stored = {key: Stored(value.shape, value.copy) for key, value in meta_state(tensors).items()}
    stored |= {key: Stored(shape, lambda: None) for key, shape in MEMORY.items()}
    ours = sam2_names.from_meta(stored)
    assert set(ours) == set(tensors)
    in_torchs_layout = to_torch_layout(tensors)
    assert all(np.array_equal(ours[key].load(), in_torchs_layout[key]) for key in tensors)


@pytest.mark.parametrize("make", PUBLISHED)
def test_every_published_size_is_recognised_by_its_tensors(make):
    config = make()
    assert infer(parameters(config)) == config


def test_an_unpublished_size_is_refused_with_those_that_are_known(tensors, tmp_path):
    path = write_meta_sam2(tensors, tmp_path / "mine.pt")
    message = r"mine\.pt: expected the sizes of sam2\.1_hiera_tiny, .*, got .* \(1, 16, 5, 5\) and 1-2-3-2 blocks"
    with pytest.raises(WeightsError, match=message):
        weights.read(path)


def test_blocks_that_begin_no_three_stages_are_refused():
    shapes = parameters(sam2_1_hiera_tiny())
    del shapes["image_encoder.trunk.blocks.3.proj.weight"]
    with pytest.raises(ValueError, match=r"expected the sizes of sam2\.1_hiera_tiny, .* and 1-9-2 blocks"):
        recognise(shapes)


def test_a_config_json_of_impossible_sizes_is_refused(tensors, tmp_path):
    folder = write_huggingface_sam2(tiny_sam2(), tensors, tmp_path / "odd")
    config_json = huggingface_config(tiny_sam2())
    config_json["vision_config"]["backbone_config"]["num_attention_heads"] = 0
    (folder / "config.json").write_text(json.dumps(config_json))
    with pytest.raises(WeightsError, match=r"config\.json: num_heads: expected a whole number from 1"):
        weights.read(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"vision_config": 3}', '{"vision_config": {"backbone_config": 1}}']
)
def test_of_a_config_json_without_sizes_the_tensors_give_the_size(tensors, tmp_path, content):
    folder = write_huggingface_sam2(tiny_sam2(), tensors, tmp_path / "odd")
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="expected the sizes of sam2"):
        weights.read(folder)


def test_a_file_without_a_parameter_names_it(tensors, tmp_path):
    without = {name: value for name, value in tensors.items() if name != "image_encoder.conv_s1.bias"}
    folder = write_huggingface_sam2(tiny_sam2(), without, tmp_path / "cut")
    with pytest.raises(WeightsError, match=r"expected parameter image_encoder\.conv_s1\.bias, got none \(1 missing\)"):
        weights.read(folder)


def test_a_file_with_a_foreign_parameter_names_it(tensors, tmp_path):
    folder = write_huggingface_sam2(
        tiny_sam2(), {**tensors, "mask_decoder.surprise": np.ones(1, np.float32)}, tmp_path / "more"
    )
    with pytest.raises(WeightsError, match=r"got mask_decoder\.surprise \(1 unknown names\)"):
        weights.read(folder)


def test_our_own_file_keeps_configuration_and_numbers(tensors, tmp_path):
    written = export(checkpoint_of(tiny_sam2(), tensors), tmp_path / "native", "native")
    checkpoint = weights.read(written)
    assert checkpoint.config == tiny_sam2()
    assert differing(checkpoint, tensors) == []


def test_an_export_for_paddlex_is_refused_in_one_sentence_and_writes_nothing(tensors, tmp_path):
    with pytest.raises(
        WeightsError, match="expected weights of SAM's own network, got tiny_sam2, which PaddleX does not"
    ):
        export(checkpoint_of(tiny_sam2(), tensors), tmp_path / "out", "paddlex")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_of_a_published_size_as_meta_publishes_it_is_read_to_the_same_numbers(tmp_path):
    expected = random_tensors(sam2_1_hiera_tiny())
    checkpoint = weights.read(write_meta_sam2(expected, tmp_path / "sam2.1_hiera_tiny.pt"))
    assert (checkpoint.format, checkpoint.config) == ("meta", sam2_1_hiera_tiny())
    assert checkpoint.model_version.startswith("sam2.1_hiera_tiny@")
    assert checkpoint.capabilities == ALL
    assert differing(checkpoint, expected) == []


def test_a_state_dict_below_model_that_is_sams_is_read_too(tmp_path):
    from tests.support.checkpoints import tiny

    expected = random_tensors(tiny())
    path = torch_file.save({"model": to_torch_layout(expected)}, tmp_path / "wrapped.pt")
    assert differing(weights.read(path), expected) == []
