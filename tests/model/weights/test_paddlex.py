"""PaddleX inference directories of several writers: every parameter is found by two orders, every mismatch refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import weights
from model.weights import parameters
from model.weights.formats import paddle_mapping, paddle_program
from tests.golden.paddlex import make as golden
from tests.support import checkpoints
from tests.support.weights_files import GOLDEN, golden_directory

MINUTE = golden.MINUTE
TENSORS = checkpoints.random_tensors(MINUTE, golden.SEED)
GOLDENS = ("legacy_box_2.6.2", "legacy_point_3.0.0", "pir_box_3.0.0")
CAPABILITIES = {
    "legacy_box_2.6.2": {"boxes"},
    "legacy_point_3.0.0": {"points"},
    "pir_box_3.0.0": set(parameters.CAPABILITIES),  # this Paddle keeps what the graph does not use
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("paddlex")
    return {name: golden_directory(name, folder / f"{name}_infer") for name in GOLDENS}


@pytest.fixture
def copy(directories, tmp_path):
    """A copy of a golden directory that a test may spoil."""
    return lambda name: Path(shutil.copytree(directories[name], tmp_path / name))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports of the plain network by the Paddle that is installed."""
    from tests.support import paddle_reference_network as reference

    def export(**options) -> Path:
        directory = tmp_path_factory.mktemp("export")
        tensors = options.pop("tensors", TENSORS)
        reference.save(reference.build(MINUTE, tensors, **options), MINUTE, str(directory / "inference"))
        return directory

    return export


def wrong(checkpoint: weights.Checkpoint, tensors=TENSORS) -> list[str]:
    return [name for name, value in checkpoint.tensors.items() if not np.array_equal(value, tensors[name])]


@pytest.mark.parametrize("name", GOLDENS)
def test_parameters_of_other_paddles_exports_land_under_their_names(directories, name):
    checkpoint = weights.read(directories[name])
    assert wrong(checkpoint) == []
    assert checkpoint.capabilities == CAPABILITIES[name]
    assert replace(checkpoint.config, name="minute", mask_in_chans=8, iou_head_hidden_dim=12) == MINUTE


@pytest.mark.parametrize(
    ("options", "capabilities"),
    [
        ({"kind": "box"}, {"boxes"}),
        ({"kind": "point"}, {"points"}),
        ({"kind": "box", "score": True}, {"boxes", "score"}),
        ({"kind": "point", "score": True}, {"points", "score"}),
    ],
)
def test_parameters_of_this_paddles_exports_land_under_their_names(exported, options, capabilities):
    checkpoint = weights.read(exported(**options))
    assert wrong(checkpoint) == []
    assert checkpoint.capabilities == capabilities


