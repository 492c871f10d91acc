"""A detector's program is executed, so it is refused unless every operator only computes."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest

from model.detection import operators
from model.detection.directory import read
from model.detection.engine import Engine
from model.detection.program import read_checked
from model.weights import WeightsError
from tests.support.weights_files import GOLDEN

HOSTILE = [
    "1.print", "1.py_func", "1.load_combine", "1.save_combine", "1.save", "1.load", "1.read_file", "1.decode_jpeg",
    "1.send_v2", "1.run_program", "1.tensorrt_engine", "1.all_reduce", "1.pylayer", "1.assert", "3.my_op",
    "custom_op.my_op", "1.unheard_of", "1.add.py_func", "9.add", "",
]  # fmt: skip


def with_operator(source, target, name):
    """Copy a directory and put one more operator into its program."""
    shutil.copytree(source, target)
    content = json.loads((target / "inference.json").read_text())
    block = content["program"]["regions"][0]["blocks"][0]["ops"]
    block.insert(len(block) - 1, {"#": name, "A": [], "I": [], "O": []})
    (target / "inference.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("name", HOSTILE)
def test_an_operator_that_does_more_than_compute_is_refused_by_its_name(picodet, tmp_path, name):
    hostile = with_operator(picodet, tmp_path / "hostile", name)
    with pytest.raises(WeightsError, match="expected a program that only computes") as refusal:
        read(hostile)
    assert name in str(refusal.value)


def test_an_operator_inside_a_branch_is_refused_too(picodet, tmp_path):
    shutil.copytree(picodet, tmp_path / "hostile")
    program = tmp_path / "hostile" / "inference.json"
    content = json.loads(program.read_text())
    inner = {"blocks": [{"#": "block_1", "args": [], "ops": [{"#": "1.py_func", "A": [], "I": [], "O": []}]}]}
    content["program"]["regions"][0]["blocks"][0]["ops"].insert(
        0, {"#": "1.if", "A": [], "I": [], "O": [], "regions": [inner]}
    )
    program.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"1\.py_func"):
        read_checked(program)


@pytest.mark.parametrize("name", ["legacy_box_2.6.2", "legacy_point_3.0.0"])
def test_a_program_of_an_older_paddle_is_read(name):
    program = read_checked(GOLDEN / name / "inference.pdmodel")
    assert program.inputs == {"img": "float32", "prompt": "float32"}
    assert (program.outputs, program.is_pir) == (1, False)


def test_an_operator_of_an_older_program_is_refused_by_its_name(tmp_path):
    data = (GOLDEN / "legacy_box_2.6.2" / "inference.pdmodel").read_bytes()
    (tmp_path / "inference.pdmodel").write_bytes(data.replace(b"\x04relu", b"\x04save"))
    with pytest.raises(WeightsError, match="got the operators save;"):
        read_checked(tmp_path / "inference.pdmodel")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"{", b"\xff\xfe", b'{"base_code": {"magic": "pir"}, "program": 3}']
)
@pytest.mark.parametrize("name", ["inference.json", "inference.pdmodel"])
def test_what_is_no_program_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="expected a whole program of Paddle"):
        read_checked(tmp_path / name)


def test_a_program_of_many_levels_is_refused(tmp_path):
    depth = 50_000
    (tmp_path / "inference.json").write_text(
        '{"base_code": {"magic": "pir"}, "program": ' + "[" * depth + "]" * depth + "}"
    )
    with pytest.raises(WeightsError, match="expected a whole program of Paddle"):
        read_checked(tmp_path / "inference.json")


def test_every_allowed_operator_is_one_of_paddle():
    names = set(paddle.base.core.get_all_op_names()) | set(dir(importlib.import_module("paddle._C_ops")))
    names |= {"if", "while", "array_write"}
    names |= {name.removesuffix("_") for name in names}
    older = {"brelu", "pad2d"}  # of Paddle 2
    newer = {"interp_antialias", "linear_v2", "std", "var"} if paddle.__version__.startswith("3.2.") else set()
    assert operators.COMPUTING - names - older - newer == set()


def test_reading_a_directory_executes_nothing_and_needs_no_paddle(picodet):
    code = (
        "import sys; from model.detection import directory; "
        f"found = directory.read({str(picodet)!r}); print(found.kind, 'paddle' in sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.stdout.split() == ["closed_vocabulary", "False"], completed.stderr


def test_a_program_of_an_older_paddle_runs():
    program = read_checked(GOLDEN / "legacy_box_2.6.2" / "inference.pdmodel")
    engine = Engine(program, GOLDEN / "legacy_box_2.6.2" / "inference.pdiparams", "cpu")
    picture = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (one_box,) = engine.run([picture, np.array([[4, 4, 20, 20]])])
    (two_boxes,) = engine.run([picture, np.array([[4, 4, 20, 20], [2, 10, 30, 25]])])
    assert (one_box.shape, two_boxes.shape) == ((1, 1, 16, 16), (2, 1, 16, 16))
    np.testing.assert_allclose(one_box[0], two_boxes[0], atol=1e-4)
    assert np.ptp(one_box) > 0


def test_a_program_that_cannot_compute_with_its_inputs_says_so():
    program = read_checked(GOLDEN / "legacy_box_2.6.2" / "inference.pdmodel")
    engine = Engine(program, GOLDEN / "legacy_box_2.6.2" / "inference.pdiparams", "cpu")
    with pytest.raises(WeightsError, match="expected a detector's program, got: "):
        engine.run([np.zeros((1, 3, 64, 64), np.float32), np.zeros((1, 4), np.float32)])
