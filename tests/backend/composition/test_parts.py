"""Parts that web processes, workers and runs share: which weights are read, and how others are refused."""

import itertools
from dataclasses import replace

import pytest

from backend.composition import parts
from backend.settings import read
from model.weights import WeightsError
from model.weights import parameters as names
from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint


def settings(folder, **environ):
    names = {"PADDLE_SAM_CACHE_DIR": str(folder / "cache"), "PADDLE_SAM_DEVICE": "cpu"}
    return read(names | environ)


@pytest.fixture
def weights(tmp_path):
    """A file of weights of a very small network."""
    return native.write(random_checkpoint(), tmp_path / "small.safetensors")


def test_weights_are_read_by_path(tmp_path, weights):
    checkpoint = parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=str(weights)))
    assert checkpoint.model_version.startswith("small@")


def test_weights_of_two_halves_are_merged(tmp_path):
    whole = random_checkpoint()
    halves = []
    for left_out in ("points", "boxes"):
        tensors = {name: value for name, value in whole.tensors.items() if names.capability_of(name) != left_out}
        halves.append(native.write(replace(whole, tensors=tensors), tmp_path / f"{left_out}.safetensors"))
    box, point = halves
    checkpoint = parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=f"{box}, {point}"))
    assert {"boxes", "points"} <= checkpoint.capabilities


def test_the_order_in_which_weights_are_named_makes_no_other_model(tmp_path):
    whole, halves = random_checkpoint(), []
    for left_out in ("points", "boxes", "mask_input"):
        tensors = {name: value for name, value in whole.tensors.items() if names.capability_of(name) != left_out}
        halves.append(str(native.write(replace(whole, tensors=tensors), tmp_path / f"{left_out}.safetensors")))
    versions = {
        parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=",".join(order))).model_version
        for order in itertools.permutations(halves)
    }
    assert len(versions) == 1


@pytest.mark.parametrize("name", ["SAM-X_box", "/nowhere/at/all", "small.safetensors"])
def test_weights_that_are_not_there_are_refused_with_what_there_is(tmp_path, name):
    with pytest.raises(WeightsError, match=r"SAM-H_box|expected"):
        parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=name))


@pytest.mark.parametrize("name", ["SAM-X_box", "/nowhere/at/all"])
def test_weights_that_are_not_there_are_refused_with_the_setting_that_takes_a_path(tmp_path, name):
    with pytest.raises(WeightsError, match=rf"^{name}: .*PADDLE_SAM_WEIGHTS takes the path") as refused:
        parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=name))
    assert "model_dir" not in str(refused.value), "a word of create_model, which the service has not"


def test_published_weights_that_have_to_be_downloaded_first_are_announced(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder, so that nothing is fetched here")
    chosen = settings(tmp_path, PADDLE_SAM_WEIGHTS="sam_vit_b", MODEL_DIR=str(tmp_path / "file" / "weights"))
    with caplog.at_level("INFO"), pytest.raises(WeightsError, match="sam_vit_b cannot be had"):
        parts.read_weights(chosen)
    assert f"event=downloading weights=sam_vit_b folder={tmp_path / 'file' / 'weights'}" in caplog.text


def test_weights_that_are_there_are_not_announced_as_a_download(tmp_path, caplog):
    with caplog.at_level("INFO"):
        parts.read_weights(settings(tmp_path))
    assert "event=downloading" not in caplog.text


def test_a_directory_called_like_a_model_does_not_hide_it_but_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert parts.read_weights(settings(tmp_path)).model_version.startswith("demo@")
    with pytest.raises(WeightsError, match=r"demo: expected .* in this directory"):
        parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS="./demo"))


def test_damaged_weights_are_refused(tmp_path, weights):
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="small"):
        parts.read_weights(settings(tmp_path, PADDLE_SAM_WEIGHTS=str(weights)))
