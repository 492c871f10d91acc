"""``export-coco``: the file holds annotations to the pixel, and a report lists what it leaves out."""

import json
import signal
import subprocess
import sys
import threading

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labeling import coco_prompts
from backend.labeling import config as labeling_config
from backend.projects import annotation_masks
from backend.protocol import bitmask, rle
from backend.types import Task
from model.coco import rle as coco_rle
from model.types import Mask
from tests.support.fake_project import PROJECT, FakeProject, away
from tests.support.fake_project_server import FakeProjectServer
from tests.support.fakes import LEGACY_TOKEN, Reply, png
from tests.support.processes import environment
from tests.support.project_commands import wait_for
from tests.support.wire_bodies import JUNK

SIZE = (60, 80)
LABELS = '<Label value="Cat"/><Label value="Dog" alias="dog"/>'
CONFIG = (
    f'<View><Labels name="label" toName="image">{LABELS}</Labels><Image name="image" value="$image"/>'
    '<Brush name="mask" toName="image" smart="false"/>'
    f'<BrushLabels name="brush" toName="image">{LABELS}<Label value="Größe"/></BrushLabels>'
    '<KeyPointLabels name="point" toName="image"><Label value="Foreground"/></KeyPointLabels></View>'
)


@pytest.fixture
def server():
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        yield server


@pytest.fixture
def export(call, tmp_path):
    """Run the command; return what it says and the file, None where there is none."""
    out = tmp_path / "masks.json"

    def export(*arguments, **changes):
        result = call("export-coco", "--project", str(PROJECT), "--out", str(out), *arguments, **changes)
        return result, json.loads(out.read_text("utf-8")) if out.exists() else None

    return export


def disc(x=40, y=30, radius=15):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    canvas[y - 3 : y + 3, x - 3 : x + 3] = 0
    return canvas.astype(bool)


def block(top, left, bottom, right):
    array = np.zeros(SIZE, bool)
    array[top:bottom, left:right] = True
    return array


def region(kind, value, labels=("Cat",), name="r", size=SIZE, **more):
    own = {kind: list(labels)} if labels else {}
    return {
        "id": name, "type": kind, "from_name": "brush", "to_name": "image", "original_width": size[1],
        "original_height": size[0], "image_rotation": 0, "value": value | own,
    } | more  # fmt: skip


def brush(mask=None, **more):
    code = rle.encode(Mask.from_array(disc() if mask is None else mask))
    return region("brushlabels", {"format": "rle", "rle": list(code)}, **more)


def keypoint(**more):
    return region("keypointlabels", {"x": 50, "y": 50, "width": 0.5}, name="prompt", **more)


BOX = {"x": 12.5, "y": 20, "width": 25, "height": 40, "rotation": 0}
CORNERS = [[12.5, 20], [37.5, 20], [37.5, 60], [12.5, 60]]
VERTICES = [{"id": str(n), "x": x, "y": y} for n, (x, y) in enumerate(CORNERS)]
KINDS = {
    "brush": (brush(), disc()),
    "bitmask": (region("bitmasklabels", {"imageDataURL": bitmask.encode(Mask.from_array(disc()))}), disc()),
    "polygon": (region("polygonlabels", {"points": CORNERS, "closed": True}), block(12, 10, 36, 30)),
    "vector": (region("vectorlabels", {"vertices": VERTICES, "closed": True}), block(12, 10, 36, 30)),
    "rectangle": (region("rectanglelabels", BOX), block(12, 10, 36, 30)),
    "turned": (region("rectanglelabels", BOX | {"rotation": 90, "x": 50}), block(12, 16, 32, 40)),
    "turned view": (region("rectanglelabels", BOX, image_rotation=90), block(12, 10, 36, 30)),
}


def add(server, *regions, data=None, **more):
    annotations = [{"id": 1, "result": list(regions)} | more]
    return server.project.add(data or {"image": "/data/upload/7/0123abcd-my_a.png"}, annotations=annotations)


