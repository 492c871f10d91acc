"""``finetune``: a project's masks become a decoder that is judged before it is taken, and the rest is counted."""

import json
import re
import signal

import cv2
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from backend.protocol import rle
from model import weights as model_weights
from model.build import load_decoder
from model.types import Mask
from model.weights import decoder_weights
from model.weights.catalogue import DEMO_WEIGHTS
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.fake_project_server import FakeProjectServer
from tests.support.project_commands import RUN_S, wait_for

SIZE = (60, 80)
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Cell"/><Label value="&lt;Dirt&gt;"/></BrushLabels>'
    '<PolygonLabels name="polygon" toName="image"><Label value="Cell"/></PolygonLabels>'
    '<RectangleLabels name="box" toName="image"><Label value="Cell"/></RectangleLabels></View>'
)
BOX = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}


def disc(x, y, radius):
    canvas = np.zeros(SIZE, np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    return canvas.astype(bool)


def region(kind, value, labels=("Cell",), name="r", size=SIZE):
    own = {"brushlabels": "brush", "polygonlabels": "polygon", "rectanglelabels": "box"}[kind]
    return {
        "id": name, "type": kind, "from_name": own, "to_name": "image", "original_width": size[1],
        "original_height": size[0], "image_rotation": 0, "value": value | {kind: list(labels)},
    }  # fmt: skip


def brush(mask, **more):
    return region("brushlabels", {"format": "rle", "rle": list(rle.encode(Mask.from_array(mask)))}, **more)


def add(server, number, *regions):
    """Add a task whose image shows two discs; by default its annotation has both, and more around each."""
    picture = np.random.default_rng(number).integers(0, 60, (*SIZE, 3)).astype(np.uint8)
    centres = (20, 18 + number % 24, 8), (58, 30, 7 + number % 4)
    for centre in centres:
        picture[disc(*centre)] += 150
    masks = [disc(x, y, radius + 6) for x, y, radius in centres]
    drawn = regions or (brush(masks[0], name="a"), brush(masks[1], labels=["<Dirt>"], name="b"))
    image = cv2.imencode(".png", picture)[1].tobytes()
    return server.upload(f"{number}.png", image, annotations=[{"id": 1, "result": list(drawn)}])


@pytest.fixture
def server():
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        yield server


@pytest.fixture
def decoders(tmp_path):
    """The decoders that were taken."""
    return lambda: [decoder_weights.read(path) for path in (tmp_path / "decoders").glob("7/*.safetensors")]


@pytest.fixture
def settings(settings, tmp_path):
    return settings | {"PADDLE_SAM_DECODERS_DIR": str(tmp_path / "decoders")}


@pytest.fixture
def finetune(call):
    """Run the command."""
    return lambda *arguments: call("finetune", "--project", str(PROJECT), *arguments)


DEMO = "--weights", str(DEMO_WEIGHTS)
"""The demo model: random weights learn nothing in a few steps."""


def annotations_read(server):
    """The tasks whose annotations were asked for."""
    return {request.path.split("/")[3] for request in server.requests if "/annotations" in request.path}


def test_the_masks_of_a_projects_own_tasks_become_its_decoder(finetune, server, decoders, tmp_path):
    for number in range(3):
        add(server, number)
    page, contents = tmp_path / "decoders" / "7" / "report.html", DEMO_WEIGHTS.read_bytes()
    result = finetune("--epochs", "2", "--mix", "1", *DEMO)
    assert result.exit_code == 0, result.output
    [decoder] = decoders()
    base = model_weights.read(DEMO_WEIGHTS)
    assert (decoder.info.project, decoder.info.base_digest) == (PROJECT, base.digest)
    figures = decoder.info.figures
    assert (figures.images, figures.annotations) == (3, 6)
    assert set(figures.before) == set(figures.after) == {"click", "box", "corrected"}
    assert sum(figures.after.values()) > sum(figures.before.values())
    tuned = decoder_weights.apply(base, decoder)
    assert tuned.model_version in result.output
    assert load_decoder(tuned, "cpu").encoder_version == base.model_version
    assert DEMO_WEIGHTS.read_bytes() == contents
    assert annotations_read(server) == {"1", "2", "3"}
    assert re.search(r"\nall +2 .*→.*\n<Dirt> +1 .*→.*\nCell +1 .*→", result.output)
    assert "6 masks on 3 images are few to learn from" in result.output
    text = page.read_text("utf-8")
    assert "&lt;Dirt&gt;" in text
    assert "<Dirt>" not in text
    assert text.count("data:image/jpeg;base64,") >= 4


def test_a_decoder_that_is_no_better_is_not_taken(finetune, server, decoders):
    for number in range(2):
        add(server, number)
    result = finetune("--epochs", "1")  # one step, at the beginning of the warm-up
    assert result.exit_code == 1
    assert "no better than the base's decoder: not taken (--force takes it)" in result.output
    assert decoders() == []


def test_what_teaches_nothing_is_left_out_and_counted(finetune, server):
    for number in range(3):
        add(server, number)
    add(server, 3, brush(np.ones(SIZE, bool)))
    add(server, 4, brush(np.zeros(SIZE, bool)))
    add(server, 5, region("brushlabels", {"format": "rle", "rle": [1, 2, 3]}))
    add(server, 6, region("rectanglelabels", BOX))
    add(server, 7, region("polygonlabels", {"points": [[0, 0], [50, 0], [0, 50]], "closed": True}, size=(120, 160)))
    missing_task = add(server, 8)
    server.project.before["annotations"] = lambda: server.project.tasks.pop(missing_task, None)
    result = finetune("--epochs", "1")
    lines = {line.strip() for line in result.output.splitlines()}
    for kind, count in (("tasks", 8), ("images", 3), ("masks", 6)):
        assert any(re.fullmatch(rf"{kind} +{count}", shown) for shown in lines), (kind, lines)
    for kind in (
        "masks left out that cover the whole image",
        "shapes left out that are no masks",
        "images left out that were annotated in another size",
        "deleted meanwhile",
    ):
        assert any(re.fullmatch(rf"{kind} +1", shown) for shown in lines), (kind, lines)
    assert any("task 5: empty_mask" in shown for shown in lines)
    assert any("task 6: bad_geometry" in shown or "task 6:" in shown for shown in lines)
    assert result.exit_code == 1


def test_one_annotated_image_is_too_few(finetune, server, decoders):
    add(server, 1)
    result = finetune()
    assert result.exit_code == 1
    assert "expected masks on at least 2 different images to learn from, got 1" in result.output
    assert decoders() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_early_goes_on_where_it_was(start, finetune, server, decoders, tmp_path, number):
    for task in range(3):
        add(server, task)
    run = "--epochs", "10", "--mix", "1"
    process = start("finetune", "--project", str(PROJECT), *run, *DEMO)
    state = tmp_path / "cache" / "finetune" / f"{PROJECT}.safetensors"
    wait_for(lambda: step_of(state) >= 3 or process.poll() is not None)  # by then it has learned something
    process.send_signal(number)
    output, errors = process.communicate(timeout=RUN_S)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), errors
    assert len(decoders()) == (number == signal.SIGINT)
    assert ("the next run goes on from here" in output) == (number == signal.SIGINT)
    result = finetune(*run, *DEMO)
    assert int(re.findall(r"step (\d+) of", result.output)[0]) > 3
    assert decoders()
    assert not state.exists()


def step_of(state):
    """The step that the state of a training is at; 0 before there is one."""
    try:
        with safe_open(state, "numpy") as file:
            [header] = file.metadata().values()
    except (OSError, SafetensorError):
        return 0
    return json.loads(header)["step"]
