"""The demo's own work: starting, finding, repairing and stopping, against a Label Studio that answers in its place."""

import json
import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from defusedxml.ElementTree import fromstring
from PIL import Image

from backend.cli.demo import command
from backend.demo.command import Demo, run
from backend.demo.processes import (
    PROGRESS_S,
    DemoError,
    Program,
    choose_port,
    free_port,
    is_free,
    only_one,
    start,
    stopped_by_signals,
    wait_until_ready,
)
from backend.demo.programs import Login, backend_environ, label_studio_environ
from backend.demo.project import BACKEND_TITLE, LABEL_CONFIG, TITLE, labeling_config
from backend.labeling.config import parse
from backend.labeling.config_problems import problems
from model.demo import SAMPLES
from tests.e2e.label_studio_server import Studio

HERE = Path(__file__).parent
LOGIN = Login("demo@example.com", "a password", "0123456789abcdef")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    samples = tmp_path / "samples"
    samples.mkdir()
    for name in ("one.png", "two.jpg"):
        Image.new("RGB", (8, 6)).save(samples / name)
    (samples / "samples.json").write_text("{}")
    python = script(tmp_path / "python", f'exec {sys.executable} {HERE / "fake_label_studio.py"} "$@"')
    serve = (sys.executable, str(HERE / "fake_backend.py"))
    first = free_port(20000 + os.getpid() % 20000, "a test")
    return Demo(tmp_path / "demo", python, samples, first, free_port(first + 1, "a test"), serve=serve)


def stop_when_ready(lines: list[str]):
    """Return a `say` that does, once the demo is ready, what Ctrl-C does."""

    def say(line: str) -> None:
        lines.append(line)
        if "Password" in line:
            raise KeyboardInterrupt

    return say


def run_once(demo: Demo) -> tuple[str, dict]:
    """Run the demo until it is ready; return its output, and Label Studio's data."""
    lines: list[str] = []
    run(demo, os.environ, stop_when_ready(lines))
    return "\n".join(lines), state_of(demo)


def state_of(demo: Demo) -> dict:
    return json.loads((demo.data / "fake.json").read_text())


def test_the_demo_makes_a_project_with_the_samples_and_this_backend_and_says_where_it_is(demo):
    output, state = run_once(demo)
    login = json.loads((demo.folder / "login.json").read_text())
    assert f"http://127.0.0.1:{demo.label_studio_port}/projects/1/data" in output
    assert login["username"] in output
    assert login["password"] in output
    config = labeling_config(has_words=True)
    assert [(project["title"], project["label_config"]) for project in state["projects"]] == [(TITLE, config)]
    assert [task["name"] for task in state["tasks"]] == ["one.png", "two.jpg"]
    assert [(ml["url"], ml["is_interactive"]) for ml in state["ml"]] == [
        (f"http://127.0.0.1:{demo.backend_port}", True)
    ]


def test_stopping_the_demo_stops_both_programs(demo):
    run_once(demo)
    assert is_free(demo.backend_port)
    assert is_free(demo.label_studio_port)


def test_a_second_run_finds_everything_and_the_same_login(demo):
    before, first = run_once(demo)
    after, second = run_once(demo)
    assert before[before.index("  Open ") :] == after[after.index("  Open ") :]
    assert {name: first[name] for name in ("token", "projects", "tasks", "ml", "webhooks")} == {
        name: second[name] for name in ("token", "projects", "tasks", "ml", "webhooks")
    }


def test_a_run_that_was_interrupted_before_the_upload_is_taken_up_there(demo):
    _, state = run_once(demo)
    (demo.data / "fake.json").write_text(json.dumps(state | {"tasks": [], "ml": []}))
    _, state = run_once(demo)
    assert len(state["projects"]) == 1
    assert [task["name"] for task in state["tasks"]] == ["one.png", "two.jpg"]
    assert len(state["ml"]) == 1


