"""PaddleX's prompts and what we take beyond them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.paddlex.prompts import PromptError, as_given, check_inside, of_boxes_and_points, parse
from model.types import Prompt

DOCUMENTED = [
    [112.9239073271089, 118.38755798339844, 513.7587890625, 382.0570068359375],
    [4.597158432006836, 263.5540771484375, 92.20092010498047, 336.5640869140625],
    [592.3548583984375, 260.8838806152344, 607.1813354492188, 294.2261962890625],
]


def boxes_of(requests):
    return [None if request.prompt.box is None else request.prompt.box.tolist() for request in requests]


def points_of(requests):
    """Per object its points as (x, y, label)."""
    points = []
    for prompt in (request.prompt for request in requests):
        coords = [] if prompt.point_coords is None else prompt.point_coords.tolist()
        labels = [] if prompt.point_labels is None else prompt.point_labels.tolist()
        points.append([(x, y, label) for (x, y), label in zip(coords, labels, strict=True)])
    return points


def test_the_documented_boxes_are_one_object_each_and_keep_the_callers_digits():
    requests = parse({"box_prompt": DOCUMENTED})
    assert [request.given for request in requests] == DOCUMENTED
    assert [request.label for request in requests] == ["box_prompt"] * 3
    np.testing.assert_allclose(boxes_of(requests), DOCUMENTED, rtol=1e-6)


def test_plain_points_are_one_object_each_and_may_have_fractions():
    requests = parse({"point_prompt": [[500.5, 375.25], [10, 20, 1]]})
    assert points_of(requests) == [[(500.5, 375.25, 1)], [(10, 20, 1)]]
    assert [request.given for request in requests] == [[500.5, 375.25], [10, 20, 1]]


def test_points_in_one_list_are_one_object():
    requests = parse({"point_prompt": [[[1, 2], [3, 4, 0]], [[5, 6]]]})
    assert points_of(requests) == [[(1, 2, 1), (3, 4, 0)], [(5, 6, 1)]]


@pytest.mark.parametrize("box", [[1, 2, 3, 4], (1, 2, 3, 4), np.array([1, 2, 3, 4])])
def test_a_single_box_needs_no_list_around_it(box):
    assert boxes_of(parse({"box_prompt": box})) == [[1, 2, 3, 4]]


def test_a_single_point_needs_no_list_around_it():
    assert points_of(parse({"point_prompt": [7, 8]})) == [[(7, 8, 1)]]


def test_arrays_are_taken_and_kept_as_lists():
    prompts = {"box_prompt": np.array(DOCUMENTED), "point_prompt": None}
    requests = parse(prompts)
    assert as_given(prompts, requests) == {"box_prompt": DOCUMENTED}
    assert all(type(number) is float for request in requests for number in request.given)


@given(st.permutations([0, 1]), st.permutations([0, 1]))
def test_a_box_may_be_drawn_from_any_corner(columns, rows):
    x, y = (10.0, 50.0), (20.0, 90.0)
    box = [x[columns[0]], y[rows[0]], x[columns[1]], y[rows[1]]]
    assert boxes_of(parse({"box_prompt": [box]})) == [[10, 20, 50, 90]]


def test_a_plain_point_refines_the_smallest_box_that_holds_it():
    requests = parse({"box_prompt": [[0, 0, 100, 100], [20, 20, 40, 40]], "point_prompt": [[30, 30, 0], [90, 90]]})
    assert points_of(requests) == [[(90, 90, 1)], [(30, 30, 0)]]
    assert [request.points for request in requests] == [([90, 90, 1],), ([30, 30, 0],)]


def test_a_plain_point_in_no_box_is_an_object_of_its_own():
    requests = parse({"box_prompt": [[0, 0, 10, 10]], "point_prompt": [[50, 50], [60, 60]]})
    assert boxes_of(requests) == [[0, 0, 10, 10], None, None]
    assert points_of(requests) == [[], [(50, 50, 1)], [(60, 60, 1)]]


def test_groups_of_points_refine_the_boxes_in_their_order():
    requests = parse({"box_prompt": [[0, 0, 10, 10], [20, 20, 30, 30]], "point_prompt": [[], [[99, 99, 0], [25, 25]]]})
    assert boxes_of(requests) == [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert points_of(requests) == [[], [(99, 99, 0), (25, 25, 1)]]


def test_prompts_as_values_are_taken_alone_and_in_lists():
    box = Prompt(box=np.array([1, 2, 3, 4]))
    point = Prompt(np.array([[5, 6], [7, 8]]), np.array([1, 0]))
    rough = Prompt(rough_mask=np.ones((4, 4), dtype=bool))
    requests = parse([box, point, rough])
    assert [request.prompt for request in requests] == [box, point, rough]
    assert [request.label for request in requests] == ["box_prompt", "point_prompt", "mask_prompt"]
    assert parse(box)[0].prompt is box
    assert as_given(box, parse(box)) == {"box_prompt": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (None, "expected a dict like .*, got None"),
        ([[1, 2, 3, 4]], "expected a dict like"),
        ("box", "expected a dict like .*, got 'box'"),
        ({}, "prompts: expected at least one box or point, got none"),
        ({"box_prompt": None}, "prompts: expected at least one box or point"),
        ({"box_prompt": []}, "box_prompt: expected at least one box or point"),
        ({"boxes": [[1, 2, 3, 4]]}, "expected the keys box_prompt and point_prompt, got 'boxes'"),
        ({"box_prompt": [[1, 2, 3, 4]], "text": "cat"}, "got 'text'"),
        ({"box_prompt": [[1, 2, 3]]}, r"expected \[x1, y1, x2, y2\] for each object, got \[1, 2, 3\]"),
        ({"box_prompt": [[[1, 2, 3, 4]]]}, "expected .* for each object"),
        ({"box_prompt": 7}, "expected a list, got 7"),
        ({"box_prompt": "1,2,3,4"}, "expected numbers, got '1,2,3,4'"),
        ({"box_prompt": [["1", 2, 3, 4]]}, "expected numbers, got '1'"),
        ({"box_prompt": [[True, 2, 3, 4]]}, "expected numbers, got True"),
        ({"box_prompt": [[None, 2, 3, 4]]}, "expected numbers, got None"),
        ({"box_prompt": [[1, 2, 3, float("nan")]]}, "expected pixels, got nan"),
        ({"box_prompt": [[1, 2, 3, float("inf")]]}, "expected pixels, got inf"),
        ({"point_prompt": [[1]]}, "expected .* for each point"),
        ({"point_prompt": [[1, 2, 5]]}, "expected .* for each point, got .*5"),
        ({"point_prompt": [[[[1, 2]]]]}, "expected .* for each point"),
        ({"point_prompt": [[1, 2, 0]]}, "expected a point on the object"),
        ({"point_prompt": [[[1, 2, 0], [3, 4, 0]]]}, "expected a point on the object"),
        ({"box_prompt": [[0, 0, 9, 9]], "point_prompt": [[50, 50, 0]]}, "expected a point on the object"),
        ({"box_prompt": [[0, 0, 9, 9]], "point_prompt": [[[1, 2]], [[3, 4]]]}, "as many groups of points as boxes"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_was_expected(prompts, sentence):
    with pytest.raises(PromptError, match=sentence) as refused:
        parse(prompts)
    assert "\n" not in str(refused.value)


def test_on_the_command_line_the_points_outside_of_the_boxes_mark_one_object():
    requests = of_boxes_and_points([[0, 0, 10, 10]], [[5, 5, 0], [50, 50], [60, 60, 0]])
    assert points_of(requests) == [[(5, 5, 0)], [(50, 50, 1), (60, 60, 0)]]
    assert of_boxes_and_points([], []) == ()


@pytest.mark.parametrize("point", [[-1, 5], [301, 5], [5, -0.5], [5, 201]])
def test_a_point_outside_of_the_picture_is_refused_with_its_size(point):
    with pytest.raises(PromptError, match=r"the picture of 300 × 200 pixels, got \["):
        check_inside(parse({"point_prompt": [point]}), (200, 300))


@pytest.mark.parametrize("box", [[300, 10, 350, 20], [-50, 10, -1, 20], [10, 200, 20, 210], [10, -9, 20, 0]])
def test_a_box_that_does_not_touch_the_picture_is_refused(box):
    with pytest.raises(PromptError, match="expected a box in the picture"):
        check_inside(parse({"box_prompt": [box]}), (200, 300))


def test_points_on_the_edge_and_boxes_over_it_are_taken():
    requests = parse({"point_prompt": [[0, 0], [300, 200]]}) + parse({"box_prompt": [[-5, -5, 320, 230]]})
    check_inside(requests, (200, 300))
    assert boxes_of(requests)[-1] == [-5, -5, 320, 230]


def test_what_a_prompt_needs_of_the_weights_follows_from_what_it_holds():
    prompt = parse({"box_prompt": [[0, 0, 9, 9]], "point_prompt": [[5, 5, 0]]})[0].prompt
    assert prompt.needs == {"boxes", "negative_points"}
    assert parse({"point_prompt": [5, 5]})[0].prompt.needs == {"points"}
    assert Prompt(rough_mask=np.ones((4, 4), dtype=bool)).needs == {"mask_input"}
