"""Labeling configs are read as Label Studio's editor reads them in Chromium.

``golden/label_studio/configs.json`` holds what Chromium makes of each; `tests.e2e.test_browser_configs` compares them
with it.
"""

import json
from pathlib import Path

import pytest

from backend.errors import ConfigError, Reason
from backend.labeling import config as labeling_config
from backend.labeling import config_problems, config_xml
from backend.labeling.config_types import LabelConfig, OutputTag
from backend.segmentation.regions import SHAPES
from backend.shapes import OUTPUT_KINDS, ShapeKind
from tests.support.costs import at_most
from tests.support.outputs import choose_output

CONFIGS = json.loads((Path(__file__).parents[2] / "golden" / "label_studio" / "configs.json").read_text())

IMAGE = '<Image name="image" value="$image"/>'
LABELS = '<Label value="Cat"/><Label value="Dog"/>'


def parsed(*tags: str) -> LabelConfig:
    return labeling_config.parse("<View>" + "".join(tags) + "</View>")


def on_image(*tags: str) -> LabelConfig:
    return labeling_config.on_image(parsed(IMAGE, *tags), "image")


def chosen(*tags: str, labels: tuple[str, ...] = ("Cat",)) -> OutputTag:
    return choose_output(on_image(*tags), labels)


def tags(tag: config_xml.Tag) -> list[list[object]]:
    return [[tag.name, tag.attributes], *(tag_below for child in tag.children for tag_below in tags(child))]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_read_as_chromium_reads_it(name):
    text, expected = CONFIGS[name]["text"], CONFIGS[name]["tags"]
    if expected is None:
        with pytest.raises(ConfigError, match="label_config: expected XML"):
            config_xml.read(text)
    else:
        assert tags(config_xml.read(text)) == expected


def test_every_case_of_a_config_that_people_had_is_in_the_table():
    assert {"no_toName", "bom", "lowercase", "doctype", "nbsp", "ampersand", "cdata", "style_css"} <= CONFIGS.keys()


def test_text_in_a_tag_is_its_value_as_in_the_editor():
    controls = parsed(
        '<Image name="image">$photo</Image>'
        '<BrushLabels name="brush" toName="image"><Label>Cat</Label><Label>R&amp;D</Label></BrushLabels>'
    )
    assert controls.images[0].value == "$photo"
    assert controls.controls[0].labels == ("Cat", "R&amp;D")


def test_what_lies_in_a_page_of_hypertext_is_no_part_of_the_config():
    page = '<HyperText name="page" value="$page"><View><Image name="other" value="$other"/></View></HyperText>'
    assert [image.name for image in parsed(page, IMAGE).images] == ["image"]


@pytest.mark.parametrize(
    "config",
    [
        "<View xmlns='{}'>{}</View>".format("u" * 100_000, "".join(f"<a{number}/>" for number in range(15_000))),
        "<View {}/>".format(" ".join(f'a{number}=""' for number in range(60_000))),
        "<View>" + "<!--x-->" * 100_000 + "</View>",
    ],
    ids=["a long namespace", "many attributes", "many comments"],
)
def test_no_small_config_takes_long_to_read(config):
    with at_most(cpu_s=0.5), pytest.raises(ConfigError):
        labeling_config.parse(config)


# Controls that do not say what they are for


@pytest.mark.parametrize(
    "other", ["", '<Header value="Look"/>', '<Text name="text" value="$text"/>', '<HyperText name="page" value="$p"/>']
)
def test_with_one_object_tag_a_missing_to_name_means_it(other):
    controls = parsed(
        f'<Labels name="label">{LABELS}</Labels>{other}',
        IMAGE,
        '<Brush name="brush" smart="false"/><KeyPoint name="point" smart="true"/>',
    )
    assert [control.to_names for control in (*controls.controls, *controls.labels)] == [("image",)] * 3
    assert config_problems.problems(controls) == ()
    assert choose_output(labeling_config.on_image(controls, "image"), ("Dog",)).labels == ("Dog",)


@pytest.mark.parametrize(
    "other", ['<Image name="second" value="$b"/>', '<Audio name="a" value="$a"/>', '<Video name="v" value="$v"/>']
)
def test_with_two_object_tags_a_missing_to_name_means_none(other):
    assert parsed(IMAGE, other, '<Brush name="brush"/>').controls == ()


def test_a_repeated_image_is_several_object_tags():
    repeated = '<Repeater on="$pages"><Image name="page{{idx}}" value="$pages[{{idx}}]"/></Repeater>'
    assert parsed(repeated, '<Brush name="brush"/>').controls == ()


# Labels


@pytest.mark.parametrize("label", ["C", "Cat", "cat", " c "])
def test_a_label_matches_by_value_or_alias_and_is_answered_by_alias(label):
    brush = '<BrushLabels name="brush" toName="image"><Label value="Cat" alias="C"/><Label value="Dog"/></BrushLabels>'
    assert chosen(brush, labels=(label,)).labels == ("C",)


def test_an_exact_name_goes_before_one_of_another_spelling():
    brush = '<BrushLabels name="brush" toName="image"><Label value="cat"/><Label value="Cat"/></BrushLabels>'
    assert chosen(brush, labels=("Cat",)).labels == ("Cat",)


# Prompts are no answers

