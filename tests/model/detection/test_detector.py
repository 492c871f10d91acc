"""Detectors find what words name, in PaddleX's inference directories of all kinds."""

import ctypes
import shutil
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from model.detection import engine
from model.detection.directory import read
from model.detection.load import load_detector
from model.detection.word_list import WordsError
from model.weights import WeightsError
from tests.support import detector_directories as directories

PICTURE = directories.picture()
MKL = [*(Path(paddle.__file__).parent / "libs").glob("libmklml*.so")]


@pytest.fixture(scope="session", params=["grounding_dino", "yolo_world", "picodet"])
def detector(request):
    return load_detector(request.getfixturevalue(request.param), "cpu")


def described(source, target, **changes):
    """Copy a directory and change its description."""
    shutil.copytree(source, target)
    content = yaml.safe_load((target / "inference.yml").read_text())
    (target / "inference.yml").write_text(yaml.safe_dump({**content, **changes}))
    return target


def test_every_box_has_one_of_the_words_a_score_and_four_sides(detector):
    boxes = detector.detect(PICTURE, ["cat", "Walking man"])
    assert boxes
    assert {box.label for box in boxes} <= {"cat", "Walking man"}
    for box in boxes:
        assert detector.threshold < box.score <= 1
        assert box.box[0] <= box.box[2]
        assert box.box[1] <= box.box[3]


def test_a_higher_threshold_leaves_the_better_boxes(detector):
    every, best = (detector.detect(PICTURE, ["cat", "dog"], threshold) for threshold in (None, 0.9))
    assert [box for box in every if box.score > 0.9] == best


def test_a_threshold_that_is_no_share_is_refused(detector):
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1"):
        detector.detect(PICTURE, ["cat"], 30)


@pytest.mark.parametrize("words", [[], [""], ["cat", "CAT"], "cat"])
def test_words_that_cannot_be_looked_for_are_refused_before_the_picture_is(detector, words):
    with pytest.raises(WordsError):
        detector.check(words)
    with pytest.raises(WordsError):
        detector.detect(PICTURE, words)


@pytest.mark.skipif(not MKL, reason="this Paddle carries no MKL")
def test_products_of_the_networks_stay_in_their_thread_beside_a_detector(picodet, monkeypatch):
    monkeypatch.setattr(engine, "cpu_count", lambda: 2)
    threads = ctypes.CDLL(str(MKL[0])).MKL_Get_Max_Threads
    detector = load_detector(picodet, "cpu")
    assert threads() == 1
    detector.detect(PICTURE, ["cat"])
    assert threads() == 1


