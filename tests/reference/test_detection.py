"""Detectors give the boxes, labels and scores that PaddleX 3.7.2 gives for the same directories, pictures and words."""

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from model.detection import tokenizers
from model.detection.load import load_detector
from tests.support import detector_directories as directories

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "paddlex_detection_reference.py"
CLASSES = ["cat", "dog", "bus", "walking man"]
SIZES = [(90, 160), (160, 90), (480, 641), (33, 700), (64, 64), (1, 1)]
MOST_PX, MOST_SCORE = 1.0, 1e-3


@pytest.fixture(scope="module")
def paddlex_python():
    """The interpreter of an environment with PaddleX: PADDLEX_PYTHON, or the one that ``make test-all`` makes."""
    path = Path(os.environ.get("PADDLEX_PYTHON", ROOT / ".venv-paddlex" / "bin" / "python"))
    if not path.exists():
        pytest.skip(f"no PaddleX: {path} does not exist")
    return path


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """Directories of every kind of detector, with the words for each and how PaddleX takes them."""
    folder = tmp_path_factory.mktemp("detectors")
    loaded = []
    for seed in range(3):
        dino = directories.write_grounding_dino(folder / f"dino{seed}", seed)
        yolo = directories.write_yolo_world(folder / f"yolo{seed}", seed)
        loaded.append(("GroundingDINO-T", dino, ["bus", "walking man", "Cats"], "bus . walking man . Cats ."))
        loaded.append(("YOLO-Worldv2-L", yolo, ["bus", "walking man", "Cat"], "bus, walking man, Cat"))
    closed = [
        (name, directories.write_closed(folder / name, name, CLASSES), CLASSES, None)
        for name in ("PicoDet-S", "RT-DETR-L")
    ]
    return loaded + closed


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of several shapes, by the files that PaddleX's side reads them from."""
    folder = tmp_path_factory.mktemp("pictures")
    images = {}
    for index, (height, width) in enumerate(SIZES):
        path = folder / f"{index}.npy"
        images[str(path)] = directories.picture(height, width, index)
        np.save(path, images[str(path)])
    return images


@pytest.fixture(scope="module")
def theirs(paddlex_python, detectors, pictures, tmp_path_factory):
    """What PaddleX finds, by detector and picture."""
    folder = tmp_path_factory.mktemp("answers")
    questions = [
        {"name": name, "directory": str(directory), "images": list(pictures), "prompt": prompt}
        for name, directory, _, prompt in detectors
    ]
    (folder / "questions.json").write_text(json.dumps(questions))
    # With oneDNN, which PaddleX turns on, Paddle 3.3.1 does not run all of these programs.
    flags = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_ENABLE_MKLDNN_BYDEFAULT": "False"}
    environment = {**os.environ, **flags}
    command = [str(paddlex_python), str(SCRIPT), str(folder / "questions.json"), str(folder / "answers.json")]
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert completed.returncode == 0, completed.stderr[-2000:]
    return json.loads((folder / "answers.json").read_text())


def test_every_detector_gives_the_boxes_labels_and_scores_of_paddlex(detectors, pictures, theirs):
    compared = 0
    for (name, directory, words, _), expected in zip(detectors, theirs, strict=True):
        detector = load_detector(directory, "cpu")
        for image, boxes in zip(pictures.values(), expected, strict=True):
            boxes_found = detector.detect(image, words)
            boxes = [box for box in boxes if box["label"] != " "]  # what PaddleX adds to YOLO-World's words
            assert len(boxes_found) == len(boxes), (name, image.shape)
            for ours, other in zip(boxes_found, boxes, strict=True):
                assert np.abs(np.array(ours.box) - other["box"]).max() <= MOST_PX
                assert abs(ours.score - other["score"]) <= MOST_SCORE
                if not name.startswith("GroundingDINO"):  # whose labels PaddleX spells of single tokens
                    assert ours.label.lower() == other["label"]
                compared += 1
    assert compared > 1000


def test_grounding_dino_gives_a_box_the_word_of_which_paddlex_names_every_token(detectors, pictures, theirs):
    compared = 0
    for (name, directory, words, _), expected in zip(detectors, theirs, strict=True):
        if not name.startswith("GroundingDINO"):
            continue
        detector = load_detector(directory, "cpu")
        for image, boxes in zip(pictures.values(), expected, strict=True):
            for ours, other in zip(detector.detect(image, words), boxes, strict=True):
                named = " ".join(other["label"].replace("[CLS]", "").replace("[SEP]", "").replace(".", " ").split())
                if named in ("bus", "walking man", "cats"):  # so no other word has a token above the threshold
                    assert ours.label.lower() == named
                    compared += 1
    assert compared > 100


LETTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789      .,!?'-_()[]{}#@$%^&*+=/\\|~`\"\t\n"
OTHERS = "äöüßéèñçøåšžıİŞΩπЖщ中文猫狗日本語한국어😀🚀👩‍🔬é©™€…—“”\u00a0\u200b\u3000ﬁ①²"


def random_texts(count):
    """Texts of letters, signs, accents, Chinese, Japanese, Korean, emoji and whole words of the vocabularies."""
    chosen = random.Random(15)
    pieces = [*LETTERS, *OTHERS, "cat", "dog", "walking man", "bus", "red", "猫"]
    return ["".join(chosen.choices(pieces, k=chosen.randint(0, 24))) for _ in range(count)]


def test_berts_tokens_are_those_of_transformers_for_ten_thousand_texts(tmp_path):
    from transformers import BertTokenizer

    directories.write_bert_tokenizer(tmp_path)
    theirs, ours = BertTokenizer.from_pretrained(tmp_path), tokenizers.bert(tmp_path)
    for text in random_texts(10_000):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text


def test_clips_tokens_are_those_of_transformers_for_ten_thousand_texts(tmp_path):
    from transformers import CLIPTokenizer

    directories.write_clip_tokenizer(tmp_path)
    theirs, ours = CLIPTokenizer.from_pretrained(tmp_path), tokenizers.clip(tmp_path)
    for text in random_texts(10_000):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
