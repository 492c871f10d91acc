"""Labeling configs: which controls they hold, what answers go where, and where a task's images are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ConfigError, Reason, RequestError
from backend.labeling import config as labeling_config
from backend.labeling import config_problems, task_images
from backend.labeling.config_types import ImageTag, LabelConfig, OutputTag
from backend.shapes import OUTPUT_KINDS, Detail, ShapeKind
from backend.types import ImageRef, Task
from tests.support.outputs import choose_output
from tests.support.wire_bodies import CONFIG, JUNK, recorded

BRUSH = '<BrushLabels name="brush" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>'
BITMASK = '<BitmaskLabels name="bitmask" toName="image"><Label value="Cat"/></BitmaskLabels>'
POLYGON = '<PolygonLabels name="polygon" toName="image"><Label value="Cat"/></PolygonLabels>'
VECTOR = '<VectorLabels name="vector" toName="image"><Label value="Cat"/></VectorLabels>'
RECTANGLE = '<RectangleLabels name="box" toName="image"><Label value="Cat"/></RectangleLabels>'
ELLIPSE = '<EllipseLabels name="ellipse" toName="image"><Label value="Cat"/></EllipseLabels>'
POINT = '<KeyPointLabels name="point" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>'


def config(*tags: str) -> LabelConfig:
    return labeling_config.parse("<View>" + '<Image name="image" value="$image"/>' + "".join(tags) + "</View>")


def chosen(*tags: str, labels: tuple[str, ...] = ("Cat",)) -> OutputTag:
    return choose_output(labeling_config.on_image(config(*tags), "image"), labels)


def resolved(value: str, data: object, item_index: int | None = None) -> str:
    return task_images.image_ref(ImageTag("image", value), Task(1, data), item_index=item_index).uri


# Reading


def test_the_recorded_config_is_read() -> None:
    controls = labeling_config.parse(recorded("keypoint")["label_config"])
    assert controls.images == (ImageTag("image", "$image"),)
    assert [(control.name, control.tag, control.kind) for control in controls.controls] == [
        ("tag", "BrushLabels", ShapeKind.BRUSH),
        ("tag2", "KeyPointLabels", ShapeKind.KEYPOINT),
        ("tag3", "RectangleLabels", ShapeKind.RECTANGLE),
    ]
    assert {control.labels for control in controls.controls} == {("Cat", "Dog")}
    assert {control.type for control in controls.controls} == {"brushlabels", "keypointlabels", "rectanglelabels"}


def test_a_config_is_read_only_once() -> None:
    assert labeling_config.parse(CONFIG) is labeling_config.parse(CONFIG)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_config_is_named_as_such(text: str) -> None:
    with pytest.raises(ConfigError, match="expected XML, got nothing") as caught:
        labeling_config.parse(text)
    assert caught.value.reason is Reason.NO_LABEL_CONFIG


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "<View>",
        "<View>&nbsp;</View>",
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>',
        '<!DOCTYPE x [<!ENTITY a "a long text that multiplies">]><View>&a;</View>',
        "<!DOCTYPE x [<!ENTITY % a \"<!ENTITY b 'c'>\"> %a;]><View>&b;</View>",
        '<!DOCTYPE x [<!ATTLIST View a CDATA "aaaa">]><View/>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
        "<View>" * 20_000 + "</View>" * 20_000,
    ],
    ids=[
        "words",
        "unclosed",
        "html entity",
        "nested",
        "long entity",
        "parameter",
        "defaults",
        "outside entity",
        "deep",
    ],
)
def test_what_is_no_safe_xml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="label_config") as caught:
        labeling_config.parse(text)
    assert caught.value.reason is Reason.BAD_LABEL_CONFIG


@pytest.mark.parametrize(
    "definition", ['"a long text that multiplies"', 'SYSTEM "file:///etc/passwd"', 'SYSTEM "x" NDATA y']
)
def test_a_refused_entity_is_named_with_what_is_allowed(definition: str) -> None:
    message = "expected entities of at most 16 plain characters, got another definition of 'logo'$"
    with pytest.raises(ConfigError, match=message):
        labeling_config.parse(f"<!DOCTYPE x [<!ENTITY logo {definition}>]><View/>")


def test_a_config_without_an_image_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match='<Image name="image"') as caught:
        labeling_config.parse('<View><Text name="t" value="$t"/></View>')
    assert caught.value.reason is Reason.NO_IMAGE_TAG


def test_names_of_tags_and_attributes_count_whatever_their_case() -> None:
    controls = labeling_config.parse(
        '<view><image NAME="i" VALUE="$x"/><brushlabels name="b" toname="i"><label value="A"/></brushlabels></view>'
    )
    assert controls.images == (ImageTag("i", "$x"),)
    assert (controls.controls[0].kind, controls.controls[0].labels) == (ShapeKind.BRUSH, ("A",))


def test_a_label_is_called_by_its_alias() -> None:
    controls = config('<BrushLabels name="b" toName="image"><Label value="Katze" alias="Cat"/></BrushLabels>')
    assert controls.controls[0].labels == ("Cat",)


def test_labels_deeper_in_a_control_are_found() -> None:
    tag = '<BrushLabels name="b" toName="image"><View><Label value="A"/></View><Label value="B"/></BrushLabels>'
    assert config(tag).controls[0].labels == ("A", "B")


def test_smart_and_model_output_are_read() -> None:
    controls = config(
        '<BrushLabels name="a" toName="image" smart="false"/>',
        '<BrushLabels name="b" toName="image" model_output="false"/>',
        '<BrushLabels name="c" toName="image" smart="true"/>',
    ).controls
    assert [control.is_smart for control in controls] == [False, True, True]
    assert [control.is_output for control in controls] == [True, False, True]


def test_the_detail_of_a_controls_answers_is_read() -> None:
    [polygon, brush] = config(
        '<PolygonLabels name="p" toName="image" model_tolerance=" 1.5 " model_corners="50" model_min_area="0"/>',
        '<Brush name="b" toName="image" model_corners=""/>',
    ).controls
    assert polygon.detail == Detail(tolerance=1.5, corners=50, min_area=0)
    assert brush.detail == Detail()


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("model_corners", "many", "a whole number of at least 4"),
        ("model_corners", "3", "a whole number of at least 4"),
        ("model_corners", "12.5", "a whole number of at least 4"),
        ("model_tolerance", "-1", "a number of at least 0"),
        ("model_tolerance", "nan", "a number of at least 0"),
        ("model_tolerance", "1e9", "a number of at least 0"),
        ("model_min_area", "10 px", "a number of at least 0"),
        ("model_min_area", "\u0663", "a number of at least 0"),
    ],
)
def test_a_detail_that_is_no_such_number_is_refused(attribute: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"<PolygonLabels> {attribute}: expected {expected}, got '{value}'"):
        config(f'<PolygonLabels name="p" toName="image" {attribute}="{value}"/>')


# EDGE CASES 6, 17, 18: which control answers


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ((ELLIPSE, RECTANGLE, VECTOR, POLYGON, BITMASK, BRUSH), "brush"),
        ((ELLIPSE, RECTANGLE, VECTOR, POLYGON, BITMASK), "bitmask"),
        ((ELLIPSE, RECTANGLE, VECTOR, POLYGON), "polygon"),
        ((ELLIPSE, RECTANGLE, VECTOR), "vector"),
        ((ELLIPSE, RECTANGLE, POINT), "box"),
        ((POINT, ELLIPSE), "ellipse"),
    ],
)
def test_the_most_exact_control_answers(tags: tuple[str, ...], name: str) -> None:
    assert chosen(*tags).control.name == name


def test_the_preference_can_be_set() -> None:
    here = labeling_config.on_image(config(BRUSH, POLYGON, RECTANGLE), "image")
    output = choose_output(here, ("Cat",), (ShapeKind.RECTANGLE, ShapeKind.BRUSH))
    assert output.control.name == "box"


def test_a_control_that_opted_out_does_not_answer() -> None:
    assert chosen(BRUSH.replace("toName", 'model_output="false" toName'), POLYGON).control.name == "polygon"


@pytest.mark.parametrize("tags", [(), (POINT,), ('<BrushLabels name="b" toName="other"/>',)])
def test_a_config_that_can_hold_no_mask_says_what_to_add(tags: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match='add for instance <BrushLabels name="brush" toName="image"') as caught:
        chosen(*tags)
    assert caught.value.reason is Reason.NO_OUTPUT_CONTROL


def test_a_control_that_offers_the_label_goes_before_a_preferred_one_that_does_not() -> None:
    bird = POLYGON.replace("Cat", "Bird")
    assert chosen(BRUSH, bird, labels=("Bird",)) == OutputTag(config(BRUSH, bird).controls[1], ("Bird",))


def test_a_label_of_another_spelling_is_written_as_the_control_spells_it() -> None:
    output = chosen(BRUSH, labels=(" cat",))
    assert output.labels == ("Cat",)


def test_a_label_that_no_control_offers_is_dropped_and_none_invented() -> None:
    output = chosen(BITMASK, labels=("Bird",))
    assert (output.control.name, output.labels) == ("bitmask", ())


def test_an_object_without_a_label_takes_the_only_one_there_is() -> None:
    assert chosen(BITMASK, labels=()).labels == ("Cat",)
    assert chosen(BRUSH, labels=()).labels == ()


def test_labels_that_vary_by_task_are_taken_as_they_are() -> None:
    tag = '<BrushLabels name="brush" toName="image" value="$labels"/>'
    assert chosen(tag, labels=("Anything",)).labels == ("Anything",)


def test_a_separate_labels_tag_holds_the_labels_of_a_plain_brush() -> None:
    names = '<Labels name="names" toName="image"><Label value="Cat"/></Labels>'
    output = chosen('<Brush name="brush" toName="image"/>', names)
    assert (output.control.name, output.labels, output.labels_control) == ("brush", ("Cat",), "names")
    output = chosen('<Brush name="brush" toName="image"/>', names, labels=())
    assert (output.labels, output.labels_control) == (("Cat",), "names")
    output = chosen('<Brush name="brush" toName="image"/>')
    assert (output.labels, output.labels_control) == ((), None)


def test_a_magic_wand_is_a_brush_that_never_answers() -> None:
    controls = config('<MagicWand name="wand" toName="image"/>').controls
    assert [(control.kind, control.is_output) for control in controls] == [(ShapeKind.BRUSH, False)]


def test_a_region_goes_to_the_control_of_its_own_image() -> None:
    two = labeling_config.parse(
        '<View><Image name="left" value="$a"/><Image name="right" value="$b"/>'
        '<BrushLabels name="on_left" toName="left"><Label value="Cat"/></BrushLabels>'
        '<BrushLabels name="on_both" toName="right, left"><Label value="Cat"/></BrushLabels></View>'
    )
    left, right = (labeling_config.on_image(two, name) for name in ("left", "right"))
    assert choose_output(left, ("Cat",)).control.name == "on_left"
    assert choose_output(right, ("Cat",)).control.name == "on_both"
    assert (left.images[0].value, right.images[0].value) == ("$a", "$b")


def test_an_image_of_another_name_is_refused_and_no_name_means_the_only_one() -> None:
    controls = config(BRUSH)
    assert labeling_config.on_image(controls, "").images[0].name == "image"
    with pytest.raises(ConfigError, match="one of image, got 'picture'") as caught:
        labeling_config.on_image(controls, "picture")
    assert caught.value.reason is Reason.NO_IMAGE_TAG


def test_problems_name_what_is_missing() -> None:
    assert config_problems.problems(labeling_config.parse(CONFIG)) == ()
    assert len(config_problems.problems(config())) == 2
    [problem] = config_problems.problems(config(BRUSH.replace("toName", 'smart="false" toName')))
    assert "no control on image 'image' is smart" in problem
    assert '<KeyPoint name="point" toName="image" smart="true"/>' in problem, "KeyPointLabels cost labels in exports"


# EDGE CASE 19: repeaters

PAGES = (
    '<View><Repeater on="$pages"><View><Image name="page_{{idx}}" value="$pages[{{idx}}].url"/>'
    '<BrushLabels name="brush_{{idx}}" toName="page_{{idx}}"><Label value="Cat"/></BrushLabels>'
    "</View></Repeater></View>"
)


def test_a_repeaters_names_are_filled_in_as_the_click_has_them() -> None:
    here = labeling_config.on_image(labeling_config.parse(PAGES), "page_12")
    assert here.images == (ImageTag("page_12", "$pages[12].url"),)
    assert choose_output(here, ("Cat",)).control.name == "brush_12"


def test_a_repeater_may_name_its_index() -> None:
    named = PAGES.replace("{{idx}}", "{{n}}").replace("<Repeater", '<Repeater indexFlag="{{n}}"')
    assert labeling_config.on_image(labeling_config.parse(named), "page_3").images[0].value == "$pages[3].url"


def test_repeaters_inside_each_other_are_distinguished() -> None:
    nested = labeling_config.parse(
        '<View><Repeater on="$a" indexFlag="{{i}}"><Repeater on="$a[{{i}}].b" indexFlag="{{j}}">'
        '<Image name="p{{i}}-{{j}}" value="$a[{{i}}].b[{{j}}]"/></Repeater></Repeater></View>'
    )
    assert labeling_config.on_image(nested, "p1-2").images[0].value == "$a[1].b[2]"
    data = {"a": [{"b": ["x"]}, {"b": ["y", "z"]}]}
    assert [ref.uri for ref in task_images.image_refs(nested, Task(1, data))] == ["x", "y", "z"]


def test_all_images_of_a_repeater_are_listed() -> None:
    data = {"pages": [{"url": "a.jpg"}, {"url": "b.jpg"}, {}, {"url": "a.jpg"}]}
    refs = task_images.image_refs(labeling_config.parse(PAGES), Task(5, data), 2)
    assert refs == (ImageRef("a.jpg", 5, 2), ImageRef("b.jpg", 5, 2))


# EDGE CASES 16, 19, 20: where images are


@pytest.mark.parametrize(
    ("value", "data", "uri"),
    [
        ("$image", {"image": "a.jpg"}, "a.jpg"),
        ("$a.b[0].c", {"a": {"b": [{"c": "a.jpg"}]}}, "a.jpg"),
        ("$a.b", {"a.b": "whole.jpg", "a": {"b": "nested.jpg"}}, "whole.jpg"),
        ("https://host/a.jpg", {}, "https://host/a.jpg"),
        ("https://host/$folder/$name.jpg", {"folder": "f", "name.jpg": "a.jpg"}, "https://host/f/a.jpg"),
        ("$image", {"$undefined$": "a.jpg"}, "a.jpg"),
        ("$images", {"images": ["a.jpg", "b.jpg"]}, "a.jpg"),
        ("$image", {"image": "  a.jpg "}, "a.jpg"),
        ("$bild_größe", {"bild_größe": "a.jpg"}, "a.jpg"),
    ],
)
def test_a_value_is_looked_up_as_the_editor_does_it(value: str, data: dict, uri: str) -> None:
    assert resolved(value, data) == uri


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"image": None},
        {"image": ""},
        {"image": "  "},
        {"image": 3},
        {"image": {}},
        {"image": []},
        [],
        "a.jpg",
    ],
)
def test_a_task_without_an_address_has_no_image(data: object) -> None:
    with pytest.raises(RequestError, match=r"expected an address") as caught:
        resolved("$image", data)
    assert caught.value.reason is Reason.NO_IMAGE_IN_TASK


def test_an_item_of_a_list_is_picked_by_its_index() -> None:
    tag, task = ImageTag("image", value_list="$images"), Task(13, {"images": ["a.jpg", "b.jpg"]})
    assert task_images.image_ref(tag, task, 3, 1) == ImageRef("b.jpg", 13, 3, 1)
    assert task_images.image_ref(tag, task).uri == "a.jpg"


@pytest.mark.parametrize("index", [2, -1, 10**9])
def test_an_item_beyond_the_list_is_named_as_such(index: int) -> None:
    with pytest.raises(RequestError, match="from 0 to 1") as caught:
        resolved("$images", {"images": ["a.jpg", "b.jpg"]}, index)
    assert caught.value.reason is Reason.ITEM_INDEX_OUT_OF_RANGE


def test_an_item_that_is_no_address_has_no_image() -> None:
    with pytest.raises(RequestError) as caught:
        resolved("$images", {"images": [None]}, 0)
    assert caught.value.reason is Reason.NO_IMAGE_IN_TASK


def test_the_recorded_list_of_images_is_resolved() -> None:
    body = recorded("keypoint_multi_image_item0")
    here = labeling_config.on_image(labeling_config.parse(body["label_config"]), "image")
    ref = task_images.image_ref(here.images[0], Task(13, body["tasks"][0]["data"]), 3, 2)
    assert ref == ImageRef("/data/local-files/?d=sub/local%20one.jpg", 13, 3, 2)


def test_all_images_of_a_task_are_listed_once() -> None:
    controls = labeling_config.parse(
        '<View><Image name="a" value="$a"/><Image name="list" valueList="$list"/><Image name="b" value="$b"/></View>'
    )
    refs = task_images.image_refs(controls, Task(1, {"a": "x", "list": ["y", "x", 3, "z"], "b": None}))
    assert refs == (ImageRef("x", 1), ImageRef("y", 1, None, 0), ImageRef("z", 1, None, 3))


# Anything at all

ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["name", "toName", "value", "valueList", "smart", "model_output", "model_corners", "alias", "on", "indexFlag"]
    ),
    st.one_of(st.sampled_from(["image", "$image", "$a[{{idx}}].b", "{{idx}}", "x_{{idx}}", "true", "false", ""])),
    max_size=5,
)
TAGS = ["View", "Image", "Labels", "Label", "Repeater", "BrushLabels", "Brush", "PolygonLabels", "KeyPointLabels"]


def written(tree: tuple) -> str:
    tag, attributes, children = tree
    spelled = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{spelled}>{''.join(map(written, children))}</{tag}>"


TREES = st.recursive(
    st.tuples(st.sampled_from(TAGS), ATTRIBUTES, st.just(())),
    lambda inner: st.tuples(st.sampled_from(TAGS), ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
)
DATA = st.recursive(
    JUNK, lambda inner: st.one_of(st.dictionaries(st.sampled_from(["image", "a", "b"]), inner), st.lists(inner))
)


@settings(deadline=None)
@given(st.one_of(TREES.map(written), st.text(max_size=50)), DATA, st.sampled_from(["image", "x_3", ""]))
def test_any_config_and_data_give_an_answer_or_a_named_error(text: str, data: object, to_name: str) -> None:
    try:
        controls = labeling_config.parse(text)
        assert all(isinstance(ref.uri, str) for ref in task_images.image_refs(controls, Task(1, data)))
        config_problems.problems(controls)
        here = labeling_config.on_image(controls, to_name)
        output = choose_output(here, ("Cat",))
        assert output.control.kind in OUTPUT_KINDS
        assert task_images.image_ref(here.images[0], Task(1, data), None, 1).uri
    except RequestError:  # a word for what is wrong is all an annotator's config can ask for
        return


@settings(deadline=None)
@given(st.from_regex(r"\w{1,12}", fullmatch=True), st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3))
def test_whatever_lies_at_a_path_is_found_there(key: str, path: list[str]) -> None:
    nested: object = ["a.jpg"]
    for step in reversed(path):
        nested = {step: nested}
    assert task_images.lookup(f"${key}", {key: "a.jpg"}) == "a.jpg"
    assert task_images.lookup("$" + ".".join(path) + "[0]", nested) == "a.jpg"
