"""Labeling configs in the documentation work as they stand and answer with what the text above them says."""

import re
from itertools import pairwise

import pytest

from backend.demo.project import LABEL_CONFIG
from backend.labeling import config, config_problems, config_types
from backend.shapes import ShapeKind
from tests.support.markdown import Block, document, documents
from tests.support.outputs import choose_output

CLAIMS = {
    "Brush masks": ShapeKind.BRUSH,
    "Polygons": ShapeKind.POLYGON,
    "Bitmasks": ShapeKind.BITMASK,
    "Rectangles": ShapeKind.RECTANGLE,
    "Ellipses": ShapeKind.ELLIPSE,
}
CONFIGS = [(page.name, block) for page in documents() for block in page.blocks if block.language == "xml"]
every_config = pytest.mark.parametrize(
    "block", [block for _, block in CONFIGS], ids=[f"{name}:{block.line}" for name, block in CONFIGS]
)


def claimed(block: Block) -> ShapeKind:
    """What the paragraph above a config says that its answers are."""
    [word] = re.findall(r"\*\*([^*]+)\*\*", block.before)
    return CLAIMS[word]


def images(block: Block) -> list[config_types.LabelConfig]:
    controls = config.parse(block.text)
    return [config.on_image(controls, image.name) for image in controls.images]


@every_config
def test_a_config_has_no_problems(block):
    assert config_problems.problems(config.parse(block.text)) == ()


@every_config
def test_a_config_answers_with_what_the_text_says_and_keeps_every_label(block):
    for controls in images(block):
        labels = {label for control in (*controls.controls, *controls.labels) for label in control.labels}
        for label in labels:
            output = choose_output(controls, (label,))
            assert (output.control.kind, output.labels) == (claimed(block), (label,))
        assert choose_output(controls).control.kind is claimed(block)


@every_config
def test_the_control_that_is_answered_with_is_no_smart_tool_and_points_are(block):
    for controls in images(block):
        assert not choose_output(controls).control.is_smart
        assert ShapeKind.KEYPOINT in {control.kind for control in controls.controls if control.is_smart}
        assert {
            control.is_smart for control in controls.controls if control.is_output and control.kind is claimed(block)
        } >= {False}


def test_the_readme_has_the_configs_whose_masks_are_exported_brush_and_polygon():
    blocks = [block for block in document("README.md").blocks if block.language == "xml"]
    assert [claimed(block) for block in blocks] == [ShapeKind.BRUSH, ShapeKind.POLYGON]
    assert all(config_problems.export_hints(config.parse(block.text)) == () for block in blocks)
    [changed] = [set(first.text.splitlines()) ^ set(second.text.splitlines()) for first, second in pairwise(blocks)]
    assert len(changed) == 4  # nothing but the control of the answer, its beginning and its end


@every_config
def test_a_row_of_labels_opens_with_its_first_label_chosen(block):
    rows = re.findall(r"<Labels [^>]*>\s*<Label ([^>]*)/>", block.text)
    assert len(rows) == block.text.count("<Labels ")
    assert all('selected="true"' in attributes for attributes in rows)


def test_the_demo_uses_the_config_that_is_recommended():
    recommended = config.parse(next(block for block in document("README.md").blocks if block.language == "xml").text)
    demo = config.parse(LABEL_CONFIG)
    assert [control.tag for control in demo.controls] == [control.tag for control in recommended.controls]
    assert [control.is_smart for control in demo.controls] == [control.is_smart for control in recommended.controls]


def test_every_config_that_is_exported_to_little_says_to_what():
    for name, block in CONFIGS:
        hints = config_problems.export_hints(config.parse(block.text))
        around = re.sub(r"\s+", " ", block.before)
        assert not hints or re.search(r"export to|exports", around), f"{name}:{block.line}"
