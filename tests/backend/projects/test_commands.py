"""``precompute`` and ``preannotate`` as processes: options, refusals, exit codes, and what a killed run leaves."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from backend.projects import run
from tests.support.fake_project import PROJECT, SIZE_WH, FakeProject, away
from tests.support.fake_project_server import FakeProjectServer
from tests.support.fakes import LEGACY_TOKEN, Reply, png
from tests.support.project_commands import RUN_S, fill, wait_for
from tests.support.scenes import scene_file
from tests.support.wire_bodies import CONFIG


@pytest.fixture
def server():
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        yield server


def version_of(server):
    [version] = {prediction.model_version for prediction in server.project.stored.values()}
    return version


@pytest.mark.parametrize("command", ["precompute", "preannotate"])
def test_help_lists_every_option_and_exit_code(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    words = ["--project", "--view", "--limit", "--weights", "--device", "Exit status", "Ctrl-C"]
    words += ["--from", "--replace", "--dry-run", "--max-masks", "--min-score"] if command == "preannotate" else []
    assert [word for word in words if word not in result.output] == []


@pytest.mark.parametrize("command", [["precompute", "--help"], ["preannotate", "--help"]])
def test_help_imports_nothing_that_takes_time(command):
    code = (
        "import sys\nfrom backend.cli.main import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'paddle', 'cv2', 'flask', 'gunicorn', 'tqdm', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stderr


def test_precompute_ends_with_0_and_a_summary(call, server):
    fill(server, 3)
    result = call("precompute", "--project", str(PROJECT))
    assert result.exit_code == 0, result.output
    assert "project 7 'A project', small@" in result.stdout
    assert "encoded  3" in result.stdout
    assert "3 of 3 tasks" in result.stderr
    second = call("precompute", "--project", str(PROJECT))
    assert second.exit_code == 0
    assert "cached   3" in second.stdout


def test_images_that_never_change_are_not_fetched_again(call, server):
    fill(server, 3)
    call("precompute", "--project", str(PROJECT))
    fetched = [path for path in server.paths() if path.startswith("/data/upload")]
    call("precompute", "--project", str(PROJECT))
    assert [path for path in server.paths() if path.startswith("/data/upload")] == fetched


def test_precompute_ends_with_1_where_an_image_is_broken(call, server):
    fill(server, 2)
    broken = server.upload("broken.png", b"\x89PNG")
    result = call("precompute", "--project", str(PROJECT))
    assert result.exit_code == 1
    assert f"task {broken}: image_unreadable" in result.stdout
    assert "encoded  2" in result.stdout
    assert "Traceback" not in result.output


def test_preannotate_stores_one_prediction_for_each_task_and_ends_with_0(call, server):
    tasks = fill(server, 20)
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 0, result.output
    assert [len(server.project.of(task, version_of(server))) for task in tasks] == [1] * 20
    second = call("preannotate", "--project", str(PROJECT), "--from", "boxes", "--from", "predictions")
    assert second.exit_code == 0
    assert "there already      20" in second.stdout
    assert len(server.project.stored) == 20


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_preannotate_ends_with_1_and_goes_on_where_label_studio_refuses_a_task(call, server, status):
    tasks = fill(server, 3)
    refused, route = str(tasks[1]), server.routed

    def refuse(request):
        if refused in parse_qs(request.query).get("task", []):
            return Reply(b'{"detail": "Not for you"}', status)
        return route(request)

    server.routes["/api/predictions/"] = refuse
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 1
    assert "made               2" in result.stdout
    assert "failed             1" in result.stdout
    assert f"task {refused}: " in result.stdout
    assert f"Label Studio answers {status} to /api/predictions/: Not for you" in result.stdout
    assert "deleted meanwhile  0" in result.stdout


def test_a_task_that_is_deleted_while_preannotate_runs_is_no_failure(call, server):
    tasks = fill(server, 3)
    server.project.before["annotations"] = lambda: tasks[1] in server.project.tasks and server.project.delete(tasks[1])
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 0, result.output
    assert "deleted meanwhile  1" in result.stdout


def test_masks_can_be_made_without_a_cache(call, server, tmp_path):
    tasks = fill(server, 2)
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes", PADDLE_SAM_DISK_CACHE_MB="0")
    assert result.exit_code == 0, result.output
    assert [len(server.project.of(task)) for task in tasks] == [1, 1]
    assert not list(tmp_path.rglob("*.embedding"))


def test_duplicates_of_an_earlier_race_are_deleted(call, server):
    [task] = fill(server, 1)
    call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    version = version_of(server)
    server.project.store(task, version, [{"id": "again"}])
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 0
    assert "duplicates deleted" in result.stdout
    assert len(server.project.of(task, version)) == 1


def test_a_dry_run_draws_into_a_folder(call, server, tmp_path):
    [task] = fill(server, 1)
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes", "--dry-run", str(tmp_path / "shown"))
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "shown").iterdir()] == [f"task-{task}.jpg"]
    assert not server.project.stored
    assert not any("import" in path for path in server.paths())


def test_a_dry_run_draws_over_an_earlier_one_but_never_over_another_picture(call, server, tmp_path):
    [task] = fill(server, 1)
    arguments = ("preannotate", "--project", str(PROJECT), "--from", "boxes", "--dry-run", str(tmp_path))
    for _ in range(2):
        assert call(*arguments).exit_code == 0
    (tmp_path / f"task-{task}.jpg").rename(tmp_path / "another.jpg")
    mine = png((1, 2, 3), SIZE_WH)
    (tmp_path / "mine.png").write_bytes(mine)
    (tmp_path / f"task-{task}.jpg").symlink_to("mine.png")
    requests_before = len(server.paths())
    result = call(*arguments)
    assert result.exit_code == 2
    assert f"error: {tmp_path / f'task-{task}.jpg'}: expected another folder (--dry-run)" in result.stderr
    assert (tmp_path / "mine.png").read_bytes() == mine
    assert len(server.paths()) == requests_before


def coco_file(folder, images, categories=("Cat",)):
    """A COCO file with a box on each of these images."""
    sizes = dict(zip(("width", "height"), SIZE_WH, strict=True))
    file = folder / "boxes.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": number, "file_name": name, **sizes} for number, name in enumerate(images)],
                "annotations": [
                    {"id": number, "image_id": number, "category_id": number % len(categories), "bbox": [4, 4, 20, 20]}
                    for number in range(len(images))
                ],
                "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
            }
        )
    )
    return str(file)


def test_boxes_come_from_a_coco_file(call, server, tmp_path):
    tasks = [server.upload(f"{number:04}.png", png((number, 5, 7), SIZE_WH)) for number in range(4)]
    file = coco_file(tmp_path, ["0000.png", "0002.png", "elsewhere.png"])
    result = call("preannotate", "--project", str(PROJECT), "--coco", file)
    assert result.exit_code == 0, result.output
    assert [len(server.project.of(task)) for task in tasks] == [1, 0, 1, 0]
    assert "no task of this run shows: elsewhere.png" in result.stderr
    [region] = server.project.of(tasks[0])[0].result
    assert region["value"]["brushlabels"] == ["Cat"]


def test_categories_that_are_no_labels_are_reported(call, server, tmp_path):
    [task] = fill(server, 1)
    file = coco_file(tmp_path, ["0000.png"], ["Walrus"])
    boxes = json.loads(Path(file).read_text())
    boxes["annotations"] *= 5
    Path(file).write_text(json.dumps(boxes))
    result = call("preannotate", "--project", str(PROJECT), "--coco", file)
    assert result.exit_code == 1
    lost = "category 'Walrus' is no label of the labeling config (5 times)"
    assert f"task {task}: unknown_label: {lost}" in result.stdout
    assert not server.project.stored


def test_what_a_coco_file_holds_that_cannot_be_used_is_reported_and_counted(call, server, tmp_path):
    task = server.upload("0123abcd-cafe.png", png((1, 5, 7), SIZE_WH))
    sizes = dict(zip(("width", "height"), SIZE_WH, strict=True))
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 10, 0, 0]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [float("nan"), 10, 9, 9]},
        {"id": 4, "image_id": 1, "category_id": 1, "segmentation": [30, 30, 50, 30, 50, 50]},
        {"id": 5, "image_id": 1, "category_id": 1, "bbox": [500, 10, 9, 9]},
        {"id": 6, "image_id": 1, "category_id": 1, "bbox": [5, 10, 9, 9], "iscrowd": 1},
        {"id": 7, "image_id": 99, "category_id": 1, "bbox": [5, 10, 9, 9]},
    ]
    images = [{"id": 1, "file_name": "cafe\u0301.png", **sizes}, {"id": 2, "file_name": "unmet.png", **sizes}]
    rows.append({"id": 8, "image_id": 2, "category_id": 1, "bbox": [5, 10, 9, 9]})
    file = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "Cat"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(file), "utf-8-sig")
    result = call("preannotate", "--project", str(PROJECT), "--coco", str(tmp_path / "boxes.json"))
    assert result.exit_code == 1, result.output
    assert len(server.project.of(task)[0].result) == 2
    for line in (
        f"task {task}: bad_geometry: bbox: expected x, y, width and height, got [nan, 10, 9, 9] (id 3); rectangle: "
        "expected at least 1 × 1 pixels, got 0 × 0 (id 2)",
        f"task {task}: outside_image: box 500, 10, 509, 19 of 80 × 60 (id 5)",
        "    not_in_coco_file: no image of the file has the id 99 (id 7)",
        "boxes around crowds left out  1",
        "failed                        3",
    ):
        assert line in result.stdout
    assert "no task of this run shows: unmet.png" in result.stderr


@pytest.mark.parametrize(
    ("size_wh", "message"), [((160, 120), ""), ((160, 60), "size_mismatch"), ((60, 80), "size_mismatch")]
)
def test_a_coco_file_may_know_an_image_at_another_size_but_not_in_another_form(
    call, server, tmp_path, size_wh, message
):
    [task] = fill(server, 1)
    file = coco_file(tmp_path, ["0000.png"])
    boxes = json.loads(Path(file).read_text())
    boxes["images"][0] |= dict(zip(("width", "height"), size_wh, strict=True))
    boxes["annotations"][0]["bbox"] = [40, 40, -20, -20]
    Path(file).write_text(json.dumps(boxes))
    result = call("preannotate", "--project", str(PROJECT), "--coco", file)
    assert (result.exit_code, message in result.stdout) == (int(bool(message)), True)
    assert len(server.project.of(task)) == (not message)


def test_boxes_that_look_like_corners_are_reported_before_they_are_used(call, server, tmp_path):
    fill(server, 1)
    file = coco_file(tmp_path, ["0000.png"])
    boxes = json.loads(Path(file).read_text())
    boxes["annotations"][0]["bbox"] = [30, 30, 70, 50]
    Path(file).write_text(json.dumps(boxes))
    result = call("preannotate", "--project", str(PROJECT), "--coco", file)
    assert result.exit_code == 0
    assert f"{file}: 1 boxes reach beyond their images, and all would fit as x1, y1, x2, y2" in result.stderr


def test_everything_is_found_within_limits_without_prompts(call, server):
    task = server.upload("scene.png", scene_file(5034).data)
    arguments = ("preannotate", "--project", str(PROJECT), "--from", "everything", "--points-per-side", "8")
    result = call(*arguments, PADDLE_SAM_WEIGHTS="demo")
    assert result.exit_code == 0, result.output
    [prediction] = server.project.of(task)
    scores = [region["score"] for region in prediction.result]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    result = call(*arguments, "--replace", "--max-masks", "1", PADDLE_SAM_WEIGHTS="demo")
    assert result.exit_code == 0, result.output
    [prediction] = server.project.of(task)
    assert [region["score"] for region in prediction.result] == scores[:1]


def test_a_limit_and_a_view_choose_tasks(call, server):
    fill(server, 9)
    items = [
        {"filter": "filter:tasks:id", "operator": operator, "type": "Number", "value": value}
        for operator, value in (("greater", 3), ("less", 8))
    ]
    server.views[5] = PROJECT, {"conjunction": "and", "items": items}
    result = call("precompute", "--project", str(PROJECT), "--view", "5", "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "encoded  3" in result.stdout
    fetched = [path[-8:-4] for path in server.paths() if path.startswith("/data/upload")]
    assert sorted(fetched) == ["0004", "0005", "0006"]


def test_a_view_chooses_tasks(call, server):
    fill(server, 9)
    condition = {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": 3}
    server.views[5] = PROJECT, {"conjunction": "and", "items": [condition]}
    server.views[6] = PROJECT + 1, None
    result = call("precompute", "--project", str(PROJECT), "--view", "5")
    assert "encoded  2" in result.stdout
    other = call("precompute", "--project", str(PROJECT), "--view", "6")
    assert other.exit_code == 2
    assert "error: view 6: expected one of project 7, got 8's" in other.stderr


def test_a_view_whose_tasks_cannot_be_asked_for_page_by_page_is_refused_before_any_is_done(call, server):
    fill(server, 1)
    item = {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": 3}
    server.views[5] = PROJECT, {"conjunction": "or", "items": [item, item | {"child_filter": item}]}
    result = call("precompute", "--project", str(PROJECT), "--view", "5")
    assert result.exit_code == 2
    assert "joined by 'or'" in result.stderr
    assert not [path for path in server.paths() if path.startswith("/data/upload")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["precompute"], "--project"),
        (["precompute", "--project", "0"], "--project"),
        (["precompute", "--project", "99"], "error: Label Studio answers 404"),
        (["precompute", "--project", "7", "--view", "9"], "error: Label Studio answers 404"),
        (["precompute", "--project", "7", "--weights", "/nowhere"], "error: "),
        (["preannotate", "--project", "7"], "expected --from or --coco"),
        (["preannotate", "--project", "7", "--from", "boxes", "--coco", __file__], "expected --from or --coco"),
        (["preannotate", "--project", "7", "--coco", "/nowhere.json"], "error: /nowhere.json: No such file"),
        (["preannotate", "--project", "7", "--coco", __file__], "expected a COCO file"),
        (["preannotate", "--project", "7", "--from", "circles"], "circles"),
        (["preannotate", "--project", "7", "--from", "everything", "--from", "boxes"], "expected it alone"),
        (["preannotate", "--project", "7", "--from", "boxes", "--dry-run", __file__], "--dry-run"),
        (
            ["preannotate", "--project", "7", "--from", "boxes", "--max-masks", "100"],
            "--max-masks: expected --from every",
        ),
        (
            ["preannotate", "--project", "7", "--coco", __file__, "--min-score", "0.5"],
            "--min-score: expected --from every",
        ),
    ],
)
def test_what_cannot_be_begun_ends_with_2_and_says_why(call, arguments, words):
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"LABEL_STUDIO_API_KEY": "wrong"}, "legacy tokens are switched off"),
        ({"LABEL_STUDIO_API_KEY": ""}, "LABEL_STUDIO_API_KEY is not set"),
        ({"LABEL_STUDIO_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"PADDLE_SAM_DISK_CACHE_MB": "0"}, "expected PADDLE_SAM_DISK_CACHE_MB above 0"),
        ({"REDIS_URL": "redis://127.0.0.1:9/0"}, "Redis cannot be reached"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_begins(call, changes, words, monkeypatch):
    monkeypatch.setattr(run, "BEGINS_WITHIN_S", 0.5)
    result = call("precompute", "--project", str(PROJECT), **changes)
    assert result.exit_code == 2
    assert words in result.stderr
    assert LEGACY_TOKEN not in result.output


@pytest.mark.parametrize("status", [429, 503])
def test_label_studio_may_be_busy_when_a_run_begins(call, server, status):
    fill(server, 1)
    server.views[5] = PROJECT, None
    paths = (f"/api/projects/{PROJECT}/", "/api/dm/views/5/")
    for path in paths:
        busy = [Reply(b"", status, {"Retry-After": "0"}), Reply(b"", status)]
        server.routes[path] = lambda request, busy=busy: busy.pop() if busy else server.routed(request)
    result = call("precompute", "--project", str(PROJECT), "--view", "5")
    assert result.exit_code == 0, result.output
    assert "encoded  1" in result.stdout


def test_a_run_that_ends_early_asks_for_nothing_more(call, server):
    """Where Label Studio is away, each further question is waited for ten minutes."""
    fill(server, 3)
    pages = []

    def list_tasks(request):
        pages.append(request)
        return server.routed(request) if len(pages) < 3 else Reply(b'{"detail": "Invalid token."}', 401)

    server.routes["/api/tasks"] = list_tasks
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 1
    assert "made               3" in result.stdout
    assert "ended early: Label Studio answers 401 to /api/tasks" in result.stdout
    assert server.paths()[-1] == f"/api/projects/{PROJECT}/import/predictions"


def test_a_labeling_config_without_a_place_for_masks_is_refused(call, server):
    server.project.configure('<View><Image name="i" value="$image"/></View>')
    result = call("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert result.exit_code == 2
    assert "expected a control on image 'i' that can hold a mask" in result.stderr


def test_a_cache_that_is_too_small_says_how_large_it_must_be(call, server):
    fill(server, 40)
    result = call("precompute", "--project", str(PROJECT), PADDLE_SAM_DISK_CACHE_MB="1", PADDLE_SAM_WEIGHTS="demo")
    assert result.exit_code == 1
    assert "set PADDLE_SAM_DISK_CACHE_MB higher: a thousand of them take" in result.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_stops_a_run_in_order(start, server, number, code):
    fill(server, 300)
    process = start("precompute", "--project", str(PROJECT))
    wait_for(lambda: sum(path.startswith("/data/upload") for path in server.paths()) > 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "ended early: stopped" in out
    assert "failed   0" in out
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    ["preannotate", "--from", "everything", "--points-per-side", "256", "--min-score", "0"], ["precompute"],
])  # fmt: skip
def test_a_run_that_is_stopped_over_something_long_ends_soon_and_stores_nothing_of_it(start, server, command):
    """The first is at tens of thousands of prompts on one image, the second waits for an image that does not come."""
    fill(server, 3)
    gate, is_asked = threading.Event(), threading.Event()
    image = Reply(png((1, 2, 3), (2400, 1800)))

    def fetched(request):
        is_asked.set()
        if command == ["precompute"]:
            gate.wait(60)
        return image

    for number in range(3):
        server.routes[f"/data/upload/{PROJECT}/{number:04}.png"] = fetched
    process = start(command[0], "--project", str(PROJECT), *command[1:])
    try:
        assert is_asked.wait(60)
        threading.Event().wait(5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10 + 5
    finally:
        gate.set()
    assert process.returncode == 130, err
    assert "ended early: stopped" in out
    assert server.project.stored == {}
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/tasks", "/api/predictions/", f"/api/projects/{PROJECT}/import/predictions"])
def test_a_run_that_is_stopped_while_label_studio_does_not_answer_ends_soon(start, server, path):
    fill(server, 300)
    gate, is_asked = threading.Event(), threading.Event()
    answers = []

    def hang(request):
        answers.append(request)
        if len(answers) > 2:
            is_asked.set()
            gate.wait(60)
        return server.routed(request)

    server.routes[path] = hang
    process = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    try:
        assert is_asked.wait(60)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10 + 2
    finally:
        gate.set()
    assert process.returncode == 130, err
    assert "ended early: stopped" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(start, server):
    fill(server, 5)
    waiting, gate = threading.Event(), threading.Event()

    def hang(request):
        waiting.set()
        gate.wait(60)
        return Reply(b"", 503)

    server.routes[f"/data/upload/{PROJECT}/0004.png"] = hang
    process = start("precompute", "--project", str(PROJECT))
    try:
        assert waiting.wait(60)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        gate.set()


@pytest.mark.slow
def test_a_killed_run_is_taken_up_where_it_was_left(start, server):
    tasks = fill(server, 120)
    process = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    wait_for(lambda: len(server.project.stored) >= 16)
    process.kill()
    process.communicate()
    stored = len(server.project.stored)
    assert 16 <= stored < 120
    process = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, err
    assert [len(server.project.of(task)) for task in tasks] == [1] * 120
    assert f"there already      {stored}" in out


@pytest.mark.slow
def test_two_people_at_once_leave_one_prediction_of_each_task(start, server):
    tasks = fill(server, 150)
    processes = [start("preannotate", "--project", str(PROJECT), "--from", "boxes") for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=RUN_S)
        assert process.returncode == 0, out + err
    assert [len(server.project.of(task)) for task in tasks] == [1] * 150


@pytest.mark.slow
def test_label_studio_may_be_away_for_a_while(start, server):
    tasks = fill(server, 40)
    process = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    wait_for(lambda: len(server.project.stored) >= 16)
    for name in ("predictions", "annotations", "import_predictions"):
        server.project.failures[name] = [away() for _ in range(5)]
    _, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, err
    assert [len(server.project.of(task)) for task in tasks] == [1] * 40


@pytest.mark.slow
def test_a_terminal_gets_a_bar(start, server):
    fill(server, 3)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start("precompute", "--project", str(PROJECT), stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output
    assert b"3/3" in output
    assert "encoded  3" in out
