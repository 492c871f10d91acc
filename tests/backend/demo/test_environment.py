"""An environment is made once, and a half of it never counts; the interpreter and pip are stand-ins."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from backend.demo.environment import PROGRESS_S, InstallError, install, is_complete, python_of
from tests.support.fake_python import FakePython
from tests.support.processes import ROOT, interruptible


@pytest.fixture
def python(tmp_path, monkeypatch):
    python = FakePython(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python.path))
    for name, value in python.environ.items():
        monkeypatch.setenv(name, value)
    return python


@pytest.fixture(params=["environment", "an environment with spaces"])
def stamp(tmp_path, request):
    return tmp_path / request.param / "stamp"


PIP = "-m pip install --quiet --disable-pip-version-check"


def make(stamp, *arguments, **options):
    lines = []
    install(stamp, arguments or ("-r", "list.txt"), lines.append, **options)
    return lines


def test_an_environment_is_made_once_and_then_added_to(python, stamp):
    lines = make(stamp)
    assert lines == [
        f"Setting up {stamp.parent}, once; this takes minutes ...",
        f"  {stamp.parent}: installing list.txt ...",
    ]
    assert python.commands() == [f"-m venv --clear {stamp.parent}", f"{PIP} -r list.txt"]
    first = stamp.stat().st_mtime_ns
    make(stamp.with_name("more.stamp"), "-r", "more.txt")
    assert python.commands() == [f"{PIP} -r more.txt"]
    assert stamp.stat().st_mtime_ns == first


def test_it_is_complete_for_the_requirements_that_it_was_made_of(python, stamp, tmp_path):
    requirements = tmp_path / "list.txt"
    requirements.write_text("a==1")
    assert not is_complete(stamp, requirements)
    make(stamp, text=requirements.read_bytes())
    assert is_complete(stamp, requirements)
    requirements.write_text("a==2")
    assert not is_complete(stamp, requirements)
    requirements.write_text("a==1")
    python_of(stamp.parent).unlink()
    assert not is_complete(stamp, requirements)


def test_a_failure_says_what_is_needed_and_leaves_no_stamp(python, stamp, monkeypatch):
    make(stamp)
    python.commands()
    monkeypatch.setenv("FAKE_PIP_FAILS", "3")
    with pytest.raises(InstallError, match=r"more\.txt was not installed into .*exit status 3.*network.*tries again"):
        make(stamp.with_name("more.stamp"), "-r", "more.txt")
    assert list(stamp.parent.glob("*stamp")) == []
    monkeypatch.delenv("FAKE_PIP_FAILS")
    python.commands()
    make(stamp)
    assert python.commands() == [f"-m venv --clear {stamp.parent}", f"{PIP} -r list.txt"]


def test_a_python_without_venv_is_named(python, stamp, monkeypatch):
    monkeypatch.setenv("FAKE_NO_VENV", "1")
    with pytest.raises(InstallError, match="Python cannot make an environment in"):
        make(stamp)


def test_the_seconds_and_the_size_are_printed_meanwhile(python, stamp, monkeypatch):
    monkeypatch.setenv("FAKE_PIP_TAKES", "0.8")
    lines = make(stamp, every_s=0.3)
    assert re.fullmatch(rf"  {re.escape(str(stamp.parent))}: \d s, 1 MB installed", lines[2])
    assert len(lines) >= 3
    assert PROGRESS_S <= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_pip_too_and_the_next_time_starts_over(python, stamp, number):
    command = [str(python.path), "-m", "backend.demo.environment", str(stamp), "-r", "list.txt"]
    environ = os.environ | {"FAKE_PIP_HANGS": "1"}
    with subprocess.Popen(interruptible(command), env=environ, stdout=subprocess.DEVNULL) as process:
        while not (python.pid.exists() and python.pid.read_text().strip()):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(python.pid.read_text()), 0)
    assert list(stamp.parent.glob("*stamp")) == []


def test_it_needs_nothing_but_python():
    code = (
        "import sys; import backend.demo.environment; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not re.search("httpx|click|msgspec|numpy", completed.stdout)
