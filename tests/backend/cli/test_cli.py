"""The command line: what it refuses, in which words and with which exit code."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest
from click.testing import CliRunner

import model
from backend.cli.main import main
from model.folders import cache_folder
from tests.support.fakes import LEGACY_TOKEN, FakeLabelStudio, Reply, png
from tests.support.processes import environment, free_port
from tests.support.wire_bodies import CONFIG

ROOT = Path(__file__).parents[3]
SAMPLES = str(Path(model.__file__).parent / "demo" / "samples")


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
        "import sys\nfrom backend.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'paddle', 'cv2', 'torch', 'flask', 'gunicorn', 'numpy', 'httpx', 'redis'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stderr
    assert "Usage:" in completed.stdout


def test_all_bad_settings_are_refused_at_once(call):
    result = call("serve", WORKERS="many", PADDLE_SAM_DEVICE="tpu", PADDLE_SAM_BUDGET="3", BASIC_AUTH_USER="me")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert {line.split()[1].split("=")[0].rstrip(":") for line in lines} >= {
        "WORKERS", "PADDLE_SAM_DEVICE", "PADDLE_SAM_BUDGET",
    }  # fmt: skip
    assert "Traceback" not in result.output


def test_a_wrong_option_is_refused(call):
    assert call("serve", "--port", "70000").exit_code == 2
    assert call("serve", "--prot", "9090").exit_code == 2
    assert call("sevre").exit_code == 2


def test_an_option_goes_before_the_environment(call):
    result = call("serve", "--weights", "/nowhere/b", PADDLE_SAM_WEIGHTS="/nowhere/a", PORT=str(free_port()))
    assert result.exit_code == 2
    assert "/nowhere/b" in result.stderr
    assert "/nowhere/a" not in result.stderr


def test_weights_that_are_not_there_are_refused_in_one_line(call):
    result = call("serve", "--weights", "SAM-X", PORT=str(free_port()))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "SAM-H_box" in result.stderr


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", "10.255.255.1", "not a host", "a" * 80, "::zz"])
def test_a_host_that_is_no_address_of_this_machine_is_named_with_what_to_do(call, weights, host):
    """conda's compilers set HOST to the name of the platform."""
    result = call("serve", PADDLE_SAM_WEIGHTS=weights, HOST=host, PORT=str(free_port()))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: HOST={host}: cannot listen on {host}:")
    assert "0.0.0.0" in result.stderr


def test_an_address_of_another_machine_is_refused(call, weights):
    result = call("serve", "--host", "203.0.113.1", "--port", str(free_port()), PADDLE_SAM_WEIGHTS=weights)
    assert result.exit_code == 2
    assert "cannot listen on 203.0.113.1" in result.stderr
    assert "Traceback" not in result.output


def test_a_cache_that_cannot_be_written_to_stops_precompute_before_it_begins(call, weights):
    result = call("precompute", "--project", "1", PADDLE_SAM_WEIGHTS=weights, PADDLE_SAM_CACHE_DIR="/proc/cache")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: PADDLE_SAM_CACHE_DIR=/proc/cache: expected a folder that can be written to")


