"""The demo without ``make``: Label Studio's environment is made in the demo's own folder, once."""

import sys

import pytest

from backend.demo.command import REQUIREMENTS, Demo, environ_of, run
from backend.demo.processes import DemoError
from model.demo import DETECTOR, SAMPLES
from tests.support.fake_python import FakePython


@pytest.fixture
def python(tmp_path, monkeypatch):
    python = FakePython(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python.path))
    for name, value in python.environ.items():
        monkeypatch.setenv(name, value)
    return python


def start(tmp_path, python):
    """Start the demo with a Label Studio that ends at once; return the lines, but those on ports, and why it ended."""
    demo = Demo(tmp_path / "demo", None, SAMPLES, serve=(str(python.path), "serve"))
    lines = []
    with pytest.raises(DemoError) as ended:
        run(demo, python.environ | {"PATH": "/usr/bin:/bin"}, lines.append)
    return [line for line in lines if " is taken: " not in line], str(ended.value)


def test_label_studio_gets_an_environment_in_the_demos_folder_once(tmp_path, python):
    folder = tmp_path / "demo" / "environment"
    lines, why = start(tmp_path, python)
    assert lines[0] == f"Setting up {folder}, once; this takes minutes ..."
    assert "stopped by itself" in why
    commands = python.commands()
    assert commands[0] == f"-m venv --clear {folder}"
    assert commands[1].endswith(f"--use-pep517 -r {REQUIREMENTS}")
    assert "serve" in commands
    lines, _ = start(tmp_path, python)
    assert lines[0].startswith("Starting Label Studio")
    assert not [line for line in python.commands() if "venv" in line or "pip" in line]


@pytest.mark.parametrize(
    ("weights", "environ", "detector"),
    [
        (None, {}, DETECTOR),
        (None, {"PADDLE_SAM_WEIGHTS": " demo "}, DETECTOR),
        ("demo", {"PADDLE_SAM_WEIGHTS": "mobile_sam"}, DETECTOR),
        ("mobile_sam", {}, None),
        (None, {"PADDLE_SAM_WEIGHTS": "mobile_sam"}, None),
        (None, {"PADDLE_SAM_DETECTOR": "GroundingDINO-T"}, "GroundingDINO-T"),
        ("mobile_sam", {"PADDLE_SAM_DETECTOR": "GroundingDINO-T"}, "GroundingDINO-T"),
        (None, {"PADDLE_SAM_DETECTOR": ""}, ""),
    ],
)
def test_the_demos_detector_is_used_beside_the_demo_model_where_none_is_named(tmp_path, weights, environ, detector):
    environ_of_demo = environ_of(Demo(tmp_path, None, SAMPLES, weights=weights), environ)
    assert environ_of_demo.get("PADDLE_SAM_DETECTOR") == detector


def test_another_version_of_label_studio_is_installed_on_top(tmp_path, python):
    start(tmp_path, python)
    (tmp_path / "demo" / "environment" / "stamp").write_text("label-studio==1.0")
    python.commands()
    start(tmp_path, python)
    assert python.commands()[0].endswith(f"--use-pep517 -r {REQUIREMENTS}")


def test_a_failed_installation_is_one_sentence_and_nothing_is_started(tmp_path, python, monkeypatch):
    monkeypatch.setenv("FAKE_PIP_FAILS", "1")
    _, why = start(tmp_path, python)
    assert "was not installed into" in why
    assert "The next start tries again" in why
    assert "serve" not in python.commands()
    assert not (tmp_path / "demo" / "backend.log").exists()
