"""The demo's detector: its files, its words, and the labelled masks that it finds with the demo model."""

from importlib.util import find_spec

import numpy as np
import pytest

from demo_training.detector import tokens
from demo_training.detector.words import WORDS, colour_names, shape_names, spellings, word_targets
from demo_training.scenes import render_scene
from model import create_model, segment_words
from model.demo import DETECTOR, DETECTOR_FOLDER
from model.detection import directory, tokenizers
from model.weights.catalogue import DETECTORS
from tests.support.scenes import iou

LARGEST_BYTES = 15_000_000
SEED, SIZE = 110, (300, 400)  # a cross, a cloud, a horseshoe and a digit
WANTED, OTHER_COLOUR = ("horseshoe", "cloud"), "red"


@pytest.fixture(scope="module")
def detector():
    return create_model(DETECTOR, device="cpu")


def test_it_is_small_and_its_program_only_computes():
    contents = directory.read(DETECTOR_FOLDER)
    files = [path for path in DETECTOR_FOLDER.rglob("*") if path.is_file()]
    assert (contents.name, contents.kind) == (DETECTOR, "yolo_world")
    assert sum(path.stat().st_size for path in files) <= LARGEST_BYTES
    assert sum(path.stat().st_size for path in files) / 1e6 == pytest.approx(DETECTORS[DETECTOR].megabytes, abs=0.1)


def test_each_of_its_words_is_one_token_and_no_two_share_it(tmp_path):
    tokenizer = tokenizers.clip(DETECTOR_FOLDER / "tokenizer")
    ids = [tokenizer.encode(word) for word in spellings()]
    assert {len(each) for each in ids} == {1}
    assert len({each[0] for each in ids}) == len(ids)
    tokens.write(tmp_path)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / file).read_text() == (DETECTOR_FOLDER / "tokenizer" / file).read_text()


def test_words_become_labelled_masks_of_a_drawn_scene(detector):
    scene = render_scene(SEED, SIZE, "held_out")
    masks = segment_words(scene.image[..., ::-1], WANTED, model=create_model("demo", device="cpu"), detector=detector)
    wanted = {outline: mask for outline, mask in zip(scene.outlines, scene.masks, strict=True) if outline in WANTED}
    assert {each.label for each in masks} == wanted.keys() == set(WANTED)
    for each in masks:
        assert iou(each.mask.to_array(), wanted[each.label]) > 0.8


def test_all_words_of_a_text_must_be_true_of_an_object(detector):
    scene = render_scene(SEED, SIZE, "held_out")
    [index] = [number for number, outline in enumerate(scene.outlines) if outline == WANTED[0]]
    [colour, *_] = colour_names(scene.image[scene.own_mask(index)].mean(0))
    texts = [f"{colour} {WANTED[0]}", WANTED[0], f"a {WANTED[0]}", f"zebra {WANTED[0]}", f"{OTHER_COLOUR} {WANTED[0]}"]
    [result] = detector.predict(scene.image[..., ::-1], prompt=texts, thresholds=0.3)
    assert {each.label for each in result.found} == set(texts[:3])


@pytest.mark.parametrize("word", ["zebra", "猫", "🦓", "starring"])
def test_a_word_that_it_does_not_know_finds_nothing(detector, word):
    scene = render_scene(SEED, SIZE, "held_out")
    [result] = detector.predict(scene.image[..., ::-1], prompt=[word], thresholds=0.05)
    assert result["boxes"] == []


def test_an_object_is_called_by_its_outline_and_the_colour_that_is_nearest():
    assert shape_names("circle") == ("circle", "ellipse")
    assert shape_names("thin") == ("line",)
    assert colour_names(np.array([205.0, 30.0, 35.0])) == ("red",)
    assert colour_names(np.array([128.0, 128.0, 128.0])) == ("grey",)
    between = colour_names(np.array([150.0, 70.0, 50.0]))
    assert set(between) == {"red", "brown"}
    targets = dict(zip(WORDS, word_targets("star", np.array([150.0, 70.0, 50.0])), strict=True))
    assert {word for word, target in targets.items() if target == 1} == {"star", between[0]}
    assert {word for word, target in targets.items() if target == -1} == {between[1]}


@pytest.mark.reference
@pytest.mark.skipif(find_spec("segment_anything") is None, reason="segment-anything, which training needs, is missing")
def test_the_exported_program_gives_the_boxes_of_the_trained_network(tmp_path):
    torch = pytest.importorskip("torch")
    from demo_training.detector.export import export
    from demo_training.detector.network import SIDE, STRIDE, DetectorNetwork
    from model.detection.load import load_detector

    torch.manual_seed(0)
    network = DetectorNetwork().eval()
    with torch.no_grad():
        network.box.bias[0] = 1.0  # scores that a threshold lets through
        network.word_bias += 3.0
    torch.save({"average": network.state_dict()}, tmp_path / "last.pt")
    export(tmp_path / "last.pt", tmp_path / "detector")
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    detected = load_detector(tmp_path / "detector", "cpu").detect(image, ["shape", "red star", "circles"], 0.1)
    with torch.no_grad():
        sure, boxes, words = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    likely = torch.sigmoid(words[0])
    expected = {
        "shape": torch.sigmoid(sure[0]),
        "red star": torch.sigmoid(sure[0]) * likely[:, WORDS.index("red")] * likely[:, WORDS.index("star")],
        "circles": torch.sigmoid(sure[0]) * likely[:, WORDS.index("circle")],
    }
    assert {each.label for each in detected} == expected.keys()
    corners = boxes[0].clamp(0, SIDE).numpy()
    for each in detected:
        cell = int(np.abs(corners - np.array(each.box)).max(1).argmin())
        np.testing.assert_allclose(corners[cell], each.box, atol=STRIDE / 16)
        assert each.score == pytest.approx(float(expected[each.label][cell]), abs=5e-3)  # stored as float16
