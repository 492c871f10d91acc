"""``python -m model segment --text``: what words name becomes labelled masks; detectors in ``list`` and ``inspect``."""

import json

import pytest

from tests.support import detector_directories as directories
from tests.support.command_line import run


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    classes = ["cat", "walking man"]
    return directories.write_closed(tmp_path_factory.mktemp("detectors") / "PicoDet-S_infer", "PicoDet-S", classes)


def test_words_become_masks_with_their_labels_in_json_and_in_cocos_file(weights, photos, detector, tmp_path):
    out, coco = tmp_path / "out", tmp_path / "coco.json"
    result = run("segment", photos, "--weights", weights, "--text", "Cat, walking man", "--detector", detector,
               "--max-objects", "3", "--out", out, "--coco-out", coco)  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    record = json.loads((out / "a_res.json").read_text())
    assert len(record["masks"]) == len(record["mask_infos"]) == 3
    assert record["detector"].startswith("PicoDet-S@")
    for info in record["mask_infos"]:
        assert info["label"] in ("Cat", "walking man")
        assert 0.5 < info["detector_score"] <= 1
    written = json.loads(coco.read_text())
    assert [category["name"] for category in written["categories"]] == ["Cat", "walking man"]
    labels = [info["label"] for info in record["mask_infos"]]
    assert [annotation["category_id"] for annotation in written["annotations"]][:3] == [
        1 + ["Cat", "walking man"].index(label) for label in labels
    ]


def test_a_score_that_nothing_reaches_leaves_no_mask(weights, photos, detector, tmp_path):
    result = run("segment", photos / "a.jpg", "--weights", weights, "--text", "cat", "--detector", detector,
               "--min-score", "1", "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0
    assert json.loads((tmp_path / "a_res.json").read_text())["masks"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "cat"], "--text: expected --detector beside it"),
        (["--text", " , ", "--detector", "x"], "--text: expected words such as"),
        (["--text", "cat", "--detector", "x", "--everything"], "expected no --box, --point or --everything beside it"),
        (["--min-score", "0.5"], 'expected --text "WORDS" beside them'),
        (
            ["--text", "cat", "--detector", "x"],
            "x: expected one of GroundingDINO-T, YOLO-Worldv2-L, YOLO-World-demo, or",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(photos, tmp_path, options, message):
    result = run("segment", photos, "--out", tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_word_that_is_no_class_is_refused_before_the_weights_are_read(photos, detector, tmp_path):
    result = run("segment", photos, "--weights", "missing", "--text", "bus", "--detector", detector, "--out", tmp_path)
    assert result.exit_code == 2
    assert "'bus': expected one of the detector's classes: cat, walking man" in result.stderr


def test_a_detectors_name_in_place_of_weights_is_refused_with_where_it_belongs(photos, tmp_path):
    result = run("segment", photos, "--weights", "GroundingDINO-T", "--out", tmp_path)
    assert result.exit_code == 2
    assert "expected weights of SAM, got a detector's name; --detector and PADDLE_SAM_DETECTOR take it" in result.stderr


def test_inspect_describes_a_detector_and_list_names_those_with_a_name(detector):
    table, described = run("inspect", detector), json.loads(run("inspect", detector, "--json").stdout)
    assert "can take       2 words: cat, walking man" in table.stdout
    assert "is executed" in table.stdout
    assert (described["kind"], described["classes"]) == ("closed_vocabulary", ["cat", "walking man"])
    listed = json.loads(run("list", "--json").stdout)
    (dino,) = [entry for entry in listed if entry["name"] == "GroundingDINO-T"]
    assert (dino["family"], dino["capabilities"], dino["licence"]) == ("detector", ["words"], "Apache-2.0")
    assert [entry["licence"] for entry in listed if entry["name"] == "YOLO-Worldv2-L"] == ["GPL-3.0-only"]
