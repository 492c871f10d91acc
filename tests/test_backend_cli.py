"""The command line: what it refuses, in which words and with which exit code."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from backend.__main__ import main
from tests.fakes import LEGACY_TOKEN, FakeLabelStudio, Reply, png
from tests.processes import environment, free_port
from tests.wire import CONFIG


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run the command line in this process, with no settings but the given ones."""

    def call(*arguments, **environ):
        for name in environment():
            monkeypatch.setenv(name, environment()[name])
        for name in ("HOST", "PORT", "WORKERS", "THREADS", "MODEL_DIR", "LOG_LEVEL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"PADDLE_SAM_CACHE_DIR": str(tmp_path)} | environ).items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, list(arguments))

    return call


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["serve", "--help"], ["doctor", "-h"], ["demo", "--help"]])
def test_help_is_there_and_imports_nothing_that_takes_time(arguments):
    code = (
        "import sys\nfrom backend.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'paddle', 'cv2', 'torch', 'flask', 'gunicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_all_bad_settings_are_refused_at_once(call):
    done = call("serve", WORKERS="many", PADDLE_SAM_DEVICE="tpu", PADDLE_SAM_BUDGET="3", BASIC_AUTH_USER="me")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert {line.split()[1].split("=")[0].rstrip(":") for line in lines} >= {
        "WORKERS", "PADDLE_SAM_DEVICE", "PADDLE_SAM_BUDGET",
    }  # fmt: skip
    assert "Traceback" not in done.output


def test_a_wrong_option_is_refused(call):
    assert call("serve", "--port", "70000").exit_code == 2
    assert call("serve", "--prot", "9090").exit_code == 2
    assert call("sevre").exit_code == 2


def test_an_option_goes_before_the_environment(call):
    done = call("serve", "--weights", "/nowhere/b", PADDLE_SAM_WEIGHTS="/nowhere/a", PORT=str(free_port()))
    assert done.exit_code == 2
    assert "/nowhere/b" in done.stderr
    assert "/nowhere/a" not in done.stderr


def test_weights_that_are_not_there_are_refused_in_one_line(call):
    done = call("serve", "--weights", "SAM-X", PORT=str(free_port()))
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "SAM-H_box" in done.stderr


def test_the_doctor_ends_with_1_and_a_remedy_where_something_is_wrong(call, weights):
    done = call("doctor", PADDLE_SAM_WEIGHTS=weights, LABEL_STUDIO_URL="http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "ok      weights: small@" in done.output
    assert "PROBLEM Label Studio: " in done.output
    assert "        -> set LABEL_STUDIO_URL" in done.output
    assert "Traceback" not in done.output


def test_the_doctor_tells_of_redis_in_its_findings_and_not_in_log_lines_between_them(weights):
    environ = {"PADDLE_SAM_WEIGHTS": str(weights), "LABEL_STUDIO_URL": "http://127.0.0.1:9"}
    environ = environment() | environ | {"REDIS_URL": "redis://127.0.0.1:9/0"}
    command = [sys.executable, "-m", "backend", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert "PROBLEM Redis: " in done.stdout
    assert "event=" not in done.stderr


def test_the_doctor_tells_of_an_image_that_is_tried_twice_in_its_findings_alone(weights):
    with FakeLabelStudio() as server:
        server.routes["/api/version"] = Reply(b'{"release": "1.23.2"}')
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com"}')
        server.routes["/data/upload/7/a.png"] = Reply(b"busy", 503)
        project = {"id": 7, "title": "Cats", "label_config": CONFIG}
        server.routes["/api/projects/7/"] = Reply(json.dumps(project).encode())
        found = {"tasks": [{"id": 1, "data": {"image": "/data/upload/7/a.png"}}], "total": 1}
        server.routes["/api/tasks"] = Reply(json.dumps(found).encode())
        environ = {"PADDLE_SAM_WEIGHTS": str(weights), "LABEL_STUDIO_URL": server.url}
        done = subprocess.run(
            [sys.executable, "-m", "backend", "doctor", "--project", "7"],
            capture_output=True,
            text=True,
            env=environment() | environ | {"LABEL_STUDIO_API_KEY": LEGACY_TOKEN},
            check=False,
        )
    assert "PROBLEM image of task 1: " in done.stdout
    assert done.stderr == ""


def test_the_doctor_ends_with_0_where_all_is_well(call, weights):
    with FakeLabelStudio() as server:
        server.routes["/api/version"] = Reply(b'{"release": "1.23.2"}')
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com"}')
        server.routes["/data/upload/7/0123abcd-a.png"] = Reply(png())
        project = {"id": 7, "title": "Cats", "label_config": CONFIG}
        server.routes["/api/projects/7/"] = Reply(json.dumps(project).encode())
        found = {"tasks": [{"id": 1, "data": {"image": "/data/upload/7/0123abcd-a.png"}}], "total": 1}
        server.routes["/api/tasks"] = Reply(json.dumps(found).encode())
        done = call(
            "doctor", "--project", "7",
            PADDLE_SAM_WEIGHTS=weights, LABEL_STUDIO_URL=server.url, LABEL_STUDIO_API_KEY=LEGACY_TOKEN,
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "ok      image of task 1: 40 x 30 pixels" in done.output
    assert LEGACY_TOKEN not in done.output


def test_the_doctor_refuses_bad_settings_like_everybody(call):
    done = call("doctor", PORT="x")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: PORT=x: expected")
