"""Every format gives the same parameters, and says in one sentence what is wrong with a file."""

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from model import weights
from model.config import ConvConfig, SamConfig
from model.weights import parameters
from model.weights.checkpoint import Checkpoint
from model.weights.formats import native
from tests.golden.paddlex import make as golden
from tests.support import checkpoints, torch_file
from tests.support.checkpoints import tiny
from tests.support.weights_files import golden_directory

MINUTE = golden.MINUTE
TENSORS = checkpoints.random_tensors(MINUTE, golden.SEED)
FORMATS = ("meta", "huggingface", "paddlemix", "native", "paddlex")


def write(file_format: str, folder: Path) -> Path:
    """The same minute network in any format."""
    if file_format == "meta":
        return checkpoints.write_meta(TENSORS, folder / "sam_vit_x_01ec64.pth")
    if file_format == "huggingface":
        return checkpoints.write_huggingface(TENSORS, folder / "model.safetensors")
    if file_format == "paddlemix":
        return checkpoints.write_pdparams(TENSORS, folder / "model_state.pdparams")
    if file_format == "native":
        return native.write(checkpoints.random_checkpoint(MINUTE, golden.SEED), folder / "mine.safetensors")
    return golden_directory("pir_box_3.0.0", folder / "SAM-H_box_infer")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    return {name: write(name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_parameter_lands_under_its_name(written, file_format):
    checkpoint = weights.read(written[file_format])
    assert checkpoints.differing(checkpoint, TENSORS) == []
    assert checkpoint.format == file_format
    assert checkpoint.capabilities == set(parameters.CAPABILITIES)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_configuration_is_read_from_the_shapes(written, file_format):
    config = weights.read(written[file_format]).config
    assert replace(config, name=MINUTE.name) == MINUTE


@pytest.mark.parametrize("file_format", FORMATS)
def test_tensors_are_float32_in_rows_and_cannot_be_changed(written, file_format):
    for name, array in weights.read(written[file_format]).tensors.items():
        assert (array.dtype, array.flags.c_contiguous, array.flags.writeable) == (np.float32, True, False), name


def test_the_format_is_recognised_by_the_contents_not_by_the_name(written, tmp_path):
    for file_format in ("meta", "huggingface", "paddlemix", "native"):
        renamed = tmp_path / f"{file_format}.bin"
        renamed.write_bytes(written[file_format].read_bytes())
        assert weights.read(renamed).format == file_format


def test_the_model_is_called_like_its_file_or_directory(written):
    assert [weights.read(written[file_format]).name for file_format in ("meta", "native", "paddlex")] == [
        "sam_vit_x",
        "mine",
        "SAM-H_box",
    ]
    assert weights.read(written["meta"], name="other").model_version.startswith("other@")


def test_a_file_of_no_telling_name_is_called_like_its_directory(written, tmp_path):
    folder = tmp_path / "sam-vit-base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(written["huggingface"].read_bytes())
    assert weights.read(folder).name == "sam-vit-base"
    assert weights.read(folder / "model.safetensors").name == "sam-vit-base"


def test_the_digest_of_a_file_is_its_sha256(written):
    import hashlib

    checkpoint = weights.read(written["meta"])
    assert checkpoint.digest == hashlib.sha256(written["meta"].read_bytes()).hexdigest()
    assert checkpoint.model_version == f"sam_vit_x@{checkpoint.digest[:8]}"


def test_one_changed_weight_changes_the_model_version(tmp_path):
    first = native.write(checkpoints.random_checkpoint(MINUTE, 1), tmp_path / "a.safetensors")
    changed = checkpoints.random_tensors(MINUTE, 1)
    changed[parameters.NO_MASK][0, 0] += 1e-3
    second = native.write(Checkpoint("b", MINUTE, changed, "0" * 64, "native", tmp_path), tmp_path / "b.safetensors")
    assert weights.read(first).digest != weights.read(second).digest


def test_half_precision_files_give_float32_within_half_precision(tmp_path):
    path = native.write(checkpoints.random_checkpoint(MINUTE, golden.SEED), tmp_path / "half.safetensors", "float16")
    tensors = weights.read(path).tensors
    assert all(np.array_equal(tensors[name], TENSORS[name].astype(np.float16).astype(np.float32)) for name in TENSORS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_meta_files_of_other_precisions_are_brought_to_float32(tmp_path, dtype):
    torch = pytest.importorskip("torch")

    state = {n: torch.from_numpy(v) for n, v in checkpoints.to_torch_layout(TENSORS).items()}
    state = {name: value.to(getattr(torch, dtype)) for name, value in state.items()}
    torch.save(state, tmp_path / "sam.pth")
    expected = {n: v.float().numpy() for n, v in state.items()}
    tensors = checkpoints.to_torch_layout(dict(weights.read(tmp_path / "sam.pth").tensors))
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


def test_torch_reads_the_files_that_stand_in_for_its_own(tmp_path):
    torch = pytest.importorskip("torch")
    state = checkpoints.to_torch_layout(TENSORS)
    tensors = torch.load(checkpoints.write_meta(TENSORS, tmp_path / "sam.pth"), weights_only=True)
    assert list(tensors) == list(state)
    assert all(np.array_equal(tensors[name].numpy(), state[name]) for name in state)


def test_a_meta_file_whose_tensors_are_views_and_parameters_is_read_right(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    state = {}
    for name, value in checkpoints.to_torch_layout(TENSORS).items():
        tensor = torch.from_numpy(value)
        state[name] = nn.Parameter(tensor.t().contiguous().t() if tensor.ndim == 2 else tensor)
    torch.save(state, tmp_path / "sam.pth")
    assert checkpoints.differing(weights.read(tmp_path / "sam.pth"), TENSORS) == []


def test_a_paddle_tensor_pickled_with_its_name_is_read_like_an_array(tmp_path):
    class Named:
        def __init__(self, name, array):
            self.pair = (name, array)

        def __reduce__(self):
            return tuple, (self.pair,)

    with (tmp_path / "model_state.pdparams").open("wb") as stream:
        pickle.dump({name: Named(name, value) for name, value in TENSORS.items()}, stream, protocol=4)
    assert checkpoints.differing(weights.read(tmp_path / "model_state.pdparams"), TENSORS) == []


def test_what_paddle_itself_saves_is_read(tmp_path):
    import paddle

    paddle.save({name: paddle.to_tensor(value) for name, value in TENSORS.items()}, str(tmp_path / "sam.pdparams"))
    assert checkpoints.differing(weights.read(tmp_path / "sam.pdparams"), TENSORS) == []


def test_a_trunk_that_is_not_a_transformer_keeps_its_own_names(tmp_path):
    config = SamConfig("demo", ConvConfig((8, 8, 8), (1, 1, 1), 1, 2), 64, prompt_embed_dim=32, decoder_mlp_dim=32)
    tensors = {**checkpoints.random_tensors(config), "image_encoder.stem.weight": np.ones((8, 3, 4, 4), np.float32)}
    path = native.write(
        Checkpoint("demo", config, tensors, "0" * 64, "native", tmp_path), tmp_path / "demo.safetensors"
    )
    checkpoint = weights.read(path)
    assert checkpoint.config == config
    assert checkpoints.differing(checkpoint, tensors) == []


def test_relative_positions_made_for_a_larger_input_are_interpolated_as_meta_does_at_every_call(tmp_path):
    torch = pytest.importorskip("torch")

    larger = dict(TENSORS)
    rng = np.random.default_rng(0)
    for axis in "hw":
        larger[f"image_encoder.blocks.1.attn.rel_pos_{axis}"] = rng.standard_normal((15, 8)).astype(np.float32)
    checkpoint = weights.read(checkpoints.write_meta(larger, tmp_path / "sam.pth"))
    assert checkpoint.config.image_encoder == MINUTE.image_encoder
    for axis in "hw":
        table = torch.from_numpy(larger[f"image_encoder.blocks.1.attn.rel_pos_{axis}"]).T[None]
        expected = torch.nn.functional.interpolate(table, size=7, mode="linear")[0].T.numpy()
        np.testing.assert_allclose(
            checkpoint.tensors[f"image_encoder.blocks.1.attn.rel_pos_{axis}"], expected, atol=1e-5
        )


@pytest.mark.parametrize("file_format", ["meta", "huggingface", "paddlemix", "native"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_in_a_sentence_that_names_it(written, tmp_path, file_format, part):
    whole = written[file_format].read_bytes()
    path = tmp_path / written[file_format].name
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("file_format", ["meta", "huggingface", "paddlemix", "native"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_but_never_ends_in_another_error(written, tmp_path, file_format, data):
    content = bytearray(written[file_format].read_bytes())
    near_an_end = st.integers(-3000, 6000).map(lambda at: max(-len(content), min(at, len(content) - 1)))
    for at in data.draw(st.lists(near_an_end, min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / written[file_format].name
    path.write_bytes(content)
    checkpoint = tensors_or_refusal(path)
    assert path.name in checkpoint if isinstance(checkpoint, str) else checkpoint


@pytest.mark.parametrize(
    "content",
    [b"", b"<html><body>Not found</body></html>", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80", b"PK\3\4", bytes(5000)],
    ids=["empty", "web page", "picture", "start of a pickle", "start of a zip", "zeros"],
)
def test_a_foreign_file_is_refused_in_a_sentence_that_names_it(tmp_path, content):
    path = tmp_path / "sam_vit_b.pth"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(weights.WeightsError, match="no such file"):
        weights.read(tmp_path / "absent")


def test_a_directory_with_no_weights_or_several_is_refused(written, tmp_path):
    with pytest.raises(weights.WeightsError, match="got none"):
        weights.read(tmp_path)
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(written["meta"].read_bytes())
    with pytest.raises(weights.WeightsError, match=r"a\.pth, b\.pth"):
        weights.read(tmp_path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "a photo")
    with pytest.raises(weights.WeightsError, match=r"data\.pkl"):
        weights.read(tmp_path / "photos.zip")


def test_another_network_in_safetensors_is_refused(tmp_path):
    save_file({"bert.embeddings.weight": np.ones((3, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(weights.WeightsError, match="expected parameter"):
        weights.read(tmp_path / "model.safetensors")


def test_a_missing_parameter_and_a_wrong_shape_are_named(tmp_path):
    name = "mask_decoder.transformer.layers.1.norm3.bias"
    with pytest.raises(weights.WeightsError, match=name):
        weights.read(checkpoints.write_meta({k: v for k, v in TENSORS.items() if k != name}, tmp_path / "a.pth"))
    wrong = {**TENSORS, name: np.zeros(17, np.float32)}
    with pytest.raises(weights.WeightsError, match=rf"{name}: expected shape \(16,\), got \(17,\)"):
        weights.read(checkpoints.write_meta(wrong, tmp_path / "b.pth"))


def test_pixel_statistics_in_a_file_must_be_sams(tmp_path):
    from model.config import PIXEL_MEAN

    good = {**TENSORS, "pixel_mean": np.array(PIXEL_MEAN, np.float32).reshape(3, 1, 1)}
    assert "pixel_mean" not in weights.read(checkpoints.write_meta(good, tmp_path / "good.pth")).tensors
    other = {**TENSORS, "pixel_mean": np.zeros((3, 1, 1), np.float32)}
    with pytest.raises(weights.WeightsError, match="pixel_mean"):
        weights.read(checkpoints.write_meta(other, tmp_path / "other.pth"))


def test_a_tensor_whose_file_has_gone_says_so(written, tmp_path):
    path = tmp_path / "sam.pth"
    path.write_bytes(written["meta"].read_bytes())
    checkpoint = weights.read(path)
    path.unlink()
    with pytest.raises(weights.WeightsError, match=str(path)):
        checkpoint.tensors[parameters.NO_MASK]


class Evil:
    """Runs a command wherever it is unpickled in earnest."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pdparams_is_refused_and_nothing_of_it_runs(tmp_path):
    marker = tmp_path / "executed"
    with (tmp_path / "model_state.pdparams").open("wb") as stream:
        pickle.dump({**TENSORS, "evil": Evil(marker)}, stream, protocol=4)
    with pytest.raises(weights.WeightsError, match="system"):
        weights.read(tmp_path / "model_state.pdparams")
    assert not marker.exists()


@pytest.mark.parametrize("whole", [False, True], ids=["one value", "the whole"])
def test_a_malicious_pth_is_refused_and_nothing_of_it_runs(tmp_path, whole):
    marker = tmp_path / "executed"
    evil = Evil(marker)
    torch_file.save(evil if whole else {"a": np.ones(1, np.float32), "evil": evil}, tmp_path / "sam.pth")
    with pytest.raises(weights.WeightsError, match="system"):
        weights.read(tmp_path / "sam.pth")
    assert not marker.exists()


def test_the_malicious_pickle_would_run_if_it_were_loaded(tmp_path):
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


def test_a_checkpoint_of_wrong_shapes_cannot_be_made():
    with pytest.raises(weights.WeightsError, match=r"pos_embed: expected shape"):
        Checkpoint("x", tiny(256), checkpoints.random_tensors(tiny(128)), "0" * 64, "native", Path("x"))


@pytest.mark.parametrize(
    "missing", [("score",), ("mask_input",), ("points",), ("boxes",), ("negative_points", "score")]
)
def test_capabilities_follow_from_the_parameters_that_are_there(missing):
    checkpoint = checkpoints.random_checkpoint(MINUTE, without=missing)
    assert checkpoint.capabilities == set(parameters.CAPABILITIES) - set(missing)


def test_half_of_a_capability_is_refused():
    tensors = {name: value for name, value in TENSORS.items() if name != parameters.point_embedding(3)}
    with pytest.raises(weights.WeightsError, match="boxes: expected all"):
        Checkpoint("x", MINUTE, tensors, "0" * 64, "native", Path("x"))


def test_weights_without_points_and_boxes_are_refused():
    with pytest.raises(weights.WeightsError, match="neither"):
        checkpoints.random_checkpoint(MINUTE, without=("points", "boxes"))


def test_two_pruned_exports_of_one_network_merge_to_what_both_can_do():
    box = checkpoints.random_checkpoint(MINUTE, without=("points", "negative_points", "score", "mask_input"))
    point = checkpoints.random_checkpoint(MINUTE, without=("boxes", "negative_points", "mask_input"))
    for merged in (weights.merge(box, point), weights.merge(point, box)):
        assert merged.capabilities == {"boxes", "points", "score"}
        assert merged.config.iou_head_hidden_dim == MINUTE.iou_head_hidden_dim
        assert np.array_equal(merged.tensors[parameters.point_embedding(2)], box.tensors[parameters.point_embedding(2)])
        assert np.array_equal(merged.tensors[parameters.NOT_A_POINT], point.tensors[parameters.NOT_A_POINT])
    assert weights.merge(box, point).digest == weights.merge(point, box).digest


@pytest.mark.parametrize(
    ("names_of", "merged"), [(("SAM-H_box", "SAM-H_point"), "SAM-H_box+SAM-H_point"), (("SAM", "SAM"), "SAM+SAM")]
)
def test_two_exports_are_the_same_model_in_either_order(names_of, merged):
    box = checkpoints.random_checkpoint(MINUTE, without=("points", "negative_points", "score", "mask_input"))
    point = checkpoints.random_checkpoint(MINUTE, without=("boxes", "negative_points", "score", "mask_input"))
    box, point = (
        replace(box, name=names_of[0], digest="b" * 64),
        replace(point, name=names_of[1], digest="a" * 64),
    )
    first, second = weights.merge(box, point), weights.merge(point, box)
    assert first.model_version == second.model_version
    assert first.name == merged
    assert first.config == second.config
    assert checkpoints.differing(first, second.tensors) == []


def test_exports_of_different_weights_do_not_merge():
    box = checkpoints.random_checkpoint(MINUTE, seed=1, without=("points",))
    point = checkpoints.random_checkpoint(MINUTE, seed=2, without=("boxes",))
    with pytest.raises(weights.WeightsError, match="two different"):
        weights.merge(box, point)
    with pytest.raises(weights.WeightsError, match="one network"):
        weights.merge(box, checkpoints.random_checkpoint(tiny(), without=("boxes",)))


def test_reading_needs_memory_for_one_tensor_not_for_the_file(written):
    import tracemalloc

    # The readers map files; what they allocate themselves must not grow with the weights.
    checkpoint = weights.read(written["meta"])
    largest = max(value.nbytes for value in TENSORS.values())
    tracemalloc.start()
    for name in checkpoint.tensors:
        checkpoint.tensors[name]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * largest + 50_000


def tensors_or_refusal(path):
    """What weights hold, or the sentence that refuses them; any other error goes through."""
    try:
        return dict(weights.read(path).tensors)
    except weights.WeightsError as error:
        return str(error)
