"""Detectors with PaddleX's ``predict``, and words that become labelled masks."""

import json

import numpy as np
import pytest
from PIL import Image

from model import DetectionModel, SamModel, create_model, segment_words
from model.detection.types import Detection
from model.detection.word_list import WordsError
from model.paddlex.inputs import InputError, Picture
from model.paddlex.word_segmentation import select
from model.types import Embedding
from model.weights import WeightsError
from tests.support import detector_directories as directories

PICTURE = directories.picture()
BGR = np.ascontiguousarray(PICTURE[..., ::-1])
CLASSES = ["cat", "dog", "walking man"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(scope="module")
def dino(folder):
    return create_model("GroundingDINO-T", directories.write_grounding_dino(folder / "dino"), device="cpu")


@pytest.fixture(scope="module")
def picodet(folder):
    return create_model("PicoDet-S", directories.write_closed(folder / "pico", "PicoDet-S", CLASSES), device="cpu")


@pytest.fixture(scope="module")
def demo():
    return create_model("demo", device="cpu")


def test_a_prompt_in_any_of_its_spellings_gives_the_same_boxes(dino):
    assert isinstance(dino, DetectionModel)
    results = [
        next(dino.predict(BGR, prompt=prompt))["boxes"]
        for prompt in ("bus . walking man .", "bus, walking man", ["bus", "walking man"])
    ]
    assert results[0]
    assert results[0] == results[1] == results[2]
    assert {box["label"] for box in results[0]} <= {"bus", "walking man"}
    assert set(results[0][0]) == {"coordinate", "label", "score"}


def test_a_detector_with_classes_needs_no_prompt(picodet):
    (result,) = picodet.predict(BGR)
    assert result["boxes"]
    assert {box["label"] for box in result["boxes"]} <= set(CLASSES)
    np.testing.assert_array_equal(result["input_img"], BGR)


@pytest.mark.parametrize("thresholds", [0.9, {"box_threshold": 0.9, "text_threshold": 0.1}, {"threshold": 0.9}])
def test_thresholds_are_taken_under_paddlexs_names(dino, thresholds):
    (every,), (best,) = dino.predict(BGR, prompt="bus, cat"), dino.predict(BGR, 1, thresholds, "bus, cat")
    assert 0 < len(best["boxes"]) < len(every["boxes"])
    assert best["boxes"] == [box for box in every["boxes"] if box["score"] > 0.9]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, WordsError, "prompt: expected words such as 'bus, walking man', got None"),
        ({"prompt": " , "}, WordsError, "prompt: expected words"),
        ({"prompt": ["cat", "Cat"]}, WordsError, "each spelling once"),
        ({"prompt": "cat", "batch_size": 0}, ValueError, "batch_size"),
        ({"prompt": "cat", "thresholds": {"score": 0.5}}, ValueError, "thresholds: expected threshold, box_threshold"),
    ],
)
def test_mistakes_are_refused_at_the_call(dino, options, error, message):
    with pytest.raises(error, match=message):
        dino.predict(BGR, **options)


def test_results_are_written_as_paddlex_names_them(dino, tmp_path, capsys):
    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    (result,) = dino.predict(str(tmp_path / "photo.png"), prompt="bus, cat")
    written = json.loads(result.save_to_json(tmp_path / "out").read_text())
    assert written["boxes"] == result["boxes"]
    assert result.save_to_img(tmp_path / "out").name == "photo_res.png"
    with Image.open(tmp_path / "out" / "photo_res.png") as picture:
        assert picture.size == (160, 90)
    result.print()
    assert json.loads(capsys.readouterr().out)["res"]["boxes"] == result["boxes"]


def test_an_embedding_is_no_picture_to_detect_in(dino, demo):
    with pytest.raises(InputError, match="expected a picture to detect objects in, got an embedding"):
        list(dino.predict(demo.encode(BGR), prompt="cat"))


