"""`create_model` and `predict` as PaddleX's users know them, and what they gain."""

import types
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from model import SamModel, create_model, load
from model.errors import CapabilityError, DeviceError
from model.paddlex.inputs import InputError
from model.paddlex.model import DEMO_WEIGHTS, find_weights
from model.paddlex.prompts import PromptError
from model.types import Embedding, Mask, Masks, Prompt
from model.weights import WeightsError
from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint
from tests.support.weights_files import golden_directory

BOX = {"box_prompt": [[10, 20, 60, 80]]}
EVERYTHING = frozenset({"points", "negative_points", "boxes", "mask_input", "score"})


class CountingEncoder:
    """Answers with an embedding that holds the photo's mean colour, and remembers what it saw."""

    def __init__(self):
        self.images = []

    def encode(self, image):
        self.images.append(image)
        mean = image.mean(axis=(0, 1)).astype(np.float32).reshape(3, 1, 1)
        return Embedding(mean, image.shape[:2], image.shape[:2], "fake@1")


class BoxDecoder:
    """Answers each prompt with its box, or with the pixel of its first point."""

    model_version = "fake@1"

    def __init__(self, capabilities=EVERYTHING):
        self.capabilities = capabilities
        self.calls = []

    def decode(self, embedding, prompts):
        self.calls.append((embedding, list(prompts)))
        return Masks(
            tuple((self._mask(prompt, embedding.original_size),) for prompt in prompts),
            tuple((0.75,) for _ in prompts),
            tuple(np.zeros((1, 4, 4), np.float32) for _ in prompts),
        )

    def _mask(self, prompt, size):
        x, y = (prompt.point_coords[0] if prompt.box is None else prompt.box[:2]).astype(int)
        right, bottom = (x + 1, y + 1) if prompt.box is None else prompt.box[2:].astype(int)
        full = np.zeros(size, dtype=bool)
        full[y:bottom, x:right] = True
        return Mask.from_array(full)


@pytest.fixture
def encoder():
    return CountingEncoder()


@pytest.fixture
def decoder():
    return BoxDecoder()


@pytest.fixture
def model(encoder, decoder):
    return SamModel("fake", encoder, decoder)


@pytest.fixture
def bgr():
    """(100, 120, 3) of one colour that is not the same backwards."""
    return np.full((100, 120, 3), (10, 20, 30), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path, bgr):
    """A directory with two photos."""
    for name in ("a.png", "b.png"):
        Image.fromarray(bgr[..., ::-1]).save(tmp_path / name)
    return tmp_path


def test_a_result_has_paddlexs_keys_and_types(model, bgr):
    (result,) = model.predict(bgr, batch_size=1, prompts=BOX)
    assert list(result) == ["input_path", "input_img", "prompts", "masks", "mask_infos"]
    assert isinstance(result, dict)
    assert result["input_path"] is None
    assert result["input_img"][0, 0].tolist() == [30, 20, 10]
    assert result["prompts"] == BOX
    assert [(mask.shape, mask.dtype) for mask in result["masks"]] == [((100, 120), np.int8)]
    assert result["masks"][0].sum() == 50 * 60
    assert result["mask_infos"] == [{"label": "box_prompt", "prompt": [10, 20, 60, 80], "score": 0.75}]


def test_the_points_that_refine_a_box_are_in_the_json_beside_it(model, bgr):
    (result,) = model.predict(bgr, prompts={**BOX, "point_prompt": [[30, 30, 0], [110, 90]]})
    assert result["mask_infos"] == [
        {"label": "box_prompt", "prompt": [10, 20, 60, 80], "score": 0.75, "points": [[30, 30, 0]]},
        {"label": "point_prompt", "prompt": [110, 90], "score": 0.75},
    ]


def test_predict_answers_piece_by_piece(model, encoder, photos):
    answers = model.predict(str(photos), prompts=BOX)
    assert isinstance(answers, types.GeneratorType)
    assert encoder.images == []
    next(answers)
    assert len(encoder.images) == 1


