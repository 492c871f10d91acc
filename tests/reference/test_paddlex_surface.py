"""The example of PaddleX's documentation gives the same files with this project as with PaddleX itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.weights.export import export
from model.weights.formats import native
from tests.reference.random_weights import photo

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "reference" / "users_document.py"
BOXES = [
    [112.9239073271089, 118.38755798339844, 513.7587890625, 382.0570068359375],
    [4.597158432006836, 263.5540771484375, 92.20092010498047, 336.5640869140625],
    [592.3548583984375, 260.8838806152344, 607.1813354492188, 294.2261962890625],
]


@pytest.fixture(scope="module")
def paddlex_python():
    """The interpreter of an environment with PaddleX: PADDLEX_PYTHON, or the one that ``make test-all`` makes."""
    path = Path(os.environ.get("PADDLEX_PYTHON", ROOT / ".venv-paddlex" / "bin" / "python"))
    if not path.exists():
        pytest.skip(f"no PaddleX: {path} does not exist")
    return path


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}
    completed = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize(
    ("kind", "prompts"), [("box", {"box_prompt": BOXES}), ("point", {"point_prompt": [[500, 375]]})]
)
def test_the_documented_example_writes_the_same_files(tmp_path, paddlex_python, tiny_checkpoint, kind, prompts):
    weights = native.write(tiny_checkpoint, tmp_path / "tiny.safetensors")
    model_name, directory = f"SAM-H_{kind}", tmp_path / f"SAM-H_{kind}_infer"
    run(
        sys.executable,
        "-m",
        "model",
        "export",
        directory,
        "--format",
        "paddlex",
        "--prompt",
        kind,
        "--weights",
        weights,
    )
    Image.fromarray(photo(480, 640)).save(tmp_path / "photo.jpg", quality=90)
    for python, library in ((paddlex_python, "paddlex"), (sys.executable, "model")):
        out = tmp_path / library
        run(python, SCRIPT, library, model_name, directory, tmp_path / "photo.jpg", out, json.dumps(prompts))
    theirs, ours = tmp_path / "paddlex", tmp_path / "model"
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    assert json.loads((ours / "facts.json").read_text()) == json.loads((theirs / "facts.json").read_text())
    for name, indent in (("photo_res.json", 4), ("res.json", 2)):
        expected, actual = (json.loads((folder / name).read_text()) for folder in (theirs, ours))
        for first, second in zip(expected["masks"], actual["masks"], strict=True):
            assert np.count_nonzero(np.array(first) != np.array(second)) <= 2
        for info in actual["mask_infos"]:
            del info["score"]  # ours alone
        assert {**actual, "masks": expected["masks"]} == expected
        text = json.dumps({**actual, "masks": expected["masks"]}, indent=indent, ensure_ascii=name == "res.json")
        assert text == (theirs / name).read_text()
    with Image.open(ours / "photo_res.jpg") as first, Image.open(theirs / "photo_res.jpg") as second:
        assert first.size == second.size


FACTS = """
import importlib, json, re, sys, tempfile
from pathlib import Path
import numpy as np
library, directory = sys.argv[1:]
create_model = importlib.import_module(library).create_model
facts = {}
for name in ("SAM-H_point", "mine"):
    try:
        create_model(name, model_dir=directory)
    except ValueError as error:
        facts[name] = str(error).startswith("Model name mismatch") or "expected one of" in str(error)
model = create_model("SAM-H_box", model_dir=directory, use_hpip=False, hpi_config=None)
out = Path(tempfile.mkdtemp())
for result in model.predict([np.zeros((40, 60, 3), np.uint8)] * 2, prompts={"box_prompt": [[1, 2, 30, 40]]}):
    result.save_to_img(f"{out}/")
    result.save_to_json(f"{out}/")
facts["files"] = sorted({re.sub("[0-9]{10}_[1-9][0-9]{3}", "SECOND_NUMBER", path.name) for path in out.iterdir()})
facts["count"] = len(list(out.iterdir()))
try:
    list(model.predict(np.zeros((40, 60, 3), np.uint8)))
except (TypeError, ValueError) as error:
    facts["no prompts"] = "prompts" in str(error)
Path(sys.argv[0]).with_name(f"{library}.json").write_text(json.dumps(facts))
"""


def test_names_prompts_and_files_of_arrays_are_taken_as_paddlex_takes_them(tmp_path, paddlex_python, tiny_checkpoint):
    directory = export(tiny_checkpoint, tmp_path / "SAM-H_box_infer")
    (tmp_path / "facts.py").write_text(FACTS)
    for python, library in ((paddlex_python, "paddlex"), (sys.executable, "model")):
        run(python, tmp_path / "facts.py", library, directory)
    theirs, ours = (json.loads((tmp_path / f"{library}.json").read_text()) for library in ("paddlex", "model"))
    assert ours == theirs
    assert ours["files"] == ["SECOND_NUMBER_res.json", "SECOND_NUMBER_res.png"]
    assert (ours["SAM-H_point"], ours["mine"], ours["no prompts"]) == (True, True, True)