def masks(coco):
    """The masks of a file as (image, category, pixels)."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    images = {image["id"]: image["file_name"] for image in coco["images"]}
    return [
        (
            images[annotation["image_id"]],
            names[annotation["category_id"]],
            coco_rle.decode(coco_rle.parse(annotation["segmentation"])).to_array(),
        )
        for annotation in coco["annotations"]
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_in_the_file_to_the_pixel_whatever_it_is_drawn_as(export, server, kind):
    drawn_region, expected = KINDS[kind]
    add(server, drawn_region)
    result, coco = export()
    assert result.exit_code == 0, result.output
    [(name, category, pixels)] = masks(coco)
    assert (name, category) == ("0123abcd-my_a.png", "Cat")
    assert np.array_equal(pixels, expected)
    [row], [image] = coco["annotations"], coco["images"]
    assert (row["area"], row["bbox"], row["iscrowd"]) == (
        np.count_nonzero(expected),
        list(coco_rle.encode(Mask.from_array(expected)).bbox),
        0,
    )
    assert (image["width"], image["height"]) == (80, 60)


@pytest.mark.parametrize("kind", KINDS)
def test_polygons_are_as_drawn_and_those_of_painted_masks_close_to_them(export, server, kind):
    drawn_region, expected = KINDS[kind]
    add(server, drawn_region)
    result, coco = export("--segmentation", "polygons")
    assert result.exit_code == 0, result.output
    [row] = coco["annotations"]
    drawn = np.zeros(SIZE, np.uint8)
    for ring in row["segmentation"]:
        corners = np.rint((np.array(ring).reshape(-1, 2) - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(drawn, [corners], 1, shift=4)
    assert np.count_nonzero(drawn.astype(bool) & expected) / np.count_nonzero(drawn.astype(bool) | expected) > 0.9
    if kind == "polygon":
        assert row["segmentation"] == [[10, 12, 30, 12, 30, 36, 10, 36]]
    assert row["area"] == np.count_nonzero(expected)


def test_a_polygon_that_passes_the_border_is_cut_there(export, server):
    add(server, region("rectanglelabels", BOX | {"x": -12.5}))
    _, coco = export("--segmentation", "polygons")
    [ring] = coco["annotations"][0]["segmentation"]
    assert min(ring) >= 0
    assert (coco["annotations"][0]["bbox"], coco["annotations"][0]["area"]) == ([0, 12, 10, 24], 240)


def test_categories_are_the_labels_of_masks_in_the_order_of_the_config_then_those_it_no_longer_has(export, server):
    add(server, brush(labels=["Bird"]), brush(labels=["Größe", "Cat"], name="s"), brush(labels=["dog"], name="t"))
    _, coco = export()
    assert [(category["id"], category["name"]) for category in coco["categories"]] == list(
        enumerate(["Cat", "dog", "Größe", "Bird"], 1)
    )
    assert [category for _, category, _ in masks(coco)] == ["Bird", "Größe", "Cat", "dog"]


def test_a_separate_list_of_labels_labels_a_plain_brush(export, server):
    plain = brush(labels=()) | {"type": "brush", "from_name": "mask"}
    add(server, plain, plain | {"type": "labels", "from_name": "label", "value": {"labels": ["dog"]}})
    result, coco = export()
    assert (result.exit_code, [category for _, category, _ in masks(coco)]) == (0, ["dog"])


def test_a_mask_that_was_given_another_label_has_that_one_and_not_the_one_of_its_prompt(export, server):
    mask = brush(labels=["dog"])
    shape = {key: value for key, value in mask["value"].items() if not key.endswith("labels")}
    of_the_row = {"type": "labels", "from_name": "label", "value": shape | {"labels": ["Cat"]}}
    add(server, mask, mask | of_the_row)
    add(server, mask | of_the_row, mask)
    _, coco = export()
    assert [category for _, category, _ in masks(coco)] == ["dog", "dog"]


def test_without_labels_in_the_config_every_mask_is_an_object(export, server):
    config = '<View><Image name="image" value="$image"/><Brush name="brush" toName="image"/></View>'
    server.project.configure(config)
    add(server, brush(labels=()))
    result, coco = export()
    assert (result.exit_code, [category for _, category, _ in masks(coco)]) == (0, ["object"])


def test_a_leftover_prompt_and_what_has_no_shape_are_counted_and_cost_nothing(export, server):
    choice = region("choices", {"choices": ["good"]}, labels=(), name="c")
    add(server, brush(), keypoint(), choice, drafts=[])
    add(server, keypoint(), data={"image": "s3://b/photos/only a prompt.jpg"})
    result, coco = export()
    assert result.exit_code == 0, result.output
    assert [name for name, _, _ in masks(coco)] == ["0123abcd-my_a.png"]
    assert [image["file_name"] for image in coco["images"]] == ["photos/only a prompt.jpg", "0123abcd-my_a.png"]
    assert " ".join(result.stdout.split()).endswith(
        "tasks 2 images 2 masks 1 keypoints left out 2 results without a shape left out 1 failed 0"
    )


def test_boxes_of_a_smart_tool_are_masks_and_counted_apart_where_the_config_holds_masks_otherwise(export, server):
    box = region("rectanglelabels", BOX, from_name="box", name="s")
    for kind, count in (("RectangleLabels", 1), ('RectangleLabels smart="false"', 0)):
        config = CONFIG.replace("</View>", f'<{kind} name="box" toName="image">{LABELS}</{kind.split()[0]}></View>')
        server.project.configure(config)
        add(server, brush(), box)
        result, coco = export("--limit", "1")
        assert (result.exit_code, len(coco["annotations"])) == (0, 2)
        assert ("of the masks, boxes of a smart tool  1" in result.stdout) == bool(count)


def test_a_box_of_a_smart_tool_that_is_not_written_is_not_among_the_masks(export, server):
    config = CONFIG.replace("</View>", f'<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels></View>')
    server.project.configure(config)
    flat = region("rectanglelabels", {**BOX, "width": 0, "height": 0}, from_name="box", name="flat")
    add(server, brush(), flat, region("rectanglelabels", BOX, from_name="box", name="s"))
    result, coco = export()
    assert (result.exit_code, len(coco["annotations"])) == (1, 2)
    assert "of the masks, boxes of a smart tool  1" in result.stdout


def test_masks_that_cannot_be_read_are_reported_and_the_others_written(export, server):
    broken = brush(name="broken")
    broken["value"]["rle"] = broken["value"]["rle"][:20]
    task = add(
        server,
        brush(name="good"),
        broken,
        brush(labels=(), name="nameless"),
        brush(np.zeros(SIZE, bool), name="empty"),
        region("videorectangle", BOX, name="video"),
        region("vectorlabels", {"vertices": VERTICES, "closed": False}, name="path"),
        region("vectorlabels", {"vertices": [v | {"isBezier": True} for v in VERTICES], "closed": True}, name="curve"),
        brush(np.ones((6, 8), bool), name="small", size=(6, 8)),
        region("rectanglelabels", BOX, name="elsewhere", to_name="other"),
        region("polygonlabels", {"points": [[1, 2]]}, name="dot"),
    )
    result, coco = export()
    assert result.exit_code == 1
    assert len(masks(coco)) == 1
    lines = {line.strip() for line in result.stdout.splitlines()}
    for reason, name in {
        "bad_geometry: points: expected at least 3 corners, got 1": "dot",
        "unknown_label: a mask without a label": "nameless",
        "empty_mask: it covers no pixel of the image": "empty",
        "size_mismatch: a mask of 8 × 6 pixels among others of 80 × 60": "small",
    }.items():
        assert any(line.startswith(f"task {task}: {reason}") and f"(id {name})" in line for line in lines), reason
    for name in ("broken", "video", "path", "curve", "elsewhere"):
        assert any(f"(id {name})" in line for line in lines), name
    assert "failed  6" in result.stdout


VALUES = st.dictionaries(
    st.sampled_from([
        "x", "y", "width", "height", "radiusX", "radiusY", "rotation", "points", "vertices", "rle", "imageDataURL",
        "touches", "closed", "labels", "brushlabels", "rectanglelabels",
    ]),
    st.one_of(JUNK, st.floats(-1e9, 1e9), st.lists(st.tuples(st.floats(-200, 300), st.floats(-200, 300)), max_size=4)),
)  # fmt: skip
REGIONS = st.fixed_dictionaries(
    {"type": st.sampled_from(["brushlabels", "bitmask", "polygon", "vector", "rectangle", "ellipse", "labels", "x"])},
    optional={
        "id": JUNK, "value": st.one_of(VALUES, JUNK), "to_name": st.sampled_from(["image", "other", ""]),
        "original_width": st.one_of(JUNK, st.just(80)), "original_height": st.one_of(JUNK, st.just(60)),
        "item_index": JUNK, "from_name": JUNK,
    },
)  # fmt: skip


@given(st.one_of(JUNK, st.lists(st.one_of(REGIONS, JUNK), max_size=4)), st.booleans())
def test_no_annotation_raises_and_every_region_is_written_reported_or_counted(result, as_polygons):
    task, controls = Task(1, {"image": "a.png"}), labeling_config.parse(CONFIG)
    for annotations in (result, [{"result": result}]):
        raw = msgspec.Raw(json.dumps(annotations).encode())
        masks_of_task = annotation_masks.read(task, raw, controls, as_polygons=as_polygons)
        for image in masks_of_task.images:
            assert all(mask.rle.area > 0 and mask.rle.size == image.size for mask in image.masks)


def test_without_any_size_a_task_is_reported(export, server):
    lost = region("rectanglelabels", BOX)
    del lost["original_width"]
    task = add(server, lost)
    result, coco = export()
    assert (result.exit_code, coco) == (1, None)
    assert f"task {task}: bad_geometry: expected original_width and original_height" in result.stdout


def test_of_several_annotations_one_counts(export, server):
    at = "2026-01-0{}T00:00:00Z".format
    server.project.add(
        {"image": "a.png"},
        annotations=[
            {"id": 1, "result": [brush(labels=["Cat"])], "updated_at": at(1)},
            {"id": 2, "result": [brush(labels=["dog"])], "updated_at": at(2)},
            {"id": 3, "result": [brush(labels=["Bird"])], "updated_at": at(3), "was_cancelled": True},
        ],
    )
    truth = {"id": 4, "result": [brush(labels=["Größe"])], "updated_at": at(1), "ground_truth": True}
    later = {"id": 5, "result": [brush()], "updated_at": at(9)}
    server.project.add({"image": "b.png"}, annotations=[truth, later])
    server.project.add({"image": "c.png"}, annotations=[{"id": 6, "result": [brush()], "was_cancelled": True}])
    server.project.add({"image": "d.png"})
    result, coco = export()
    assert [(name, category) for name, category, _ in masks(coco)] == [("b.png", "Größe"), ("a.png", "dog")]
    assert "further annotations of a task left out  2" in result.stdout
    assert result.exit_code == 0


def test_every_image_of_a_task_has_its_own_masks_and_size(export, server):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    server.project.configure(config)
    small = np.ones((6, 8), bool)
    data = {"pages": ["s3://b/one.png", "s3://b/two.png", "s3://b/three.png", "s3://b/four.png"]}
    add(server, brush(), brush(small, size=(6, 8), item_index=2, name="s"), keypoint(item_index=3), data=data)
    result, coco = export()
    assert [(image["file_name"], image["height"], image["width"]) for image in coco["images"]] == [
        ("one.png", 60, 80),
        ("three.png", 6, 8),
        ("four.png", 60, 80),
    ]
    assert [(name, pixels.shape) for name, _, pixels in masks(coco)] == [("one.png", SIZE), ("three.png", (6, 8))]
    assert "images left out that nothing is drawn on  1" in result.stdout


def test_several_image_tags_are_several_images(export, server):
    config = (
        '<View><Image name="before" value="$one"/><Image name="after" value="$two"/>'
        f'<BrushLabels name="b" toName="before,after">{LABELS}</BrushLabels></View>'
    )
    server.project.configure(config)
    add(
        server,
        brush(to_name="after"),
        brush(to_name="before", name="s"),
        data={"one": "http://h/x/a%20b.png", "two": "y.png"},
    )
    _, coco = export()
    assert [image["file_name"] for image in coco["images"]] == ["y.png", "x/a b.png"]


@pytest.mark.parametrize(("uri", "name"), [
    ("/data/local-files/?d=sub%2Fa.png", "sub/a.png"), ("https://h/p/a.png?sig=s/x.png", "p/a.png"),
    ("http://ls/data/upload/3/0123abcd-caf%C3%A9.png", "0123abcd-café.png"), ("a.png", "a.png"),
    ("data:image/png;base64,AAAA", "task-1.png"), ("data:,x", "task-1.image"),
])  # fmt: skip
def test_images_are_named_as_their_addresses_name_them(export, server, uri, name):
    add(server, brush(), data={"image": uri})
    _, coco = export()
    assert [image["file_name"] for image in coco["images"]] == [name]


def test_two_images_of_one_name_are_reported(export, server):
    for host in ("one", "two", "two"):
        add(server, brush(), data={"image": f"http://{host}/a.png"})
    result, coco = export()
    assert len(coco["images"]) == 3
    assert "images whose file_name is another's too  1" in result.stdout


def test_the_file_is_in_the_order_of_tasks_and_its_images_are_found_again_by_it(export, server, tmp_path):
    for number in range(30):
        add(server, brush(), data={"image": f"/data/upload/7/0123abcd-{number:04}.png"})
    result, coco = export()
    assert result.exit_code == 0
    names = [image["file_name"] for image in coco["images"]]
    assert names == [f"0123abcd-{number:04}.png" for number in range(29, -1, -1)]
    assert not [path for path in server.paths() if path.startswith("/data/upload")]
    prompts = coco_prompts.read(tmp_path / "masks.json")
    for uri in ("/data/upload/7/0123abcd-0004.png", "/data/upload/8/cafebabe-0004.png"):
        task_prompts = prompts.prompts(Task(1, {"image": uri}), labeling_config.parse(CONFIG))
        assert [region.labels for region in task_prompts.regions] == [("Cat",)]


def test_a_limit_and_a_view_choose_tasks(export, server):
    item = {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": 4}
    server.views[5] = PROJECT, {"conjunction": "and", "items": [item]}
    for _ in range(5):
        add(server, brush())
    result, coco = export("--view", "5", "--limit", "2")
    assert (result.exit_code, len(coco["images"])) == (0, 2)
    assert "export-coco: 2 of 2 tasks" in result.stderr


def test_a_view_that_joins_its_filters_with_or_is_exported_too(export, server):
    items = [{"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": value} for value in (3, 4)]
    server.views[5] = PROJECT, {"conjunction": "or", "items": items}
    server.project.add({"image": "a.png"})
    for _ in range(3):
        add(server, brush())
    result, coco = export("--view", "5")
    assert (result.exit_code, len(coco["images"])) == (0, 2)
    assert "tasks without an annotation  1" in result.stdout


def test_label_studio_may_be_away_for_a_moment(export, server):
    for _ in range(5):
        add(server, brush())
    server.project.failures["annotations"] = [away(), None, away()]
    result, coco = export()
    assert (result.exit_code, len(coco["images"])) == (0, 5)


def test_an_older_export_is_replaced_and_any_other_file_left_alone(export, call, server, tmp_path):
    add(server, brush())
    for _ in range(2):
        assert export()[0].exit_code == 0
    out = tmp_path / "masks.json"
    picture, package = png((1, 2, 3), (80, 60)), b'{"name": "mine"}'
    for existing, mine in ((out, picture), (out, package), (tmp_path / "masks.json.part", picture)):
        existing.write_bytes(mine)
        result = call("export-coco", "--project", str(PROJECT), "--out", str(out))
        assert result.exit_code == 2
        assert f"expected another file to write to (--out), got one where {existing.name} is lost" in result.stderr
        assert existing.read_bytes() == mine
        out.unlink(missing_ok=True)


def test_nothing_to_write_writes_nothing_and_says_so(export, server):
    server.project.add({"image": "a.png"})
    result, coco = export()
    assert (result.exit_code, coco) == (1, None)
    assert "ended early: no annotation holds a region; " in result.stdout


def test_a_folder_that_cannot_be_written_is_refused(call, server, tmp_path):
    (tmp_path / "file").write_text("{}")
    add(server, brush())
    result = call("export-coco", "--project", str(PROJECT), "--out", str(tmp_path / "file" / "masks.json"))
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_run_that_ends_early_leaves_the_older_file(export, server, tmp_path):
    add(server, brush())
    export()
    before = (tmp_path / "masks.json").read_bytes()
    for _ in range(3):
        add(server, brush())
    pages = []

    def list_tasks(request):
        pages.append(request)
        return server.routed(request) if len(pages) < 3 else Reply(b'{"detail": "Invalid token."}', 401)

    server.routes["/api/tasks"] = list_tasks
    result, _ = export()
    assert result.exit_code == 1
    assert "ended early: Label Studio answers 401 to /api/tasks" in result.stdout
    assert "was not written" in result.stdout
    assert (tmp_path / "masks.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_ctrl_c_leaves_no_half_file(start, server, tmp_path):
    for _ in range(40):
        add(server, brush())
    waiting, gate = threading.Event(), threading.Event()

    def hold():
        if server.project.calls.count("annotations") > 10:
            waiting.set()
            gate.wait(20)

    server.project.before["annotations"] = hold
    process = start("export-coco", "--project", str(PROJECT), "--out", str(tmp_path / "out" / "masks.json"))
    try:
        assert waiting.wait(30)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: process.poll() is not None or not gate.is_set(), 1)
    finally:
        gate.set()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "masks.json was not written" in out
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in err


def test_neither_paddle_nor_weights_are_needed(server, tmp_path):
    add(server, brush())
    code = (
        "import sys; from backend.cli.main import main\n"
        "try:\n"
        f"    main(['export-coco', '--project', '{PROJECT}', '--out', {str(tmp_path / 'masks.json')!r}])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "assert 'paddle' not in sys.modules"
    )
    environ = environment(LABEL_STUDIO_URL=server.url, LABEL_STUDIO_API_KEY=LEGACY_TOKEN, PADDLE_SAM_WEIGHTS="/nowhere")
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=60, capture_output=True)
    assert len(json.loads((tmp_path / "masks.json").read_text())["annotations"]) == 1