def test_every_kind_of_input_gives_results_in_order(model, photos, bgr):
    results = list(model.predict([bgr, str(photos / "b.png"), photos], prompts=BOX))
    assert [result["input_path"] for result in results] == [
        None, str(photos / "b.png"), str(photos / "a.png"), str(photos / "b.png"),
    ]  # fmt: skip
    assert all((result["input_img"] == results[0]["input_img"]).all() for result in results)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_size_changes_nothing(model, photos, batch_size):
    results = list(model.predict(str(photos), batch_size, BOX))
    assert [result["masks"][0].sum() for result in results] == [3000, 3000]


def test_many_prompts_cost_one_encode_and_one_decode(model, encoder, decoder, bgr):
    (result,) = model.predict(bgr, prompts={"box_prompt": [[i, i, i + 9, i + 9] for i in range(40)]})
    assert (len(encoder.images), len(decoder.calls), len(result["masks"])) == (1, 1, 40)


def test_an_embedding_takes_the_place_of_a_picture_and_is_not_encoded_again(model, encoder, bgr):
    embedding = model.encode(bgr)
    first, second = model.predict([embedding, embedding], prompts=BOX)
    assert len(encoder.images) == 1
    assert first["masks"][0].shape == (100, 120)
    assert first["input_img"] is None
    np.testing.assert_array_equal(first["masks"], second["masks"])


def test_encode_takes_one_picture(model, photos):
    assert model.encode(str(photos / "a.png")).original_size == (100, 120)
    with pytest.raises(InputError, match="expected one picture, got 2"):
        model.encode(str(photos))


def test_prompts_may_be_values(model, decoder, bgr):
    prompt = Prompt(box=np.array([1, 2, 3, 4]))
    (result,) = model.predict(bgr, prompts=[prompt])
    assert decoder.calls[0][1] == [prompt]
    assert result["prompts"] == {"box_prompt": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({}, PromptError, r"expected a dict, {'box_prompt': \[\[x1, y1, x2, y2\]\]} or {'point_prompt': \[\[x, y"),
        ({"prompts": None}, PromptError, "prompts: expected a dict"),
        ({"prompts": {}}, PromptError, "prompts: expected a dict"),
        ({"prompts": BOX, "input": {"image": "a.png"}}, InputError, "a dict like {'img': 'photo.jpg'}, got the key 'i"),
        ({"prompts": BOX, "input": {}}, InputError, "a dict like {'img': 'photo.jpg'}, got no picture in it"),
        ({"prompts": BOX, "input": {"img": {"img": "a.png"}}}, InputError, "got no picture in it"),
        ({"prompts": {"box_prompt": [1, 2, 3]}}, PromptError, "for each object"),
        ({"prompts": BOX, "batch_size": 0}, ValueError, "batch_size: expected a whole number of at least 1, got 0"),
        ({"prompts": BOX, "batch_size": "2"}, ValueError, "got '2'"),
        ({"prompts": BOX, "batch_size": True}, ValueError, "got True"),
        ({"prompts": BOX, "input": "nowhere.jpg"}, InputError, r"nowhere\.jpg"),
        ({"prompts": BOX, "input": ["nowhere.jpg"]}, InputError, r"nowhere\.jpg"),
    ],
)
def test_a_mistake_is_refused_at_the_call(model, encoder, bgr, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        model.predict(**{"input": bgr, **arguments})
    assert encoder.images == []


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("boxes", "{'box_prompt': [[x1, y1, x2, y2]]}"), ("points", "{'point_prompt': [[x, y]]}")],
)
def test_weights_of_one_kind_of_prompt_say_which_is_missing(encoder, bgr, capability, expected):
    model = SamModel("one", encoder, BoxDecoder(frozenset({capability})))
    with pytest.raises(PromptError) as caught:
        model.predict(bgr)
    assert str(caught.value) == f"prompts: expected a dict, {expected}, got None"


def test_a_dict_may_stand_around_any_input(model, photos, bgr):
    inputs = [{"img": bgr}, {"img": str(photos / "a.png")}, {"img": photos}]
    results = list(model.predict(inputs, prompts=BOX))
    assert [result["input_path"] for result in results] == [
        None, str(photos / "a.png"), str(photos / "a.png"), str(photos / "b.png"),
    ]  # fmt: skip
    assert len(list(model.predict({"img": photos}, prompts=BOX))) == 2


