"""``python -m model``: what it writes, what it says, how it ends."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from model.weights.formats import native
from tests.reference.random_weights import photo
from tests.support.checkpoints import random_checkpoint
from tests.support.command_line import files_below, pixels, run


def test_segment_writes_masks_a_picture_and_json_for_every_photo_in_a_directory(weights, photos, tmp_path):
    out = tmp_path / "out"
    result = run("segment", photos, "--weights", weights, "--box", "10,10,60,70", "--point", "90,40", "--out", out)
    assert (result.exit_code, result.stdout) == (0, f"2 of 2 pictures segmented, see {out}\n")
    assert files_below(out) == [
        "a_mask_1.png", "a_mask_2.png", "a_res.jpg", "a_res.json",
        "more/b_mask_1.png", "more/b_mask_2.png", "more/b_res.jpg", "more/b_res.json",
    ]  # fmt: skip
    mask = pixels(out / "a_mask_1.png")
    assert (mask.shape, set(np.unique(mask)) <= {0, 255}) == ((80, 120), True)
    assert pixels(out / "a_res.jpg").shape == (80, 120, 3)


def test_the_json_names_the_masks_and_says_what_was_asked(weights, photos, tmp_path):
    result = run("segment", photos / "a.jpg", "--weights", weights, "--box", "10,10,60,70", "--point", "20,20,0",
               "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0
    record = json.loads((tmp_path / "a_res.json").read_text())
    assert record["masks"] == ["a_mask_1.png"]
    assert record["input_path"] == str(photos / "a.jpg")
    (info,) = record["mask_infos"]
    assert (info["label"], info["prompt"], info["points"]) == ("box_prompt", [10, 10, 60, 70], [[20, 20, 0]])
    assert 0 <= info["score"] <= 1
    assert record["model_version"].startswith("small@")


def test_the_masks_are_those_of_predict(weights, photos, tmp_path):
    from model import create_model

    assert run("segment", photos / "a.jpg", "--weights", weights, "--point", "20,20", "--out", tmp_path).exit_code == 0
    model = create_model("SAM-H_point", weights)
    (result,) = model.predict(str(photos / "a.jpg"), prompts={"point_prompt": [[20, 20]]})
    assert result["masks"][0].any()
    np.testing.assert_array_equal(pixels(tmp_path / "a_mask_1.png") == 255, result["masks"][0] == 1)


def test_without_a_prompt_the_centre_is_segmented_and_the_output_says_so(weights, photos, tmp_path):
    result = run("segment", photos / "a.jpg", "--weights", weights, "--out", tmp_path)
    assert result.exit_code == 0
    assert "segmenting what lies at the centre" in result.stderr
    assert json.loads((tmp_path / "a_res.json").read_text())["mask_infos"][0]["prompt"] == [[60, 40, 1]]


def test_a_turned_photo_is_segmented_as_it_is_seen(weights, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(80, 120)).save(tmp_path / "turned.jpg", exif=exif)
    result = run(
        "segment", tmp_path / "turned.jpg", "--weights", weights, "--point", "40,100", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0
    assert pixels(tmp_path / "out" / "turned_mask_1.png").shape == (120, 80)


def test_bad_files_are_reported_and_the_others_are_done(weights, photos, tmp_path):
    (photos / "half.jpg").write_bytes((photos / "a.jpg").read_bytes()[:900])
    (photos / "page.png").write_text("<html>not found</html>")
    Image.fromarray(photo(20, 20)).save(photos / "small.png")
    result = run("segment", photos, "--weights", weights, "--box", "50,50,70,70", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout.startswith("2 of 5 pictures segmented")
    problems = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(problems) == 3
    assert "half.jpg: expected a readable picture" in problems[0]
    assert "page.png: expected a picture, got a file that begins with b'<html>" in problems[1]
    assert "small.png: box_prompt: expected a box in the picture of 20 × 20 pixels" in problems[2]
    assert not [name for name in files_below(tmp_path / "out") if name.startswith(("half", "page", "small"))]


def test_a_path_that_is_not_there_is_reported_and_the_others_are_done(weights, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("segment", "nowhere.jpg", photos / "a.jpg", tmp_path / "empty", photos / "more", "--weights", weights,
               "--out", tmp_path / "out", "--coco-out", tmp_path / "masks.json")  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout.startswith("2 of 4 pictures segmented")
    problems = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "nowhere.jpg: expected a picture or a directory of pictures, got no such file" in problems[0]
    assert f"{tmp_path / 'empty'}: expected pictures in this directory, got none" in problems[1]
    assert [name for name in files_below(tmp_path / "out") if name.endswith("json")] == ["a_res.json", "b_res.json"]
    assert len(json.loads((tmp_path / "masks.json").read_text())["images"]) == 2


def test_photos_of_one_name_do_not_overwrite_each_other(weights, photos, tmp_path):
    Image.fromarray(photo(80, 120, 7)).save(photos / "a.png")
    result = run("segment", photos / "a.jpg", photos / "a.png", photos / "a.png", "--weights", weights,
               "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0
    records = [json.loads((tmp_path / "out" / f"{name}_res.json").read_text()) for name in ("a", "a_png", "a_png_2")]
    assert [record["input_path"][-3:] for record in records] == ["jpg", "png", "png"]


def test_what_an_earlier_run_wrote_is_not_segmented_again(weights, photos):
    for _ in range(2):
        result = run("segment", photos, "--weights", weights, "--out", photos / "out")
        assert result.stdout.startswith("2 of 2 pictures")


def test_the_directory_of_the_pictures_is_no_place_for_what_is_found_in_them(weights, photos):
    before = files_below(photos)
    result = run("segment", photos, "--weights", weights, "--out", photos / "more" / "..")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected another directory to write to than that of the pictures" in result.stderr
    assert files_below(photos) == before


@pytest.mark.parametrize("name", ["a_res.jpg", "a_mask_1.png", "a_RES.JPG"])
def test_a_picture_is_never_overwritten_by_what_is_found_in_another(weights, photos, name):
    Image.fromarray(photo(40, 60, 3)).save(photos / name)
    content = (photos / name).read_bytes()
    result = run("segment", photos / "a.jpg", photos / name, "--weights", weights, "--out", photos)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{name}: expected another directory to write to (--out)" in result.stderr
    assert (photos / name).read_bytes() == content
    assert not (photos / "a_res.json").exists()


@pytest.mark.parametrize("picture_name", ["out/a_res.jpg", "more/b.png"])
def test_nor_is_it_through_a_link(weights, photos, picture_name):
    (photos / "out").mkdir()
    (photos / "out" / "a_res.jpg").symlink_to("../more/b.png")
    content = (photos / "more" / "b.png").read_bytes()
    result = run("segment", photos / "a.jpg", photos / picture_name, "--weights", weights, "--out", photos / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a_res.jpg: expected another directory to write to (--out)" in result.stderr
    assert (photos / "more" / "b.png").read_bytes() == content
    assert not (photos / "out" / "a_res.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--box", "1,2,3"], "expected x1,y1,x2,y2, got '1,2,3'"),
        (["--box", "a,b,c,d"], "expected x1,y1,x2,y2, got 'a,b,c,d'"),
        (["--point", "1,2,3,4"], r"expected x,y or x,y,0|1, got '1,2,3,4'"),
        (["--point", "1,2,7"], "Error: point_prompt: expected [x, y], [x, y, 1] or [x, y, 0] for each point"),
        (["--point", "1,2,0"], "Error: point_prompt: expected a point on the object"),
        (["--box", "nan,2,3,4"], "Error: box_prompt: expected pixels, got nan"),
        (["--device", "tpu"], "Error: device: expected auto, cpu or gpu:N, got 'tpu'"),
        (["--dtype", "float8"], "Error: dtype: expected one of float32, float16, bfloat16, got 'float8'"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(weights, photos, tmp_path, arguments, sentence):
    result = run("segment", photos, "--weights", weights, "--out", tmp_path / "out", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["segment", "nowhere.jpg", "--out", "out"], "nowhere.jpg: expected a picture or a directory of pictures"),
        (["inspect", "nowhere.pth"], "nowhere.pth: expected"),
        (["download", "sam_vit_x"], "sam_vit_x: expected one of mobile_sam"),
        (["export", "--format", "native", "--weights", "nowhere.pth", "out"], "nowhere.pth: expected"),
        (["benchmark", "--model", "sam_vit_x"], "sam_vit_x: expected one of demo, mobile_sam"),
    ],
)
def test_every_command_refuses_what_is_not_there(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_the_weights_cannot_take_is_refused_before_any_picture_is_read(photos, tmp_path):
    path = native.write(random_checkpoint(without=("boxes",)), tmp_path / "points.safetensors")
    (photos / "a.jpg").write_bytes(b"")
    result = run("segment", photos, "--weights", path, "--box", "1,2,30,40", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected negative points, points" in result.stderr.replace("mask input, ", "")
    assert "got boxes" in result.stderr


def test_two_pruned_exports_are_merged(photos, tmp_path):
    paths = [
        native.write(random_checkpoint(without=(missing,)), tmp_path / f"{missing}.safetensors")
        for missing in ("boxes", "points")
    ]
    result = run("segment", photos / "a.jpg", "--weights", paths[0], "--weights", paths[1], "--out", tmp_path / "out",
               "--box", "10,10,60,70", "--point", "90,40")  # fmt: skip
    assert result.exit_code == 0
    assert "boxes+points@" in json.loads((tmp_path / "out" / "a_res.json").read_text())["model_version"]


def test_inspect_shows_people_and_programs_the_same(weights):
    table, record = run("inspect", weights), json.loads(run("inspect", weights, "--json").stdout)
    assert table.exit_code == 0
    assert record["format"] == "native"
    assert record["input_size"] == [128, 128]
    assert record["capabilities"] == ["points", "negative_points", "boxes", "mask_input", "score"]
    rows = dict(line.split("  ", 1) for line in table.stdout.splitlines())
    assert rows["sha256"].strip() == record["digest"]
    assert rows["model version"].strip() == record["model_version"]
    assert rows["can take"].strip() == "points, negative points, boxes, mask input"


def test_inspect_takes_the_name_of_a_model_that_was_downloaded(weights, tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(weights.read_bytes())
    record = json.loads(run("inspect", "sam_vit_b", "--weights-dir", tmp_path, "--json").stdout)
    assert (record["path"], record["model_version"][:10]) == (str(path), "sam_vit_b@")
    assert json.loads(run("inspect", "demo", "--json").stdout)["model_version"].startswith("demo@")


def test_inspect_says_how_to_download_a_model_that_was_not(tmp_path):
    result = run("inspect", "SAM-H_box", "--weights-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: SAM-H_box: expected its weights in {tmp_path}, got none there; "
        "python -m model download SAM-H_box fetches them\n"
    )


def test_inspect_takes_a_path_by_a_models_name_for_the_path(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("export", "--format", "native", "--weights", weights, "sam_vit_b")
    assert json.loads(run("inspect", "sam_vit_b", "--json").stdout)["config"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "sam_vit_b",
            "Error: Model name mismatch: expected weights of sam_vit_b, got a Vision Transformer of 3 blocks",
        ),
        ("mine", "Error: mine: expected one of demo, mobile_sam, "),
    ],
)
def test_weights_of_another_model_than_was_named_are_refused(weights, photos, tmp_path, name, sentence):
    result = run("segment", photos, "--model", name, "--weights", weights, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(sentence)


def test_export_writes_weights_that_give_the_same_masks(weights, photos, tmp_path):
    result = run("export", "--format", "native", "--weights", weights, tmp_path / "exported")
    assert result.stdout == f"wrote {tmp_path / 'exported'}\n"
    for path, out in ((weights, "one"), (tmp_path / "exported", "two")):
        run("segment", photos / "a.jpg", "--weights", path, "--point", "20,20", "--out", tmp_path / out)
    first, second = (pixels(tmp_path / out / "a_mask_1.png") for out in ("one", "two"))
    assert first.any()
    np.testing.assert_array_equal(first, second)


def test_benchmark_prints_what_it_measured_beside_what_is_published(weights):
    result = run("benchmark", "--weights", weights, "--device", "cpu", "--runs", "1")
    assert result.exit_code == 0
    for part in ("small@", "cpu", "encoder", "decoder, 1 box", "16 at once", "peak memory", "144.9 ms", "33,920.7 ms"):
        assert part in result.stdout


def test_benchmark_gives_programs_numbers(weights):
    record = json.loads(run("benchmark", "--weights", weights, "--device", "cpu", "--runs", "1", "--json").stdout)
    assert (record["device"], record["prompt"], record["many"], record["input_size"]) == ("cpu", "box", 16, 128)
    assert 0 < record["decode_one_ms"] < record["decode_many_ms"]
    assert record["encode_ms"] > 0
    assert 50 < record["peak_memory_mb"] < 100_000


def test_the_environment_says_where_weights_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"")
    assert run("download", "sam_vit_b").stdout == f"{path}\n"


def test_a_command_in_a_process_of_its_own_says_one_sentence(photos, tmp_path):
    path = native.write(random_checkpoint(without=("boxes",)), tmp_path / "points.safetensors")
    command = [
        sys.executable,
        "-m",
        "model",
        "segment",
        photos,
        "--weights",
        path,
        "--box",
        "1,2,3,4",
        "--out",
        tmp_path / "out",
    ]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr.startswith("Error: points@")
    assert completed.stderr.count("\n") == 1
