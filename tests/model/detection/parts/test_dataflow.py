"""A program is cut between what depends on its text alone and the rest."""

import pytest

from model.detection.parts.dataflow import Operator, Side, cut


def text(value):
    return Operator(frozenset(["data"]), frozenset(), frozenset([value]), input_side=Side.TEXT)


def image(value):
    return Operator(frozenset(["data"]), frozenset(), frozenset([value]), input_side=Side.REST)


def parameter(value):
    return Operator(frozenset([""]), frozenset(), frozenset([value]))


def computed(name, reads, *writes):
    """An operator by its name, or several, as of one with a branch: each letter of ``reads`` is a value."""
    return Operator(frozenset(name.split()), frozenset(reads), frozenset(writes))


def output(value):
    return Operator(frozenset(["fetch"]), frozenset([value]), frozenset(), is_output=True)


def parts(*operators, can_cross=lambda value: True):
    """What each part computes, and what crosses; None where the program runs as a whole."""
    found = cut(operators, can_cross)
    if found is None:
        return None
    names = [" ".join(sorted(value for index in part for value in operators[index].writes)) for part in
             (found.text, found.rest)]  # fmt: skip
    return (*names, "".join(found.crossing))


def test_what_depends_on_the_text_alone_is_one_part_and_all_others_the_rest():
    assert parts(
        parameter("p"), parameter("q"), text("t"), image("i"), computed("matmul", "tp", "f"),
        computed("conv2d", "iq", "s"), computed("matmul", "fs", "r"), output("r"),
    ) == ("f p t", "i q r s", "f")  # fmt: skip


def test_what_both_need_and_neither_changes_is_in_both():
    assert parts(
        parameter("p"), text("t"), image("i"), computed("cast", "p", "c"), computed("add", "tc", "f"),
        computed("add", "ic", "s"), computed("add", "fst", "r"), output("r"),
    ) == ("c f p t", "c i p r s t", "f")  # fmt: skip


def test_a_program_without_a_text_side_runs_as_a_whole():
    assert parts(image("i"), computed("relu", "i", "r"), output("r")) is None
    assert parts(text("t"), image("i"), computed("add", "ti", "r"), output("r")) is None


def test_a_branch_that_reads_both_belongs_to_the_rest():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("if add relu", "fi", "b"), output("b")
    ) == ("f t", "b i", "f")


def test_what_nothing_needs_is_in_neither_part():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("exp", "t", "u"), computed("add", "fi", "r"),
        computed("exp", "i", "v"), output("r"),
    ) == ("f t", "i r", "f")  # fmt: skip


def test_random_numbers_are_drawn_for_every_picture():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("gaussian", "f", "g"),
        computed("if uniform", "f", "h"), computed("add", "ghi", "r"), output("r"),
    ) == ("f t", "g h i r", "f")  # fmt: skip


def test_a_value_that_no_input_can_hold_is_computed_again_from_those_that_one_can():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("combine", "f", "v"), computed("concat", "vi", "r"),
        output("r"), can_cross=lambda value: value != "v",
    ) == ("f t", "i r v", "f")  # fmt: skip
    assert parts(
        text("t"), image("i"), computed("combine", "t", "v"), computed("concat", "vi", "r"), output("r"),
        can_cross=lambda value: value != "v",
    ) is None  # fmt: skip


@pytest.mark.parametrize("name", ["expand", "tile", "expand_as_v2"])
def test_what_only_repeats_numbers_is_done_for_every_picture(name):
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed(name, "f", "e"), computed("add", "ei", "r"),
        output("r"),
    ) == ("f t", "e i r", "f")  # fmt: skip


def test_a_value_that_is_overwritten_later_does_not_cross():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("exp", "f", "g"), computed("add", "gi", "s"),
        computed("add_", "g", "g", "h"), computed("add", "sh", "r"), output("r"),
    ) == ("f t", "g g h i r s", "f")  # fmt: skip


def test_a_value_that_the_text_overwrites_is_of_the_text_wherever_it_is_read():
    assert parts(
        text("t"), image("i"), computed("full", "", "c"), computed("increment", "ct", "c"), computed("relu", "c", "f"),
        computed("add", "fi", "r"), output("r"),
    ) == ("c c f t", "i r", "f")  # fmt: skip


def test_what_the_text_gives_to_the_caller_crosses():
    assert parts(
        text("t"), image("i"), computed("relu", "t", "f"), computed("relu", "i", "s"), output("f"), output("s")
    ) == ("f t", "i s", "f")
