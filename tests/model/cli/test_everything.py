"""``python -m model segment --everything`` and ``--coco-out``: what they write, what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image

from model.coco import rle as coco_rle
from model.paddlex.model import DEMO_WEIGHTS
from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint
from tests.support.command_line import files_below, pixels, run

LOOSE = (
    "--everything", "--points-per-side", 3, "--pred-iou-thresh", 0, "--stability-score-thresh", 0,
    "--box-nms-thresh", 1,
)  # fmt: skip


def test_everything_in_a_photo_becomes_masks_an_overlay_and_json(weights, photos, tmp_path):
    out = tmp_path / "out"
    result = run("segment", photos / "a.jpg", "--weights", weights, *LOOSE, "--out", out)
    assert (result.exit_code, result.stdout) == (0, f"1 of 1 pictures segmented, see {out}\n")
    record = json.loads((out / "a_res.json").read_text())
    count = len(record["masks"])
    assert 1 < count <= 27
    assert files_below(out) == sorted(
        ["a_res.jpg", "a_res.json", *[f"a_mask_{number}.png" for number in range(1, count + 1)]]
    )
    for name, info in zip(record["masks"], record["mask_infos"], strict=True):
        mask = pixels(out / name)
        assert mask.shape == (80, 120)
        assert np.count_nonzero(mask) == info["area"] > 0
        assert list(info) == ["area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]
    assert record["model_version"].startswith("small@")
    scores = [info["predicted_iou"] for info in record["mask_infos"]]
    assert scores == sorted(scores, reverse=True)
    assert pixels(out / "a_res.jpg").shape == (80, 120, 3)


def test_one_coco_file_holds_the_masks_of_all_pictures_as_the_pngs_show_them(weights, photos, tmp_path):
    out, path = tmp_path / "out", tmp_path / "masks" / "coco.json"
    result = run("segment", photos, "--weights", weights, *LOOSE, "--max-masks", 4, "--out", out, "--coco-out", path)
    assert (result.exit_code, result.stdout) == (0, f"2 of 2 pictures segmented, see {out} and {path}\n")
    coco = json.loads(path.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "more/b.png"]
    assert len(coco["annotations"]) == 8
    names = [f"a_mask_{number}.png" for number in range(1, 5)] + [f"more/b_mask_{number}.png" for number in range(1, 5)]
    for name, annotation in zip(names, coco["annotations"], strict=True):
        rle = coco_rle.parse(annotation["segmentation"])
        np.testing.assert_array_equal(coco_rle.decode(rle).to_array(), pixels(out / name) > 0)
        assert (annotation["area"], annotation["bbox"]) == (rle.area, list(rle.bbox))
        assert {"predicted_iou", "stability_score", "point_coords", "crop_box", "score"} <= set(annotation)
    assert coco["info"]["description"].startswith("Masks made by small@")


def test_masks_of_boxes_and_points_go_into_a_coco_file_too_and_need_no_directory(weights, photos, tmp_path):
    path = tmp_path / "coco.json"
    result = run("segment", photos / "a.jpg", "--weights", weights, "--box", "10,10,60,70", "--point", "90,40",
               "--coco-out", path)  # fmt: skip
    assert (result.exit_code, result.stdout) == (0, f"1 of 1 pictures segmented, see {path}\n")
    assert files_below(tmp_path) == ["coco.json", "photos/a.jpg", "photos/more/b.png"]
    annotations = json.loads(path.read_text())["annotations"]
    assert [annotation["id"] for annotation in annotations] == [1, 2]
    assert all(0 <= annotation["score"] <= 1 for annotation in annotations)
    assert all(coco_rle.parse(annotation["segmentation"]).size == (80, 120) for annotation in annotations)


def test_a_photo_that_cannot_be_read_is_not_in_the_coco_file(weights, photos, tmp_path):
    (photos / "half.jpg").write_bytes((photos / "a.jpg").read_bytes()[:900])
    result = run("segment", photos, "--weights", weights, *LOOSE, "--coco-out", tmp_path / "coco.json")
    assert result.exit_code == 1
    assert "half.jpg: expected a readable picture" in result.stderr
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "more/b.png"]


def test_pictures_of_one_name_are_distinguished_by_their_paths(weights, photos, tmp_path):
    result = run("segment", photos / "a.jpg", photos, "--weights", weights, *LOOSE, "--max-masks", 1,
               "--coco-out", tmp_path / "coco.json")  # fmt: skip
    assert result.exit_code == 0
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.jpg", str(photos / "a.jpg"), "more/b.png"]


def test_where_nothing_passes_the_filters_the_output_names_them(weights, photos, tmp_path):
    out = tmp_path / "out"
    result = run(
        "segment", photos / "a.jpg", "--weights", weights, "--everything", "--points-per-side", 2, "--out", out
    )
    assert result.exit_code == 0
    assert (
        f"{photos / 'a.jpg'}: nothing passes the filters; --pred-iou-thresh 0.88 and --stability-score-thresh 0.95 "
        "can be lowered" in result.stderr
    )
    assert json.loads((out / "a_res.json").read_text())["masks"] == []


def test_the_demo_model_has_thresholds_of_its_own(tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "black.png")
    result = run("segment", tmp_path / "black.png", "--weights", DEMO_WEIGHTS, "--everything", "--points-per-side", 1,
               "--min-area-share", 1, "--out", tmp_path / "out")  # fmt: skip
    assert "--pred-iou-thresh 0.65 and --stability-score-thresh 0.8 can" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--everything", "--box", "1,2,3,4", "--out", "out"], "--everything: expected no --box and no --point"),
        (["--everything", "--point", "1,2", "--out", "out"], "--everything: expected no --box and no --point"),
        (["--points-per-side", "3", "--out", "out"], "--points-per-side: expected --everything beside it"),
        (["--max-masks", "3", "--box", "1,2,3,4", "--out", "out"], "--max-masks: expected --everything beside it"),
        (["--everything"], "expected --out DIR, --coco-out FILE or both"),
        (["--everything", "--points-per-side", "0", "--out", "out"], "Invalid value for '--points-per-side'"),
        (["--everything", "--pred-iou-thresh", "88", "--out", "out"], "Invalid value for '--pred-iou-thresh'"),
        (
            ["--everything", "--min-area-share", "0.5", "--max-area-share", "0.1", "--out", "out"],
            "--min-area-share: expected at most max_area_share=0.1, got 0.5",
        ),
        (
            ["--everything", "--points-per-side", "3", "--crop-n-layers", "2", "--crop-n-points-downscale-factor", "2",
             "--out", "out"],
            "--points-per-side: expected a whole number of at least 4, got 3",
        ),
        (["--box", "1,2,30,40", "--coco-out", "photos/a.jpg/coco.json"], "photos/a.jpg: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_writes_nothing(weights, photos, monkeypatch, arguments, sentence):
    monkeypatch.chdir(photos.parent)
    result = run("segment", "photos", "--weights", weights, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr.splitlines()[-1]
    assert files_below(photos.parent) == ["photos/a.jpg", "photos/more/b.png"]


@pytest.mark.parametrize(
    ("inputs", "file"),
    [
        (["a.jpg"], "a.jpg"),
        (["."], "more/b.png"),
        (["."], "more/../a.jpg"),
        (["a.jpg"], "A.JPG"),
        (["plain"], "plain"),
        (["a.jpg"], "link"),
        (["."], "folder/b.png"),
        (["linked.png"], "more/b.png"),
        (["plain"], "hard"),
        (["coco.json.part"], "coco.json"),
        (["plain"], "coco"),
    ],
)
def test_a_picture_is_never_overwritten_by_the_coco_file(photos, monkeypatch, inputs, file):
    monkeypatch.chdir(photos)
    for name in ("plain", "coco.json.part"):
        (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    (photos / "link").symlink_to("a.jpg")
    (photos / "linked.png").symlink_to("more/b.png")
    (photos / "folder").symlink_to("more")
    (photos / "hard").hardlink_to("plain")
    (photos / "coco.part").symlink_to("plain")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    result = run("segment", *inputs, "--weights", "nowhere.pth", "--box", "1,2,30,40", "--coco-out", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{file}: expected another file to write to (--coco-out)" in result.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


def test_a_picture_that_is_taken_for_the_coco_file_is_left_alone(photos, monkeypatch):
    monkeypatch.chdir(photos)
    before = (photos / "a.jpg").read_bytes()
    result = run("segment", "--coco-out", "a.jpg", "more/b.png", "--weights", "nowhere.pth", "--everything")
    assert result.exit_code == 2
    assert "a.jpg: expected another file to write to (--coco-out), such as masks.json, got a picture" in result.stderr
    assert (photos / "a.jpg").read_bytes() == before


def test_the_coco_file_may_lie_among_the_pictures_and_be_written_again(weights, photos):
    for _ in range(2):
        result = run(
            "segment", photos, "--weights", weights, *LOOSE, "--max-masks", 1, "--coco-out", photos / "coco.json"
        )
        assert (result.exit_code, result.stderr) == (0, "")
    assert len(json.loads((photos / "coco.json").read_text())["images"]) == 2


def test_weights_without_points_are_refused_before_anything_is_written(photos, tmp_path):
    path = native.write(random_checkpoint(without=("points",)), tmp_path / "boxes.safetensors")
    result = run("segment", photos, "--weights", path, "--everything", "--out", tmp_path / "out",
               "--coco-out", tmp_path / "coco.json")  # fmt: skip
    assert result.exit_code == 2
    assert "expected weights that take points, got boxes" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "coco.json").exists()