def test_threads_get_what_one_gets_alone(detector):
    alone = [detector.detect(directories.picture(seed=seed), ["cat", "dog"]) for seed in range(4)]
    results = [None] * 4

    def detect(seed):
        results[seed] = detector.detect(directories.picture(seed=seed), ["cat", "dog"])

    threads = [threading.Thread(target=detect, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == alone


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_pictures_of_any_shape_are_looked_at(detector, size):
    detector.detect(np.zeros((*size, 3), np.uint8), ["cat"])


def test_several_hundred_words_are_looked_for(grounding_dino, yolo_world):
    words = [f"red {first}{second}{third}" for first in "abcdefgh" for second in "abcdefg" for third in "abcdef"]
    assert len(words) == 336
    for directory in (grounding_dino, yolo_world):
        boxes = load_detector(directory, "cpu").detect(PICTURE, words)
        assert len({box.label for box in boxes}) > 1


def test_words_that_fill_several_texts_get_the_boxes_that_each_text_gets_alone(grounding_dino):
    detector, words = load_detector(grounding_dino, "cpu"), [f"red {a}{b}" for a in "abcdefgh" for b in "abcdefghij"]
    texts = read(grounding_dino).architecture.prepare_words(tuple(words))
    assert len(texts) > 1
    assert all(text.arrays[0].shape[1] <= 256 for text in texts)
    apart = [box for text in texts for box in detector.detect(PICTURE, text.words)]
    assert detector.detect(PICTURE, words) == apart


def test_full_stops_and_question_marks_do_not_cut_a_word_in_two(grounding_dino):
    (text,) = read(grounding_dino).architecture.prepare_words(("st. bernard?", "cat"))
    (prepared,) = read(grounding_dino).architecture.prepare_words(("st bernard", "cat"))
    assert all((ours == theirs).all() for ours, theirs in zip(text.arrays, prepared.arrays, strict=True))
    assert text.words == ("st. bernard?", "cat")


def test_a_word_in_letters_that_the_vocabulary_lacks_is_refused(grounding_dino):
    with pytest.raises(WordsError, match="'автобус': expected a word of the detector's vocabulary"):
        load_detector(grounding_dino, "cpu").check(["cat", "автобус"])


def test_a_word_in_chinese_is_looked_for_where_the_vocabulary_has_it(grounding_dino, yolo_world):
    load_detector(grounding_dino, "cpu").check(["猫", "狗"])
    load_detector(yolo_world, "cpu").check(["猫", "автобус", "🚌"])


@pytest.mark.parametrize("fixture", ["grounding_dino", "yolo_world"])
def test_a_word_longer_than_a_text_is_refused(request, fixture):
    with pytest.raises(WordsError, match="expected a word of at most"):
        load_detector(request.getfixturevalue(fixture), "cpu").check(["x" * 90 + " y" * 300])


def test_a_word_that_is_no_class_is_refused_with_the_classes(picodet):
    with pytest.raises(WordsError, match="'bus': expected one of the detector's classes: cat, dog, walking man"):
        load_detector(picodet, "cpu").check(["cat", "bus"])


def test_a_detector_with_classes_finds_only_those_that_are_asked_for(picodet):
    detector = load_detector(picodet, "cpu")
    assert detector.classes == ("cat", "dog", "walking man")
    every = detector.detect(PICTURE, detector.classes)
    assert detector.detect(PICTURE, ["CAT"]) == [
        type(box)("CAT", box.score, box.box) for box in every if box.label == "cat"
    ]


def test_the_version_changes_with_the_files(picodet, tmp_path):
    changed = described(picodet, tmp_path / "other", draw_threshold=0.7)
    assert read(picodet).version.startswith("PicoDet-S@")
    assert read(changed).version != read(picodet).version
    assert load_detector(changed, "cpu").threshold == 0.7


def test_a_directory_without_a_tokenizer_is_refused(grounding_dino, tmp_path):
    shutil.copytree(grounding_dino, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "tokenizer")
    with pytest.raises(WeightsError, match=r"vocab\.txt: expected a tokenizer's file, got: No such file"):
        read(tmp_path / "bare")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Global": {}}, "expected a description of a detector"),
        ({"Global": {"model_name": "SAM-H_box"}, "label_list": None}, "expected a detector, with a label_list"),
        ({"label_list": {"a": 1}}, "expected a description of a detector"),
        ({"draw_threshold": "high"}, "expected a description of a detector"),
        ({"Preprocess": [{"type": "WarpAffine"}]}, "expected Resize, NormalizeImage, Permute, got 'WarpAffine'"),
        ({"Preprocess": [{"type": "Resize", "target_size": "large"}]}, "Resize: "),
        ({"Preprocess": [{"type": "Resize", "target_size": 32, "interp": 7}]}, "expected interp from 0 to 4"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(picodet, tmp_path, changes, message):
    with pytest.raises(WeightsError, match=message):
        read(described(picodet, tmp_path / "other", **changes))


def test_a_directory_of_another_network_is_refused(picodet, tmp_path):
    changed = described(picodet, tmp_path / "other", Global={"model_name": "YOLO-Worldv2-L"})
    directories.write_clip_tokenizer(changed / "tokenizer")
    with pytest.raises(WeightsError, match="expected 5 inputs and 2 outputs"):
        read(changed)
    with pytest.raises(WeightsError, match="got no such directory"):
        read(tmp_path / "missing")


@pytest.mark.parametrize("content", ["", "[", "&a [*a, *a]", "\x00", "x" * 100])
def test_a_description_that_is_no_yaml_of_paddlex_is_refused(picodet, tmp_path, content):
    shutil.copytree(picodet, tmp_path / "other")
    (tmp_path / "other" / "inference.yml").write_text(content)
    with pytest.raises(WeightsError, match="expected a description of"):
        read(tmp_path / "other")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", "[]"),
        ("vocab.json", "{"),
        ("vocab.json", '{"a": 1}'),
        ("merges.txt", "#version\nabc\n"),
        ("merges.txt", "#version\nq z\n"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(yolo_world, tmp_path, file, content):
    shutil.copytree(yolo_world, tmp_path / "other")
    (tmp_path / "other" / "tokenizer" / file).write_text(content)
    with pytest.raises(WeightsError, match=file if "version" in content and "abc" in content else "expected"):
        read(tmp_path / "other")


def test_parameters_that_are_cut_off_are_refused(picodet, tmp_path):
    shutil.copytree(picodet, tmp_path / "other")
    parameters = tmp_path / "other" / "inference.pdiparams"
    parameters.write_bytes(parameters.read_bytes()[:100])
    with pytest.raises(WeightsError, match="expected a program that Paddle can load"):
        load_detector(tmp_path / "other", "cpu")