def test_a_sample_that_the_user_deleted_does_not_come_back(demo):
    _, state = run_once(demo)
    (demo.data / "fake.json").write_text(json.dumps(state | {"tasks": state["tasks"][:1]}))
    _, state = run_once(demo)
    assert [task["name"] for task in state["tasks"]] == ["one.png"]


def test_a_label_studio_whose_first_start_did_not_end_is_started_over(demo):
    demo.data.mkdir(parents=True)
    (demo.data / "fake.json").write_text(json.dumps({"token": "of a half-made user", "projects": []}))
    _, state = run_once(demo)
    assert len(state["projects"]) == 1


def test_a_label_studio_that_was_once_complete_is_never_started_over(demo):
    _, state = run_once(demo)
    (demo.data / "fake.json").write_text(json.dumps(state | {"token": "of another user"}))
    with pytest.raises(DemoError, match="does not accept the demo's own token"):
        run_once(demo)
    assert state_of(demo)["tasks"] == state["tasks"]


def test_a_backend_on_another_port_takes_the_place_of_the_old_one_and_of_its_webhook(demo):
    run_once(demo)
    _, state = run_once(replace(demo, backend_port=free_port(demo.label_studio_port + 1, "a test")))
    assert len(state["ml"]) == 1
    assert [hook["url"] for hook in state["webhooks"]] == [state["ml"][0]["url"] + "/webhook"]
    assert state["ml"][0]["title"] == BACKEND_TITLE
    assert str(demo.backend_port) not in state["ml"][0]["url"]


def test_a_label_studio_that_fails_is_shown_with_the_end_of_its_log_and_takes_the_backend_with_it(demo):
    broken = script(demo.folder.parent / "broken", "echo first; echo no such table: users >&2; exit 3")
    with pytest.raises(DemoError) as raised:
        run_once(replace(demo, label_studio_python=broken))
    assert "Label Studio stopped by itself (exit status 3)" in str(raised.value)
    assert "| no such table: users" in str(raised.value)
    assert is_free(demo.backend_port)


def test_a_program_that_ends_while_the_demo_runs_ends_the_demo_with_its_log(demo):
    lines: list[str] = []

    def end_the_backend(line: str) -> None:
        lines.append(line)
        if "Password" in line:
            number = int((demo.folder / "lock").read_text().split()[-1])
            os.kill(number, signal.SIGKILL)

    with pytest.raises(DemoError, match="The backend stopped by itself"):
        run(demo, os.environ, end_the_backend)
    assert is_free(demo.label_studio_port)


def test_a_program_that_never_answers_is_given_up_with_its_log(tmp_path):
    silent = script(tmp_path / "silent", "echo still loading; exec sleep 60")
    url = f"http://127.0.0.1:{free_port(30000, 'a test')}/health"
    running = start(Program("Something", (str(silent),), os.environ, None, tmp_path / "log", url, 0.5))
    try:
        with pytest.raises(DemoError, match=r"(?s)did not answer at http.* within 0 s.*\| still loading"):
            wait_until_ready([running], print)
    finally:
        running.stop()


def test_while_a_program_starts_the_seconds_and_the_last_line_of_its_log_are_shown(tmp_path):
    lines: list[str] = []
    slow = script(tmp_path / "slow", "echo Applying tasks.0001_initial... OK; echo; exec sleep 60")
    url = f"http://127.0.0.1:{free_port(30000, 'a test')}/health"
    running = start(Program("Label Studio", (str(slow),), os.environ, None, tmp_path / "log", url, 1.2))
    try:
        with pytest.raises(DemoError):
            wait_until_ready([running], lines.append, progress_s=0.4)
    finally:
        running.stop()
    assert re.fullmatch(r"Label Studio is starting, \d s: Applying tasks\.0001_initial\.\.\. OK", lines[0])
    assert len(lines) >= 2
    assert PROGRESS_S < 10


