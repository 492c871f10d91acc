"""The masks of a real Label Studio's annotations as COCO, where its own exporter gives up over a leftover prompt."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.protocol import bitmask, rle
from model.coco import rle as coco_rle
from model.types import Mask
from tests.e2e.commands import run
from tests.e2e.label_studio_server import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = (60, 80)
IMAGES = 4
LABELS = '<Label value="Cat"/><Label value="Größe"/>'
TAGS = {"brush": "BrushLabels", "bitmask": "BitmaskLabels", "box": "RectangleLabels", "point": "KeyPointLabels"}
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    + "".join(
        f'<{tag} name="{name}" toName="image" smart="{str(name == "point").lower()}">{LABELS}</{tag}>'
        for name, tag in TAGS.items()
    )
    + "</View>"
)


def region(name: str, number: int, value: dict, label: str) -> dict:
    kind = TAGS[name].lower()
    return {
        "id": f"{name}{number}", "type": kind, "from_name": name, "to_name": "image", "image_rotation": 0,
        "original_width": SIZE[1], "original_height": SIZE[0], "value": value | {kind: [label]},
    }  # fmt: skip


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (number, 9, 9)).save(file, "PNG")
    return file.getvalue()


def test_every_submitted_mask_is_in_the_file_where_label_studios_own_export_answers_500(
    studio: Studio, tmp_path: Path
) -> None:
    project = studio.project(CONFIG, backend=False)
    tasks = studio.upload(project, {f"{number}.png": photo(number) for number in range(IMAGES)})
    generator = np.random.default_rng(0)
    masks = {task: [Mask.from_array(generator.random(SIZE) < 0.4) for _ in range(2)] for task in tasks.values()}
    for task, (first, second) in masks.items():
        regions = [
            region("brush", 1, {"format": "rle", "rle": list(rle.encode(first))}, "Cat"),
            region("bitmask", 2, {"imageDataURL": bitmask.encode(second)}, "Größe"),
            region("box", 3, {"x": 12.5, "y": 20, "width": 25, "height": 40, "rotation": 0}, "Cat"),
        ]
        leftover = region("point", 4, {"x": 50, "y": 50, "width": 0.5}, "Cat") if task == max(masks) else None
        studio.post(f"/api/tasks/{task}/annotations/", {"result": [*regions, *filter(None, [leftover])]})
    theirs = studio.api.get(f"/api/projects/{project}/export", params={"exportType": "COCO"})
    assert theirs.status_code == 500
    assert "No keypoint order found" in theirs.text
    out = tmp_path / "masks.json"
    code, output = run(studio, tmp_path, "export-coco", "--project", str(project), "--out", str(out))
    assert code == 0, output
    assert "keypoints left out  1" in output
    coco = json.loads(out.read_text("utf-8"))
    assert [category["name"] for category in coco["categories"]] == ["Cat", "Größe"]
    names = {task["id"]: task["data"]["image"].rpartition("/")[2] for task in studio.tasks(project)}
    images = {image["id"]: image["file_name"] for image in coco["images"]}
    box = np.zeros(SIZE, bool)
    box[12:36, 10:30] = True
    for task, (first, second) in masks.items():
        rows = [row for row in coco["annotations"] if images[row["image_id"]] == names[task]]
        assert [row["category_id"] for row in rows] == [1, 2, 1]
        for row, expected in zip(rows, (first.to_array(), second.to_array(), box), strict=True):
            assert np.array_equal(coco_rle.decode(coco_rle.parse(row["segmentation"])).to_array(), expected)
