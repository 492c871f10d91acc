"""The lock files: for every supported Python and system they fix what the ranges ask for, each file by its hash."""

import itertools
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from model.demo import SAMPLES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "requirements.lock").exists(), reason="reads the source tree's own files")

PYTHONS = ("3.10.13", "3.11.14", "3.12.12", "3.13.9")
SYSTEMS = {
    ("linux", "x86_64"): "Linux",
    ("linux", "aarch64"): "Linux",
    ("darwin", "arm64"): "Darwin",
    ("win32", "AMD64"): "Windows",
}
MACHINES = list(itertools.product(PYTHONS, SYSTEMS))


def lines(name):
    """The requirements of a file, each with its hashes on one line."""
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(name):
    return [Requirement(line.partition("--hash")[0]) for line in lines(name)]


def on(machine, requirements):
    """The requirements that hold on a machine, by name."""
    python, (system, processor) = machine
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
        "platform_machine": processor,
        "platform_system": SYSTEMS[system, processor],
    }
    applicable = {}
    for each in requirements:
        if (each.marker or Marker("python_version > '3'")).evaluate(environment):
            assert each.name not in applicable, f"{each.name} has two versions on {machine}"
            applicable[each.name.lower()] = each
    return applicable


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_on_every_machine_each_requirement_has_one_locked_version_in_its_range(machine):
    locked = on(machine, pins("requirements.lock"))
    for name, wanted in on(machine, pins("requirements.txt")).items():
        [pin] = locked[name].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{wanted}, locked {pin}: run make lock"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_every_locked_version_names_its_files_by_their_hashes_and_no_address(name):
    assert [line for line in lines(name) if not re.search(r"(--hash=sha256:[0-9a-f]{64}\b\s*)+$", line)] == []
    assert "://" not in (ROOT / name).read_text()


def test_the_lock_for_gpus_is_the_same_but_for_paddle():
    gpu = set(lines("requirements-gpu.lock"))
    others = set(lines("requirements.lock")) - gpu
    assert gpu <= set(lines("requirements.lock"))
    assert {Requirement(line.partition("--hash")[0]).name for line in others} == {"paddlepaddle"}


def test_on_arm_linux_has_the_last_paddle_with_a_wheel_for_it():
    versions = {machine: on(machine, pins("requirements.lock"))["paddlepaddle"].specifier for machine in MACHINES}
    assert {str(version) for (_, system), version in versions.items() if system == ("linux", "aarch64")} == {"==3.2.2"}
    assert {str(version) for (_, system), version in versions.items() if system != ("linux", "aarch64")} == {"==3.3.1"}


def test_with_what_is_locked_alone_an_image_is_segmented(tmp_path):
    here = ".".join(map(str, sys.version_info[:3])), (sys.platform, platform.machine())
    locked = ",".join(name.replace("_", "-") for name in on(here, pins("requirements.lock")))
    arguments = ["segment", str(SAMPLES / "landscape.jpg"), "--box", "388,365,700,477", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "tests.support.locked_only", locked, *arguments]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert list(tmp_path.iterdir())