BRUSH = (
    '<BrushLabels name="brush" toName="image" smart="false"><Label value="Tumour"/><Label value="Vessel"/>'
    "</BrushLabels>"
)
POINT = (
    '<KeyPointLabels name="point" toName="image" smart="true"><Label value="Foreground"/><Label value="Background"/>'
    "</KeyPointLabels>"
)
BOX = '<RectangleLabels name="box" toName="image"{}><Label value="Foreground"/></RectangleLabels>'
SMART, UNSAID, NOT_SMART = ' smart="true"', "", ' smart="false"'


@pytest.mark.parametrize("smart", [SMART, UNSAID])
def test_an_answer_is_an_unlabelled_mask_and_not_a_box_of_the_prompts_where_no_mask_has_the_label(smart):
    output = chosen(BRUSH, POINT, BOX.format(smart), labels=("Foreground",))
    assert (output.control.name, output.labels) == ("brush", ())


def test_a_box_that_is_no_prompt_answers_the_labels_that_it_alone_has():
    assert chosen(BRUSH, POINT, BOX.format(NOT_SMART), labels=("Foreground",)).control.name == "box"


def test_a_polygon_that_prompts_is_no_answer():
    polygon = '<Polygon name="polygon" toName="image" smart="true"/>'
    with pytest.raises(ConfigError, match='<Polygon name="polygon"> says smart="true"') as caught:
        chosen(polygon, POINT)
    assert caught.value.reason is Reason.NO_OUTPUT_CONTROL
    assert chosen(polygon, '<Rectangle name="found" toName="image" smart="false"/>').control.name == "found"


@pytest.mark.parametrize("painted", ["Brush", "Bitmask"])
def test_a_painting_tool_answers_whatever_it_says_of_being_smart(painted):
    assert chosen(f'<{painted} name="mask" toName="image" smart="true"/>', POINT).control.name == "mask"


def test_a_vector_is_drawn_before_a_rectangle():
    vector, box = '<Vector name="vector" toName="image"/>', '<Rectangle name="box" toName="image"/>'
    assert chosen(box, vector).control.name == "vector"


def test_the_kinds_that_can_be_drawn_are_those_that_can_be_preferred():
    assert set(SHAPES) == set(OUTPUT_KINDS)
    for kind in set(ShapeKind) - set(OUTPUT_KINDS):
        with pytest.raises(ConfigError):
            chosen(f'<{kind}labels name="a" toName="image"><Label value="Cat"/></{kind}labels>')


# Problems of a config


def test_labels_of_prompts_that_no_answer_has_are_named():
    [problem] = config_problems.problems(parsed(IMAGE, BRUSH, POINT, BOX.format(SMART)))
    assert "'Foreground', 'Background'" in problem
    assert "'Tumour', 'Vessel'" in problem


def test_labels_that_no_prompt_has_are_named():
    plain = '<KeyPoint name="point" toName="image" smart="true"/>'
    [problem] = config_problems.problems(parsed(IMAGE, BRUSH, plain))
    assert "'Tumour', 'Vessel'" in problem
    assert '<Labels name="label" toName="image">' in problem


def test_one_list_of_labels_for_two_images_is_reported_and_so_is_an_image_without_one():
    images = '<Image name="before" value="$b"/><Image name="after" value="$a"/>'
    controls = "".join(
        f'<Brush name="{name}_mask" toName="{name}" smart="false"/><KeyPoint name="{name}_point" toName="{name}"/>'
        for name in ("before", "after")
    )
    [problem] = config_problems.problems(
        parsed(f'<Labels name="l" toName="before,after">{LABELS}</Labels>', images, controls)
    )
    assert "<Labels name=\"l\">, got 'before', 'after'" in problem
    [problem] = config_problems.problems(
        parsed(f'<Labels name="l" toName="before">{LABELS}</Labels>', images, controls)
    )
    assert "no labels for image 'after'" in problem
    both = "".join(f'<Labels name="l_{name}" toName="{name}">{LABELS}</Labels>' for name in ("before", "after"))
    assert config_problems.problems(parsed(both, images, controls)) == ()


def test_labels_that_come_with_each_task_are_no_problem():
    point = '<KeyPointLabels name="point" toName="image" value="$labels"/>'
    assert config_problems.problems(parsed(IMAGE, BRUSH, point)) == ()


@pytest.mark.parametrize("tag", ["PolygonLabels", "RectangleLabels"])
def test_labels_of_keypoints_are_pointed_out_where_the_export_loses_those_of_answers_over_them(tag):
    answer = f'<{tag} name="answer" toName="image" smart="false">{LABELS}</{tag}>'
    row, point = f'<Labels name="l" toName="image">{LABELS}</Labels>', '<KeyPoint name="p" toName="image"/>'
    own = f'<KeyPointLabels name="p" toName="image">{LABELS}</KeyPointLabels>'
    assert config_problems.export_hints(parsed(IMAGE, row, answer, point)) == ()
    [hint] = config_problems.export_hints(parsed(IMAGE, answer, own))
    assert "<KeyPointLabels>" in hint
    assert "'default'" in hint
    assert config_problems.export_hints(parsed(IMAGE, BRUSH, own)) == (), "brush to COCO keeps them"


def test_sentences_about_a_config_are_short_however_long_its_names_are():
    many = "".join(f'<Label value="{"x" * 900}{number}"/>' for number in range(100))
    messages = config_problems.problems(
        parsed(IMAGE, BRUSH, f'<KeyPointLabels name="point" toName="image">{many}</KeyPointLabels>')
    )
    assert all(len(problem) < 1500 for problem in messages)
