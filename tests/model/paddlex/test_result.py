"""Results are printed and saved as PaddleX does."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.overlay import COLOURS, draw
from model.paddlex import mask_json
from model.paddlex.inputs import Picture
from model.paddlex.prompts import as_given, parse
from model.paddlex.result import SamResult
from model.types import Embedding, Mask, Masks, Prompt

SIZE = (40, 60)


def result_of(prompts, masks, picture=None, scores=None):
    requests = parse(prompts)
    decoded = Masks(
        tuple((Mask.from_array(mask),) for mask in masks),
        None if scores is None else tuple((score,) for score in scores),
        tuple(np.zeros((1, 4, 4), np.float32) for _ in masks),
    )
    picture = picture or Picture(np.full((*SIZE, 3), 200, np.uint8), "photos/été.jpg", "été.jpg")
    return SamResult(picture, as_given(prompts, requests), requests, decoded)


def half():
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, :30] = True
    return mask


@pytest.fixture
def result():
    return result_of({"box_prompt": [[0, 0, 30, 40], [1.5, 2, 3, 4]]}, [half(), ~half()], scores=[0.5, 0.25])


def test_json_holds_nested_lists_under_res_and_no_pixels_of_the_photo(result):
    json_value = result.json
    assert list(json_value) == ["res"]
    assert list(json_value["res"]) == ["input_path", "prompts", "masks", "mask_infos"]
    assert json_value["res"]["masks"] == [half().astype(int).tolist(), (~half()).astype(int).tolist()]
    assert json.loads(json.dumps(json_value)) == json_value


def test_print_writes_the_result_as_json_without_pixels(result, capsys):
    result.print()
    written = capsys.readouterr().out
    assert json.loads(written) == {"res": {**result.json["res"], "masks": "..."}}
    assert '\n    "res"' in written
    assert "été" in written


def test_print_takes_paddlexs_parameters(result, capsys):
    result.print(format_json=True, indent=2, ensure_ascii=True)
    written = capsys.readouterr().out
    assert '\n  "res"' in written
    assert "\\u00e9" in written
    for arguments in ({"format_json": False}, {"json_format": False}):
        result.print(**arguments)
        assert capsys.readouterr().out.startswith("{'res': {'input_path': 'photos/été.jpg', 'prompts': ")


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_saved_file_is_what_json_would_write(result, tmp_path, indent, ensure_ascii):
    path = result.save_to_json(tmp_path / "exact.json", indent=indent, ensure_ascii=ensure_ascii)
    assert path == tmp_path / "exact.json"
    assert path.read_text(encoding="utf-8") == json.dumps(result.json["res"], indent=indent, ensure_ascii=ensure_ascii)


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4),
    st.sampled_from([None, 0, 1, 4]),
)
def test_the_text_of_a_mask_is_what_json_would_write(rows, indent):
    expected = json.dumps([[list(map(int, row)) for row in rows]], indent=indent)
    start, end = json.dumps(["*"], indent=indent).split('"*"')
    assert start + "".join(mask_json.rows(np.array(rows), indent, 1)) + end == expected


def test_files_in_a_directory_are_named_after_the_input(result, tmp_path):
    out = tmp_path / "not" / "there" / "yet"
    assert result.save_to_json(str(out)) == out / "été_res.json"
    assert result.save_to_img(str(out)) == out / "été_res.jpg"
    with Image.open(out / "été_res.jpg") as picture:
        assert picture.size == (60, 40)


def test_a_picture_goes_to_the_file_that_was_named(result, tmp_path):
    assert result.save_to_img(tmp_path / "a.webp") == tmp_path / "a.webp"
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.format == "WEBP"


@pytest.mark.parametrize("name", ["scan", "photo.ras", "page.pdf"])
def test_a_picture_whose_suffix_cannot_be_written_is_saved_as_png(tmp_path, name):
    picture = Picture(np.zeros((*SIZE, 3), np.uint8), name, name)
    result = result_of({"box_prompt": [0, 0, 9, 9]}, [half()], picture)
    assert result.save_to_img(tmp_path).name == f"{name.split('.')[0]}_res.png"


def test_an_array_has_no_name_so_both_files_share_one_of_its_own(tmp_path):
    pixels = Picture(np.zeros((*SIZE, 3), np.uint8))
    first, second = (result_of({"box_prompt": [0, 0, 9, 9]}, [half()], pixels) for _ in range(2))
    assert first.save_to_json(tmp_path).stem == first.save_to_img(tmp_path).stem
    assert first.save_to_json(tmp_path) != second.save_to_json(tmp_path)
    assert re.fullmatch(r"[0-9]{10}_[1-9][0-9]{3}_res\.json", first.save_to_json(tmp_path).name)  # as PaddleX's
    assert first.save_to_img(tmp_path).suffix == ".png"


def test_arrays_of_one_second_do_not_overwrite_each_other(tmp_path):
    pixels = Picture(np.zeros((*SIZE, 3), np.uint8))
    for _ in range(300):
        result_of({"box_prompt": [0, 0, 9, 9]}, [half()], pixels).save_to_json(tmp_path, indent=None)
    assert len(list(tmp_path.iterdir())) == 300


def test_a_result_of_an_embedding_has_masks_but_no_picture(tmp_path):
    embedding = Embedding(np.zeros((4, 2, 2), np.float32), SIZE, SIZE, "m@1")
    result = result_of({"box_prompt": [0, 0, 9, 9]}, [half()], Picture(embedding))
    assert result["masks"][0].shape == SIZE
    assert result.json["res"]["input_path"] is None
    with pytest.raises(ValueError, match="expected a result made from a picture"):
        result.save_to_img(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_point_between_pixels_is_drawn(result):
    drawn = result_of({"point_prompt": [[20.5, 30.5]]}, [half()]).img["res"]
    assert (drawn.mode, drawn.size) == ("RGB", (60, 40))


def test_the_drawing_tints_the_mask_and_leaves_the_rest_and_the_photo_alone():
    photo = np.full((*SIZE, 3), 200, np.uint8)
    point = Prompt(np.array([[10, 20]]), np.array([1]))
    drawn = draw(photo, [Mask.from_array(half())], [point])
    assert (photo == 200).all()
    assert (drawn[5, 5] == (200 + np.array(COLOURS[0])) // 2).all()
    assert (drawn[:, 35:] == 200).all()
    red, green, blue = drawn[20, 10].astype(int)
    assert green > red + 50
    assert green > blue + 50


def test_a_point_off_the_object_is_drawn_red():
    photo = np.full((*SIZE, 3), 200, np.uint8)
    prompt = Prompt(np.array([[10, 20], [45, 20]]), np.array([1, 0]))
    red, green, _ = draw(photo, [], [prompt])[20, 45].astype(int)
    assert red > green + 50


def test_an_empty_mask_is_drawn_and_saved(tmp_path):
    result = result_of({"box_prompt": [0, 0, 9, 9]}, [np.zeros(SIZE, dtype=bool)])
    assert result.save_to_img(tmp_path).exists()
    assert json.loads(result.save_to_json(tmp_path).read_text())["masks"] == [np.zeros(SIZE, int).tolist()]