def test_of_a_directory_the_pictures_that_cannot_be_done_are_named_and_the_others_are_done(model, photos, caplog):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "aa.png")
    (photos / "ab.png").write_text("no picture")
    results = list(model.predict(str(photos), prompts=BOX))
    assert [result["input_path"] for result in results] == [str(photos / "a.png"), str(photos / "b.png")]
    small, broken = (record.getMessage() for record in caplog.records)
    assert small.startswith(f"{photos / 'aa.png'}: box_prompt: expected a box in the picture of 9 × 9 pixels, got ")
    assert small.endswith("(left out)")
    assert broken.startswith(f"{photos / 'ab.png'}: expected a picture, got a file that begins with")


def test_a_directory_of_which_nothing_can_be_done_is_refused(model, photos):
    with pytest.raises(PromptError, match=r"a\.png: point_prompt: expected a point in the picture of 120 × 100"):
        list(model.predict(str(photos), prompts={"point_prompt": [[500, 500]]}))


def test_a_picture_that_the_caller_named_is_refused_by_its_name_and_nothing_after_it_takes_its_place(model, photos):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "aa.png")
    results = model.predict([str(photos / name) for name in ("a.png", "aa.png", "b.png")], prompts=BOX)
    next(results)
    with pytest.raises(PromptError, match=r"aa\.png: box_prompt: expected a box in the picture of 9 × 9 pixels"):
        next(results)
    assert list(results) == []


def test_a_prompt_outside_of_the_picture_is_refused_before_it_is_encoded(model, encoder, bgr):
    with pytest.raises(PromptError, match="the picture of 120 × 100 pixels"):
        next(model.predict(bgr, prompts={"point_prompt": [[150, 50]]}))
    assert encoder.images == []


def test_prompts_that_the_weights_cannot_take_are_refused_before_anything_is_encoded(encoder, bgr):
    model = SamModel("boxes only", encoder, BoxDecoder(frozenset({"boxes", "score"})))
    with pytest.raises(CapabilityError, match="fake@1: expected boxes, got points"):
        model.predict(bgr, prompts={"point_prompt": [[5, 5]]})
    with pytest.raises(CapabilityError, match="got negative points"):
        model.predict(bgr, prompts={**BOX, "point_prompt": [[30, 30, 0]]})
    assert encoder.images == []


def test_weights_of_a_named_model_are_loaded_from_a_file_or_its_directory(tmp_path, bgr):
    path = native.write(random_checkpoint(), tmp_path / "mine.safetensors")
    for source in (path, str(tmp_path)):
        model = create_model("SAM-H_box", source, device="cpu", use_hpip=False, hpi_config=None)
        assert (model.model_name, model.model_version[:10]) == ("SAM-H_box", "SAM-H_box@")
        (result,) = model.predict(bgr, prompts=BOX)
        assert result["masks"][0].shape == (100, 120)
        assert 0 <= result["mask_infos"][0]["score"] <= 1


def test_the_loaded_model_answers_as_encoder_and_decoder_do(tiny_checkpoint, tiny_encoder, tiny_decoder, bgr):
    noise = np.random.default_rng(3).integers(0, 256, bgr.shape, dtype=np.uint8)
    prompts = {"box_prompt": [[10, 20, 60, 80], [5, 5, 50, 50]], "point_prompt": [[100, 90]]}
    (result,) = load(tiny_checkpoint, device="cpu").predict(noise, prompts=prompts)
    embedding = tiny_encoder.encode(np.ascontiguousarray(noise[..., ::-1]))
    expected = tiny_decoder.decode(
        embedding,
        [*(Prompt(box=np.array(box)) for box in prompts["box_prompt"]), Prompt(np.array([[100, 90]]), np.array([1]))],
    )
    for mask, (mask_expected,) in zip(result["masks"], expected.masks, strict=True):
        np.testing.assert_array_equal(mask, mask_expected.to_array())