def test_a_program_that_ignores_being_asked_is_ended_with_its_children(tmp_path):
    stubborn = script(tmp_path / "stubborn", f"trap '' TERM\nsleep 61 &\necho $! > {tmp_path}/child\nwait\nsleep 61")
    running = start(Program("Something", (str(stubborn),), os.environ, None, tmp_path / "log", "http://127.0.0.1:9", 1))
    child = tmp_path / "child"
    until = time.monotonic() + 10
    while not (child.exists() and child.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.02)
    running.stop(timeout_s=0.3)
    assert not alive(running.pid)
    assert not alive(int(child.read_text()))


def alive(number: int) -> bool:
    """Say whether a process runs; one that is dead and only waits to be noticed does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("option", ["backend_port", "label_studio_port"])
def test_a_port_that_was_asked_for_and_is_taken_is_named_and_nothing_is_started(demo, option):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(DemoError, match=f"Port {port} is taken. Choose another .* with --"):
            run_once(replace(demo, **{option: port}))
    assert not (demo.folder / "label-studio.log").exists()


def test_a_port_that_was_not_asked_for_is_passed_over_when_it_is_taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port, lines = listener.getsockname()[1], []
        chosen = choose_port(None, port, "the backend", "--port", lines.append)
    assert chosen > port
    assert lines == [f"Port {port} is taken: the backend gets {chosen}."]


def test_a_port_that_is_free_is_taken_without_a_word():
    port, lines = free_port(31000, "a test"), []
    assert choose_port(None, port, "the backend", "--port", lines.append) == port
    assert lines == []


def test_a_demo_that_is_already_running_is_not_started_twice(demo):
    with only_one(demo.folder / "lock"), pytest.raises(DemoError, match="already running"):
        run_once(demo)


@contextmanager
def started(demo: Demo) -> Iterator[subprocess.Popen[str]]:
    """Start the demo as a process of its own, and give it as soon as it is ready."""
    # Both are heard even where these tests run in the background or under nohup, where their processes ignore them.
    starter = "import os, pickle, signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + (
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); from backend.demo.command import run; "
        f"run(pickle.loads({pickle.dumps(demo)!r}), os.environ, lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        while "Password" not in (line := process.stdout.readline()):
            assert line, "it ended before it was ready"
        yield process


def test_programs_that_outlived_their_demo_are_named_to_the_next_one(demo):
    with started(demo) as first:
        first.kill()
    numbers = [int(word.strip(",")) for word in (demo.folder / "lock").read_text().split()[1:]]
    try:
        with pytest.raises(DemoError, match=f"or end processes {numbers[0]}, {numbers[1]}"):
            run_once(demo)
    finally:
        for number in numbers:
            os.killpg(number, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_kill_and_a_closed_terminal_all_stop_both_programs(demo, number):
    with started(demo) as process:
        process.send_signal(number)
        assert "Stopping" in process.stdout.read()
    assert process.returncode == 0
    assert is_free(demo.backend_port)
    assert is_free(demo.label_studio_port)


def test_a_demo_that_nohup_started_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_missing_label_studio_is_reported_with_the_command_that_installs_it(demo):
    with pytest.raises(DemoError, match=r"Label Studio is not installed.*make demo"):
        run_once(replace(demo, label_studio_python=demo.folder / "nothing"))


def test_a_folder_without_images_is_refused_before_anything_is_started(demo, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DemoError, match="no images to label"):
        run_once(replace(demo, samples=tmp_path / "empty"))
    assert not (demo.folder / "backend.log").exists()


def test_a_folder_that_nothing_can_be_written_to_is_reported_with_another_way(demo, tmp_path):
    (tmp_path / "taken").write_text("a file, and no folder")
    with pytest.raises(DemoError, match=r"taken/here.*--folder"):
        run(replace(demo, folder=tmp_path / "taken" / "here"), {}, lambda text: None)


def test_what_goes_wrong_is_one_sentence_on_the_command_line(tmp_path):
    result = CliRunner().invoke(command, ["--folder", str(tmp_path), "--samples", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert result.output == f"Error: There is no folder {tmp_path / 'nowhere'} with images to label.\n"


def test_label_studio_gets_nothing_of_the_callers_environment_that_could_steer_it(demo):
    theirs = {"HOST": "https://elsewhere", "DEBUG": "1", "USERNAME": "me", "LABEL_STUDIO_PORT": "1", "HTTPS_PROXY": "x"}
    environ = label_studio_environ(theirs | {"PATH": "/bin"}, LOGIN, demo.data)
    assert environ["PATH"] == "/bin"
    assert environ["HTTPS_PROXY"] != "x"
    assert not {"HOST", "DEBUG", "USERNAME", "LABEL_STUDIO_PORT"} & environ.keys()


def test_the_backend_keeps_the_callers_choice_of_weights_but_not_their_password(demo):
    theirs = {"PADDLE_SAM_WEIGHTS": "sam_vit_b", "BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": "x", "PORT": "1"}
    environ = backend_environ(theirs, LOGIN, 9091, 8081, demo.folder)
    assert environ["PADDLE_SAM_WEIGHTS"] == "sam_vit_b"
    assert environ["PORT"] == "9091"
    assert environ["LABEL_STUDIO_URL"] == "http://127.0.0.1:8081"
    assert "BASIC_AUTH_USER" not in environ


def test_the_login_is_readable_by_its_owner_alone(demo):
    run_once(demo)
    assert stat.S_IMODE((demo.folder / "login.json").stat().st_mode) == 0o600


def test_a_damaged_login_is_reported_and_not_replaced(demo):
    demo.folder.mkdir()
    (demo.folder / "login.json").write_text("{")
    with pytest.raises(DemoError, match="is damaged"):
        run_once(demo)
    assert (demo.folder / "login.json").read_text() == "{"


def test_what_an_annotator_must_know_stands_in_the_output_and_in_the_project_and_names_no_key(demo):
    """M does another thing on the second task than on the first; see docs/troubleshooting.md."""
    output, _ = run_once(demo)
    for text in (output, LABEL_CONFIG):
        assert "lowest" in text
        assert "three dots" in text
        assert re.search(r"mask\s+is lost", text)
        assert "On photographs draw a rectangle" in text
        assert "make demo WEIGHTS=mobile_sam" in text
        assert not re.search(r"\b[Pp]ress M\b", text)


def test_the_first_label_is_chosen_on_every_task_that_is_opened():
    labels = fromstring(LABEL_CONFIG).findall(".//Labels/Label")
    assert [label.get("selected") for label in labels] == ["true", None]


@pytest.mark.parametrize("has_words", [False, True])
def test_the_backend_finds_nothing_to_correct_in_the_demos_labeling_config(has_words):
    assert problems(parse(labeling_config(has_words=has_words))) == ()


def test_the_project_has_a_field_for_words_only_beside_the_demos_detector(demo):
    _, state = run_once(replace(demo, weights=str(SAMPLES.parent / "demo.safetensors")))
    assert [project["label_config"] for project in state["projects"]] == [LABEL_CONFIG]
    assert "TextArea" not in LABEL_CONFIG


def test_the_welcome_speaks_of_the_small_model_only_where_that_is_the_model(demo):
    small, _ = run_once(demo)
    other, _ = run_once(replace(demo, weights=str(SAMPLES.parent / "demo.safetensors")))
    assert ("This small model" in small, "This small model" in other) == (True, False)
    assert "Without the tick a mask is lost" in other


def test_a_studio_that_does_not_start_is_stopped_and_shows_what_the_demo_printed(tmp_path):
    studio = Studio(tmp_path / "demo", tmp_path / "no-python", 29090, 28080)
    with pytest.raises(AssertionError, match="Label Studio is not installed"):
        studio.start()
    assert studio.stop() == 1