def test_a_directory_of_another_detector_is_refused(folder, dino):
    with pytest.raises(WeightsError, match="Model name mismatch: expected YOLO-Worldv2-L, got GroundingDINO-T"):
        create_model("YOLO-Worldv2-L", folder / "dino")


def test_words_become_labelled_masks_with_one_encode_and_one_decode(dino, demo):
    calls = []

    class Encoder:
        def encode(self, image) -> Embedding:
            calls.append("encode")
            return demo.encode(np.ascontiguousarray(image[..., ::-1]))

    class Decoder:
        model_version, capabilities = demo.model_version, demo.capabilities

        def decode(self, embedding, prompts):
            calls.append(len(prompts))
            return demo.decode(Picture(embedding), prompts)

    counted = type(demo)("demo", Encoder(), Decoder())
    masks = segment_words(BGR, ["bus", "Walking man"], model=counted, detector=dino, limit=7)
    assert calls == ["encode", 7]
    assert len(masks) == 7
    assert {mask.label for mask in masks} <= {"bus", "Walking man"}
    assert [mask.score for mask in masks] == sorted((mask.score for mask in masks), reverse=True)
    for mask in masks:
        assert mask.mask.original_size == (90, 160)
        assert 0 <= mask.box[0] < mask.box[2] <= 160
        assert 0 <= mask.predicted_iou <= 1


def test_a_picture_whose_embedding_is_there_is_not_encoded_again(dino, demo):
    class Never:
        def encode(self, image):
            raise AssertionError("encoded")

    class Decoder:
        model_version, capabilities = demo.model_version, demo.capabilities

        def decode(self, embedding, prompts):
            return demo.decode(Picture(embedding), prompts)

    options = {"detector": dino, "limit": 3}
    warm = segment_words(
        BGR, ["bus"], model=SamModel("demo", Never(), Decoder()), embedding=demo.encode(BGR), **options
    )
    for first, second in zip(warm, segment_words(BGR, ["bus"], model=demo, **options), strict=True):
        assert (first.label, first.score, first.box) == (second.label, second.score, second.box)
        assert (first.mask.to_array() == second.mask.to_array()).all()


def test_where_nothing_is_found_nothing_is_encoded(dino):
    class Never:
        model_version, capabilities = "none", frozenset(("boxes",))

        def encode(self, image):
            raise AssertionError("encoded")

    assert segment_words(BGR, ["cat"], model=SamModel("none", Never(), Never()), detector=dino, threshold=1.0) == []


def test_words_that_the_detector_does_not_know_are_refused_before_the_picture_is_read(picodet, demo):
    with pytest.raises(WordsError, match="'bus': expected one of the detector's classes"):
        segment_words("missing.jpg", ["bus"], model=demo, detector=picodet)
    with pytest.raises(InputError, match="expected one picture, got 2"):
        segment_words([BGR, BGR], ["cat"], model=demo, detector=picodet)


def test_boxes_of_one_label_that_are_nearly_the_same_become_one_object():
    boxes = [
        Detection("cat", 0.5, (10, 10, 110, 110)),
        Detection("cat", 0.8, (11, 10, 110, 110)),
        Detection("dog", 0.6, (10, 10, 110, 110)),
        Detection("cat", 0.7, (10, 10, 110, 90)),
    ]
    assert select(boxes, (200, 200)) == [boxes[1], boxes[3], boxes[2]]


def test_boxes_are_cut_off_at_the_pictures_edges_and_those_outside_left_out():
    boxes = [
        Detection("cat", 0.5, (-20, -10, 50, 260)),
        Detection("cat", 0.9, (300, 10, 400, 100)),
        Detection("cat", 0.8, (10, 10, 10.5, 100)),
    ]
    assert select(boxes, (200, 200)) == [Detection("cat", 0.5, (0, 0, 50, 200))]


def test_a_limit_leaves_the_best():
    boxes = [Detection("cat", score / 10, (score * 10, 0, score * 10 + 9, 9)) for score in range(1, 8)]
    assert [box.score for box in select(boxes, (99, 99), limit=3)] == [0.7, 0.6, 0.5]