def test_weights_without_a_score_head_say_none(tmp_path, bgr):
    model = load(random_checkpoint(without=("score",)), device="cpu")
    (result,) = model.predict(bgr, prompts=BOX)
    assert result["mask_infos"][0]["score"] is None


def test_an_embedding_of_other_weights_is_refused(bgr):
    checkpoints = [replace(random_checkpoint(seed=seed), digest=f"{seed}" * 64) for seed in (1, 2)]
    first, second = (load(checkpoint, device="cpu") for checkpoint in checkpoints)
    with pytest.raises(ValueError, match="embedding: expected"):
        next(second.predict(first.encode(bgr), prompts=BOX))


@pytest.fixture(scope="module")
def of_boxes(tmp_path_factory):
    """A directory as PaddleX has it for SAM-H_box."""
    return golden_directory("legacy_box_2.6.2", tmp_path_factory.mktemp("weights") / "SAM-H_box_infer")


@pytest.mark.parametrize("name", ["SAM-H_point", "sam_vit_b", "demo"])
def test_a_directory_of_another_model_than_was_named_is_refused_at_once(of_boxes, name):
    with pytest.raises(WeightsError) as caught:
        create_model(name, of_boxes)
    assert str(caught.value) == f"Model name mismatch: expected weights of {name}, got SAM-H_box in {of_boxes}"


def test_a_directory_of_the_model_that_was_named_is_loaded(of_boxes, bgr):
    (result,) = create_model("SAM-H_box", of_boxes, device="cpu").predict(bgr, prompts=BOX)
    assert result["masks"][0].shape == (100, 120)


@pytest.mark.parametrize(
    ("name", "missing", "actual_name"),
    [
        ("SAM-H_box", ("boxes",), "got weights that take mask input, negative points, points in"),
        ("SAM-H_point", ("points", "negative_points"), "got weights that take boxes, mask input in"),
        ("sam_vit_b", (), "got a Vision Transformer of 3 blocks, 32 channels in"),
        ("mobile_sam", (), "got a Vision Transformer of 3 blocks, 32 channels in"),
        ("demo", (), "got a Vision Transformer of 3 blocks, 32 channels in"),
    ],
)
def test_a_file_of_another_model_than_was_named_is_refused_at_once(tmp_path, name, missing, actual_name):
    path = native.write(random_checkpoint(without=missing), tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=f"^Model name mismatch: expected weights of {name}, {actual_name}"):
        create_model(name, path)


def test_the_demo_models_weights_are_those_of_no_published_network():
    assert create_model("demo", DEMO_WEIGHTS, device="cpu").network == "demo"
    with pytest.raises(WeightsError, match="expected weights of sam_vit_l, got a convolutional network in"):
        create_model("sam_vit_l", DEMO_WEIGHTS)


@pytest.mark.parametrize("model_dir", [None, "weights"])
def test_an_unknown_model_is_refused_with_the_names_that_are_known(tmp_path, model_dir):
    native.write(random_checkpoint(), tmp_path / "weights" / "mine.safetensors")
    with pytest.raises(
        WeightsError, match=r"SAM-H_boxx: expected one of demo, mobile_sam, sam_vit_b, .*load\(read\(PATH"
    ):
        create_model("SAM-H_boxx", model_dir and tmp_path / model_dir)


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match="nowhere"):
        create_model("SAM-H_box", tmp_path / "nowhere")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match="tpu"):
        load(random_checkpoint(), device="tpu")


def test_weights_that_were_downloaded_are_found_without_a_network(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"")
    assert find_weights("sam_vit_b", tmp_path) == path


def test_weights_that_cannot_be_downloaded_are_named_as_they_were_asked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"^SAM-H_box cannot be had: "):
        find_weights("SAM-H_box", tmp_path, mirror="unknown://nowhere")


def test_weights_that_cannot_be_downloaded_are_refused_with_another_way(tmp_path):
    with pytest.raises(WeightsError, match="weights that you have can be given as model_dir"):
        find_weights("SAM-H_box", tmp_path, mirror="unknown://nowhere")