UNKNOWN_USER = (
    "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--bounding-set=-all,+dac_read_search",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip
"""A user who is in no list of users, and may read everything, since the interpreter may be root's."""


@pytest.fixture
def as_nobody(tmp_path):
    """Run a command as an unknown user without HOME, in a folder that cannot be written to."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become a user that the system does not know")
    tmp_path.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o777)

    def run(module, *arguments, **environ):
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")} | environ
        command = [*UNKNOWN_USER, sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False)

    return run


def test_an_unknown_user_without_a_home_gets_a_cache_among_the_temporary_files(as_nobody, tmp_path):
    completed = as_nobody("backend", "doctor", LABEL_STUDIO_URL="http://127.0.0.1:9")
    assert completed.returncode == 1
    assert "hint    weights: demo@" in completed.stdout
    assert completed.stderr == ""
    folder = tmp_path / "tmp" / "paddle-sam-12345"
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (12345, 0o700)


@pytest.mark.parametrize(("command", "expected"), [
    (("backend", "demo", "--folder", "/proc/x"), "Error: The demo keeps its data in /proc/x, which cannot be"),
    (("model", "download", "sam_vit_b", "--weights-dir", "/proc/x"), "sam_vit_b_01ec64.pth: expected to write"),
    (("model", "segment", SAMPLES, "--box", "10,10,50,50", "--out", "out"), "Error: out: Permission denied"),
])  # fmt: skip
def test_a_folder_that_cannot_be_written_to_is_reported_without_a_traceback(as_nobody, command, expected):
    completed = as_nobody(*command)
    assert completed.returncode != 0
    assert expected in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_folder_of_another_user_in_the_place_of_ours_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"paddle-sam-{os.getuid()}").symlink_to("/etc")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path("~/.cache") / name)  # older releases
    assert cache_folder().parent == tmp_path
    assert cache_folder().resolve() != Path("/etc")


def test_the_doctor_ends_with_1_and_a_remedy_where_something_is_wrong(call, weights):
    result = call("doctor", PADDLE_SAM_WEIGHTS=weights, LABEL_STUDIO_URL="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "ok      weights: small@" in result.output
    assert "PROBLEM Label Studio: " in result.output
    assert "        -> set LABEL_STUDIO_URL" in result.output
    assert "Traceback" not in result.output


def test_the_doctor_reports_redis_in_its_findings_and_not_in_log_lines_between_them(weights):
    environ = {"PADDLE_SAM_WEIGHTS": str(weights), "LABEL_STUDIO_URL": "http://127.0.0.1:9"}
    environ = environment() | environ | {"REDIS_URL": "redis://127.0.0.1:9/0"}
    command = [sys.executable, "-m", "backend", "doctor"]
    completed = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert "PROBLEM Redis: " in completed.stdout
    assert "event=" not in completed.stderr


def test_the_doctor_reports_an_image_that_is_tried_twice_in_its_findings_alone(weights):
    with FakeLabelStudio() as server:
        server.routes["/api/version"] = Reply(b'{"release": "1.23.2"}')
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com"}')
        server.routes["/data/upload/7/a.png"] = Reply(b"busy", 503)
        project = {"id": 7, "title": "Cats", "label_config": CONFIG}
        server.routes["/api/projects/7/"] = Reply(json.dumps(project).encode())
        page = {"tasks": [{"id": 1, "data": {"image": "/data/upload/7/a.png"}}], "total": 1}
        server.routes["/api/tasks"] = Reply(json.dumps(page).encode())
        environ = {"PADDLE_SAM_WEIGHTS": str(weights), "LABEL_STUDIO_URL": server.url}
        completed = subprocess.run(
            [sys.executable, "-m", "backend", "doctor", "--project", "7"],
            capture_output=True,
            text=True,
            env=environment() | environ | {"LABEL_STUDIO_API_KEY": LEGACY_TOKEN},
            check=False,
        )
    assert "PROBLEM image of task 1: " in completed.stdout
    assert completed.stderr == ""


def test_the_doctor_ends_with_0_where_all_is_well(call, weights):
    with FakeLabelStudio() as server:
        server.routes["/api/version"] = Reply(b'{"release": "1.23.2"}')
        server.routes["/api/current-user/whoami"] = Reply(b'{"id": 1, "email": "me@example.com"}')
        server.routes["/data/upload/7/0123abcd-a.png"] = Reply(png())
        project = {"id": 7, "title": "Cats", "label_config": CONFIG}
        server.routes["/api/projects/7/"] = Reply(json.dumps(project).encode())
        page = {"tasks": [{"id": 1, "data": {"image": "/data/upload/7/0123abcd-a.png"}}], "total": 1}
        server.routes["/api/tasks"] = Reply(json.dumps(page).encode())
        result = call(
            "doctor", "--project", "7",
            PADDLE_SAM_WEIGHTS=weights, LABEL_STUDIO_URL=server.url, LABEL_STUDIO_API_KEY=LEGACY_TOKEN,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "ok      image of task 1: 40 x 30 pixels" in result.output
    assert LEGACY_TOKEN not in result.output


def test_the_doctor_refuses_bad_settings_like_all_commands(call):
    result = call("doctor", PORT="x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: PORT=x: expected")
