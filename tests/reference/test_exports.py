"""What Label Studio's own exporter makes of this service's answers is what the documentation and the doctor say."""

import itertools
import re

import numpy as np
import pytest

from backend.labeling import config_problems
from backend.labeling.config import parse
from backend.shapes import OUTPUT_KINDS
from model.types import Mask
from tests.reference.exports import exported
from tests.support.hostile_bodies import encoded
from tests.support.markdown import document, documents
from tests.support.service import SIZE_WH, Service

pytestmark = pytest.mark.reference

LABELS = '<Label value="Cat"/><Label value="Dog"/>'
POINT_WITH_LABELS = f'<KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels>'
COLUMNS = {
    "COCO": "COCO",
    "YOLO": "YOLO",
    "YOLO OBB": "YOLO_OBB",
    "brush to PNG, NumPy": "BRUSH_TO_PNG",
    "brush to COCO": "BRUSH_TO_COCO",
}
KINDS = ("Brush", "Bitmask", "Polygon", "Vector", "Rectangle", "Ellipse")
TAGS = [*KINDS, *(f"{kind}Labels" for kind in KINDS)]
assert len(KINDS) == len(OUTPUT_KINDS)


def config(tag: str) -> str:
    own = LABELS if tag.endswith("Labels") else ""
    return (
        f'<View><Labels name="label" toName="image">{LABELS}</Labels><Image name="image" value="$image"/>'
        f'<{tag} name="mask" toName="image" smart="false">{own}</{tag}>'
        '<KeyPoint name="point" toName="image" smart="true"/></View>'
    )