def test_an_export_with_relative_positions_of_a_larger_input_is_fitted_to_its_own(exported):
    larger = dict(TENSORS)
    for axis in "hw":
        name = f"image_encoder.blocks.1.attn.rel_pos_{axis}"
        larger[name] = np.linspace(-1, 1, 15 * 8, dtype=np.float32).reshape(15, 8)
    checkpoint = weights.read(exported(tensors=larger, rel_pos_grid=8))
    assert set(wrong(checkpoint)) == {f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw"}
    assert checkpoint.tensors["image_encoder.blocks.1.attn.rel_pos_h"].shape == (7, 8)


def test_the_box_and_the_point_export_merge(directories, exported):
    merged = weights.merge(weights.read(directories["legacy_box_2.6.2"]), weights.read(exported(kind="point")))
    assert merged.capabilities == {"boxes", "points"}
    assert wrong(merged) == []


@pytest.mark.parametrize("name", GOLDENS)
def test_the_two_orders_agree_when_each_is_taken_alone(directories, name):
    """The numbers in the names, sorted by kind of layer, give the same assignment as the order of use."""
    directory = directories[name]
    path = directory / "inference.json"
    parsed = (
        paddle_program.parse_pir(path.read_bytes())
        if path.exists()
        else paddle_program.parse_legacy((directory / "inference.pdmodel").read_bytes())
    )
    assigned = paddle_mapping.assign(parsed)
    rank = {meta: at for at, meta in enumerate(parameters.parameters(MINUTE))}
    for kind in ("linear", "layer_norm", "conv2d", "conv2d_transpose", "embedding", "create_parameter"):
        of_kind = [unique for unique in assigned if unique.split(".")[0].rpartition("_")[0] == kind]
        numbered = sorted(of_kind, key=lambda unique: (number(unique), ".b_" in unique))
        assert [rank[assigned[unique]] for unique in numbered] == sorted(rank[assigned[unique]] for unique in numbered)
        assert numbered, kind


def number(unique: str) -> int:
    return int(unique.split(".")[0].rpartition("_")[2])


def swap_names(directory: Path, first: str, second: str) -> None:
    """Exchange two unique names in a program, as if its layers had been created in another order."""
    path = directory / "inference.json"
    text = path.read_text().replace(f'"{first}"', '"?"').replace(f'"{second}"', f'"{first}"')
    path.write_text(text.replace('"?"', f'"{second}"'))


def swap_uses(directory: Path, first: str, second: str) -> None:
    """Exchange two parameters where a program uses them, their names staying as they are."""
    path = directory / "inference.json"
    content = json.loads(path.read_text())
    operations = content["program"]["regions"][0]["blocks"][0]["ops"]
    at = {op["A"][3]: op["O"]["%"] for op in operations if op["#"] == "p"}
    exchanged = {at[first]: at[second], at[second]: at[first]}
    for operation in operations:
        for operand in operation.get("I", ()):
            operand["%"] = exchanged.get(operand["%"], operand["%"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("swap", [swap_names, swap_uses])
@pytest.mark.parametrize(
    "pair",
    [
        ("linear_9.w_0", "linear_10.w_0"),  # query and key of one attention: equal in shape
        ("create_parameter_1.w_0", "create_parameter_2.w_0"),  # the two axes of the relative positions
        ("layer_norm_5.b_0", "layer_norm_6.b_0"),
        ("embedding_2.w_0", "embedding_3.w_0"),  # the two corners of a box
        ("embedding_5.w_0", "embedding_6.w_0"),  # no mask and the IoU token
    ],
)
def test_a_program_whose_two_orders_disagree_is_refused(copy, swap, pair):
    directory = copy("pir_box_3.0.0")
    swap(directory, *pair)
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(directory)
    assert str(directory) in str(caught.value)


def test_a_box_program_that_says_it_takes_points_is_refused(copy):
    directory = copy("pir_box_3.0.0")
    path = directory / "inference.json"
    content = json.loads(path.read_text())
    for operation in content["program"]["regions"][0]["blocks"][0]["ops"]:
        if operation["#"] == "1.data" and operation["A"][0]["AT"]["D"] == "prompt":
            operation["O"][0]["TT"]["D"][1] = [1, -1, 2]
    path.write_text(json.dumps(content))
    with pytest.raises(weights.WeightsError, match="one kind of prompt"):
        weights.read(directory)


def test_an_image_size_that_differs_between_the_files_is_refused(copy):
    directory = copy("legacy_box_2.6.2")
    description = directory / "inference.yml"
    description.write_text(description.read_text().replace("size: 32", "size: 1024"))
    with pytest.raises(weights.WeightsError, match=r"inference\.yml: expected Processor.size 32 .* got 1024"):
        weights.read(directory)
    description.unlink()
    assert weights.read(directory).config.image_size == 32


def test_an_image_input_of_another_size_than_the_weights_is_refused(copy):
    directory = copy("pir_box_3.0.0")
    path = directory / "inference.json"
    path.write_text(path.read_text().replace("[1,3,32,32]", "[1,3,64,64]"))
    with pytest.raises(weights.WeightsError, match="image input of 32"):
        weights.read(directory)


@pytest.mark.parametrize("missing", ["inference.pdmodel", "inference.pdiparams"])
def test_a_directory_without_one_of_its_files_is_refused(copy, missing):
    directory = copy("legacy_box_2.6.2")
    (directory / missing).unlink()
    with pytest.raises(weights.WeightsError, match=r"expected inference\.json or inference\.pdmodel"):
        weights.read(directory)


def test_a_file_of_the_directory_stands_for_the_directory(directories):
    directory = directories["legacy_box_2.6.2"]
    assert weights.read(directory / "inference.pdiparams").digest == weights.read(directory).digest


def test_parameters_of_another_program_are_refused(copy, directories):
    directory = copy("pir_box_3.0.0")
    shutil.copy(directories["legacy_box_2.6.2"] / "inference.pdiparams", directory)
    with pytest.raises(weights.WeightsError, match=r"inference\.pdiparams: expected"):
        weights.read(directory)


def test_a_parameter_file_with_something_after_its_end_is_refused(copy):
    directory = copy("legacy_box_2.6.2")
    with (directory / "inference.pdiparams").open("ab") as stream:
        stream.write(bytes(16))
    with pytest.raises(weights.WeightsError, match="got 84592 bytes"):
        weights.read(directory)


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("file_kind", ["program", "parameters"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_directory_is_refused_in_a_sentence_that_names_the_file(
    directories, tmp_path, name, file_kind, part
):
    target = Path(shutil.copytree(directories[name], tmp_path / "spoilt", dirs_exist_ok=True))
    suffix = {"program": ".json" if name.startswith("pir") else ".pdmodel", "parameters": ".pdiparams"}[file_kind]
    path = target / f"inference{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(target)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOLDENS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_directory_is_refused_or_read_but_never_ends_in_another_error(directories, tmp_path, name, data):
    target = Path(shutil.copytree(directories[name], tmp_path / "spoilt", dirs_exist_ok=True))
    path = data.draw(st.sampled_from(sorted(target.iterdir())))
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    checkpoint = tensors_or_refusal(target)
    assert target.name in checkpoint if isinstance(checkpoint, str) else checkpoint


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", '{"base_code": {"magic": "pir"}, "program": {}}', "[" * 100000]
)
def test_json_that_is_no_program_is_refused(copy, content):
    directory = copy("pir_box_3.0.0")
    (directory / "inference.json").write_text(content)
    with pytest.raises(weights.WeightsError, match=r"inference\.json: expected"):
        weights.read(directory)


def test_the_golden_files_hold_nothing_of_the_disk_they_were_made_on():
    for file in GOLDEN.rglob("inference.pdmodel"):
        assert b"op_callstack" not in file.read_bytes()


def tensors_or_refusal(path):
    """What weights hold, or the sentence that refuses them; any other error goes through."""
    try:
        return dict(weights.read(path).tensors)
    except weights.WeightsError as error:
        return str(error)
