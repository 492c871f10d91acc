"""What ``make`` sets up, with a stand-in for Python that logs its commands."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from model.demo import DETECTOR
from tests.support.fake_python import FakePython
from tests.support.processes import ROOT, interruptible

MAKE = shutil.which("make")
pytestmark = [
    pytest.mark.skipif(MAKE is None, reason="needs make"),
    pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="reads the source tree's own files"),
]


class Clone:
    """A clone in which ``make`` runs with the stand-in.

    Attributes:
        folder: where it is.
        environ: what ``make`` is given beside the stand-in's own.
    """

    def __init__(self, folder, home):
        self.folder, self.environ = folder, {}
        self._fake = FakePython(home)
        self.python, self.commands, self.pid = self._fake.path, self._fake.commands, self._fake.pid
        for name in (
            "Makefile",
            "requirements.txt",
            "requirements.lock",
            "requirements-dev.txt",
            "requirements-tools.txt",
            "pyproject.toml",
            "backend/demo/requirements-label-studio.txt",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)

    def change(self, name):
        """Make one file newer than everything else."""
        for path in self.folder.rglob("*"):
            os.utime(path, (time.time() - 3600,) * 2)
        (self.folder / name).touch()

    def make(self, *arguments, **environ):
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, **self.options(environ)
        )

    def command(self, *arguments):
        return [MAKE, f"PYTHON={self.python}", *arguments]

    def options(self, environ):
        own = {"PATH": os.defpath} | self._fake.environ | self.environ | environ
        return {"cwd": self.folder, "env": own}


@pytest.fixture(params=["clone", "a clone with spaces"])
def clone(tmp_path, request):
    folder = tmp_path / request.param
    folder.mkdir()
    return Clone(folder, tmp_path)


PIP = "-m pip install --quiet --disable-pip-version-check"
INSTALLS = ["-m venv --clear .venv", f"{PIP} --require-hashes -r requirements.lock"]
SERVES = "-m backend serve"


def test_the_first_run_sets_up_and_serves_and_the_second_only_serves(clone):
    first = clone.make("run")
    assert (first.returncode, first.stderr) == (0, "")
    assert "Setting up .venv, once" in first.stdout
    assert clone.commands() == [*INSTALLS, SERVES]
    assert clone.make("run").stdout == ""
    assert clone.commands() == [SERVES]


def test_weights_can_be_chosen_by_name_or_by_a_path_with_spaces(clone):
    assert clone.make("run", "WEIGHTS=mobile_sam").returncode == 0
    assert clone.commands()[-1] == f"{SERVES} --weights mobile_sam"
    assert clone.make("demo", "WEIGHTS=my weights/mobile_sam.pt").returncode == 0
    assert clone.commands()[-1].endswith("/bin/python --weights my weights/mobile_sam.pt")


@pytest.mark.parametrize(
    ("arguments", "environ", "is_set"),
    [
        ([], {}, True),
        (["WEIGHTS=mobile_sam"], {}, False),
        ([], {"PADDLE_SAM_WEIGHTS": "mobile_sam"}, False),
        ([], {"PADDLE_SAM_DETECTOR": "GroundingDINO-T"}, False),
    ],
)
def test_the_demos_detector_is_used_beside_the_demo_model_alone(clone, arguments, environ, is_set):
    shown = clone.make("--dry-run", "run", *arguments, **environ).stdout
    assert SERVES in shown
    assert (f"PADDLE_SAM_DETECTOR={DETECTOR} " in shown) == is_set


def test_an_installation_that_failed_is_started_over(clone):
    assert clone.make("run", FAKE_PIP_FAILS="1").returncode == 2
    assert clone.commands() == INSTALLS
    assert clone.make("run").returncode == 0
    assert clone.commands() == [*INSTALLS, SERVES]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_installation_that_was_interrupted_is_started_over(clone, how):
    with subprocess.Popen(
        interruptible(clone.command("run")),
        **clone.options({"FAKE_PIP_HANGS": "1"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while not clone.pid.exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, how)
    assert (clone.folder / ".venv/bin/package").exists()
    clone.commands()
    assert clone.make("run").returncode == 0
    assert clone.commands() == [*INSTALLS, SERVES]


def test_changed_requirements_are_installed_on_top_and_again_where_that_was_interrupted(clone):
    clone.make("run")
    clone.commands()
    clone.change("requirements.lock")
    assert clone.make("run", FAKE_PIP_FAILS="1").returncode == 2
    assert clone.commands() == INSTALLS[1:]
    assert clone.make("run").returncode == 0
    assert clone.commands() == [*INSTALLS, SERVES]


def test_an_interpreter_that_is_gone_is_replaced(clone):
    clone.make("run")
    python = clone.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    clone.commands()
    assert clone.make("run").returncode == 0
    assert clone.commands() == [*INSTALLS, SERVES]


def test_what_the_tests_need_comes_on_top_and_a_half_of_it_spoils_all(clone):
    tools = f"{PIP} -r requirements-dev.txt"
    clone.make("run")
    clone.commands()
    clone.make("test-wheel", FAKE_PIP_FAILS="1")
    assert clone.commands() == [tools]
    assert clone.make("test-wheel").returncode == 0
    assert clone.commands() == [*INSTALLS, tools, "-m tests.support.wheel"]
    clone.make("run")
    clone.make("test-wheel")
    assert clone.commands() == [SERVES, "-m tests.support.wheel"]


@pytest.mark.parametrize("failing", ["nothing", "ruff", "mypy", "pytest"])
def test_lint_and_the_tests_run_to_their_end_and_a_failure_of_either_fails_the_command(clone, failing):
    clone.make("test-wheel")
    clone.commands()
    tools = clone.folder / "tools"
    tools.mkdir()
    for path in (tools / "redis-server", clone.folder / ".venv/bin/ruff", clone.folder / ".venv/bin/mypy"):
        path.write_text(f"#!/bin/sh\necho {path.name} was here\nexit {int(path.name == failing)}\n")
        path.chmod(0o755)
    environ = {"PATH": f"{tools}{os.pathsep}{os.defpath}", "FAKE_PYTEST_FAILS": str(int(failing == "pytest"))}
    completed = clone.make("test", **environ)
    assert completed.returncode == (0 if failing == "nothing" else 2)
    (command,) = clone.commands()
    assert command.startswith("-m pytest -n 3 ")
    assert "ruff was here" in completed.stdout
    assert ("mypy was here" in completed.stdout) == (failing != "ruff")
    assert ("lint] Error 1" in completed.stdout) == (failing in ("ruff", "mypy"))


def test_a_registry_without_the_locked_versions_may_serve_the_tested_ranges(clone):
    assert clone.make("run", "REQUIREMENTS=requirements.txt").returncode == 0
    assert clone.commands() == [INSTALLS[0], f"{PIP} -r requirements.txt", SERVES]


def test_the_tools_of_the_supply_chain_have_environments_of_their_own(clone):
    assert clone.make("sbom").returncode == 2, "the stand-in installs no cyclonedx-py"
    assert clone.commands() == [
        "-m venv --clear .venv-tools", f"{PIP} -r requirements-tools.txt",
        "-m venv --clear .venv-sbom", f"{PIP} --require-hashes -r requirements.lock", f"{PIP} --no-deps {clone.folder}",
    ]  # fmt: skip


def test_the_demo_gives_label_studio_an_environment_of_its_own(clone):
    assert clone.make("demo").returncode == 0
    commands = clone.commands()
    assert commands[:3] == [*INSTALLS, "-m venv --clear .venv-label-studio"]
    assert commands[3].endswith("-r backend/demo/requirements-label-studio.txt")
    assert commands[4] == "-m backend demo --folder ./.demo --label-studio-python ./.venv-label-studio/bin/python"


def test_another_folder_may_hold_what_is_made(clone, tmp_path):
    cache = tmp_path / "cache"
    assert clone.make("demo", f"CACHE={cache}").returncode == 0
    assert (cache / ".venv/run.stamp").exists()
    assert f"--folder {cache}/.demo --label-studio-python {cache}/.venv-label-studio/bin/python" in clone.commands()[-1]
    assert not list(clone.folder.glob(".venv*"))


def test_a_folder_that_nothing_can_be_written_to_is_answered_with_a_way_out(clone):
    completed = clone.make("run", f"CACHE={clone.python}/below-a-file")  # root could write into any folder
    assert completed.returncode == 2
    assert "try make run CACHE=/some/folder" in completed.stderr
    assert clone.commands() == []


def test_another_python_is_refused_in_one_sentence_and_nothing_is_made(clone):
    completed = clone.make("run", FAKE_VERSION_IS_WRONG="1")
    assert completed.returncode == 2
    assert "Python 3.10 to 3.13 is needed, e.g. make run PYTHON=python3.11" in completed.stderr
    assert not list(clone.folder.glob(".venv*"))


def test_without_a_choice_it_takes_a_python_that_is_there(clone):
    folder = clone.python.parent / "bin"
    folder.mkdir()
    for tool in ("sh", "mkdir", "rm", "touch", "cp", "dirname", "sleep"):
        (folder / tool).symlink_to(shutil.which(tool))
    (folder / "python3.12").symlink_to(clone.python)
    completed = subprocess.run([MAKE, "run"], capture_output=True, text=True, **clone.options({"PATH": str(folder)}))
    assert (completed.returncode, completed.stderr) == (0, "")
    assert clone.commands() == [*INSTALLS, SERVES]


def test_help_lists_every_command(clone):
    text = (ROOT / "Makefile").read_text()
    named = set(re.search(r"^\.PHONY: (help.*)$", text, re.MULTILINE)[1].split())
    listed = re.findall(r"^  make (\S+) +[A-Z]", clone.make("help").stdout, re.MULTILINE)
    assert set(listed) == named
    assert len(listed) == len(named)