def prompt(label: str | None, to_name: str = "image", point: str = "point") -> list[dict]:
    """A click as the editor sends it where the label is one of a row of labels."""
    common = {"id": "p", "to_name": to_name, "original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    value = {"x": 50, "y": 50, "width": 1}
    context = [{**common, "type": "keypoint", "from_name": point, "value": value}]
    if label is not None:
        context.append({**common, "type": "labels", "from_name": "label", "value": {**value, "labels": [label]}})
    return context


def answered(text: str, label: str | None, to_name: str = "image", **more: object) -> list[dict]:
    """The regions that this service answers a click with: a disc."""
    context = [entry | more for entry in prompt(label, to_name)]
    data = {"image": "/data/upload/1/a.jpg", "pages": ["/data/upload/1/a.jpg"]}
    data |= {"before": "/data/upload/1/a.jpg", "after": "/data/upload/1/a.jpg"}
    rows, columns = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    with Service() as service:
        service.decoder.masks = [Mask.from_array(np.hypot(rows - 30, columns - 40) < 20)]
        body = {"tasks": [{"id": 1, "data": data}], "label_config": text, "params": {"context": {"result": context}}}
        [item] = service.client.post("/predict", data=encoded(body)).json["results"]
        assert item["result"], service.reasons()
        return item["result"]


def content(files: dict[str, list[list[str]]], kind: str) -> str:
    """How the documentation's table calls what a format holds."""
    kinds = {file_kind for file_kind, _ in files[kind]}
    if kind == "YOLO_OBB" and kinds:
        return "boxes"
    return {frozenset(): "", frozenset({"mask"}): "masks", frozenset({"box"}): "boxes"}[frozenset(kinds)]


def test_the_table_of_exports_is_what_label_studios_exporter_does():
    exports = dict(zip(TAGS, exported([(config(tag), answered(config(tag), "Dog")) for tag in TAGS]), strict=True))
    [table] = [table for table in document("docs/labeling-configs.md").tables if table.head[0] == "answers drawn with"]
    documented = {
        tag: dict(zip(table.head[1:], map(str.strip, row[1:]), strict=True))
        for row in table.rows
        for tag in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == {
        tag: {name: content(files, kind) for name, kind in COLUMNS.items()} for tag, files in exports.items()
    }
    assert all(content(files, "BRUSH_TO_PNG") == content(files, "BRUSH_TO_NUMPY") for files in exports.values())
    assert all(files["JSON"] for files in exports.values())
    for tag, files in exports.items():
        labels = {label for kind in ("COCO", "YOLO", "YOLO_OBB", "BRUSH_TO_COCO") for _, label in files[kind]}
        assert labels <= {"Dog"}
        words = config_problems.EXPORTS.get(tag.lower(), config_problems.JSON_ONLY)
        assert ("NumPy" in words) == bool(files["BRUSH_TO_NUMPY"])
        assert ("COCO" in words) == bool(files["COCO"] or files["BRUSH_TO_COCO"])
        assert ("YOLO" in words) == bool(files["YOLO"])


def test_labels_of_keypoints_cost_answers_theirs_in_coco_files_and_polygons_in_yolo_files():
    tags = ("PolygonLabels", "RectangleLabels")
    texts = [
        config(tag).replace('<KeyPoint name="point" toName="image" smart="true"/>', POINT_WITH_LABELS) for tag in tags
    ]
    polygons, boxes = exported([(text, answered(text, "Dog")) for text in texts])
    assert (polygons["COCO"], boxes["COCO"]) == ([["mask", "default"]], [["box", "default"]])
    assert (polygons["YOLO"], boxes["YOLO"]) == ([], [["box", "Dog"]])
    for text in texts:
        [hint] = config_problems.export_hints(parse(text))
        assert "'default'" in hint


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_a_mask_that_was_accepted_and_relabelled_is_exported_with_its_own_label(tag):
    text = config(tag)
    [mask] = answered(text, "Dog")
    rest = {key: value for key, value in mask["value"].items() if not key.endswith("labels")}
    accepted = [mask, {**mask, "type": "labels", "from_name": "label", "value": {**rest, "labels": ["Cat"]}}]
    [files] = exported([(text, accepted)])
    assert files["BRUSH_TO_COCO"] == [["mask", "Dog"]]
    if tag == "PolygonLabels":
        assert files["COCO"] == files["BRUSH_TO_COCO"]
        assert [label for _, label in files["YOLO"]] == ["Dog"]
    else:
        names = [name for _, name in files["BRUSH_TO_PNG"]]
        assert sorted(re.findall(r"-(mask-Dog|label-Cat)-", " ".join(names))) == ["label-Cat", "mask-Dog"]


def test_a_prompt_that_was_left_over_costs_no_mask_of_a_config_with_one_row_of_labels():
    texts = [config(tag) for tag in ("BrushLabels", "PolygonLabels")]
    alone = exported([(text, answered(text, "Dog")) for text in texts])
    with_prompt = exported([(text, [*answered(text, "Dog"), *prompt("Dog")]) for text in texts])
    for number, kind in itertools.product(range(2), COLUMNS.values()):
        assert with_prompt[number][kind] == alone[number][kind]


def test_every_documented_config_exports_what_the_text_above_it_says():
    blocks = [(doc.name, block) for doc in documents() for block in doc.blocks if block.language == "xml"]
    configs_with_results = []
    for _, block in blocks:
        to_name = re.findall(r'<Image name="(\w+)"', block.text)[0]
        labels = re.findall(r'<Label value="(\w+)"', block.text)
        configs_with_results.append((block.text, answered(block.text, labels[0] if labels else None, to_name)))
    for (name, block), files in zip(blocks, exported(configs_with_results), strict=True):
        location = f"{name}:{block.line}"
        before = " ".join(block.before.split())
        failed = {
            kind for kind, files_of_kind in files.items() if any(file_kind == "error" for file_kind, _ in files_of_kind)
        }
        assert failed <= {"COCO", "YOLO", "YOLO_OBB", "BRUSH_TO_COCO"}, (location, files)
        assert bool(failed) == ("exports fail" in before), (location, files)
        files.update((kind, []) for kind in failed)
        if "JSON only" in before:
            assert not any(files[kind] for kind in COLUMNS.values()), location
        elif "PNG and NumPy only" in before:
            assert {kind for kind in COLUMNS.values() if files[kind]} == {"BRUSH_TO_PNG"}, location
        elif "COCO* and *YOLO" in before or "to COCO and YOLO" in before:
            assert {"COCO", "YOLO"} <= {kind for kind in COLUMNS.values() if files[kind]}, location
        else:
            assert {"BRUSH_TO_PNG", "BRUSH_TO_COCO"} <= {kind for kind in COLUMNS.values() if files[kind]}, location
