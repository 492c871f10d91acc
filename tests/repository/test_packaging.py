"""The package: what it declares, and, where it is installed (``make test-wheel``), what that gives."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import backend
import model
from model.demo import SAMPLES
from tests.support.processes import ROOT, environment, serving
from tests.support.wire_bodies import click_on, data_uri, encoded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "paddle-sam-backend"
COMMANDS = {"paddle-sam-backend": "backend", "paddle-sam": "model"}
CODE = [Path(package.__file__).parent for package in (model, backend)]
NOT_REQUIRED = {"torch", "segment_anything", "skimage", "label_studio_ml"}
"""For training, its pictures, and a server of label-studio-ml; users of those have installed these."""
BROUGHT_BY = {"werkzeug": "flask", "pydantic_core": "pydantic"}
IMPORTED_BY_PADDLE = {"setuptools"}
"""See `test_lock.test_with_what_is_locked_alone_an_image_is_segmented`."""

from_a_checkout = pytest.mark.skipif(not (ROOT / "model").is_dir(), reason="reads the source tree's own files")
installed = pytest.mark.skipif(CODE[0].parent == ROOT, reason="needs the package installed, see make test-wheel")


def declared(name):
    """The requirements of one of the lists on Linux on x86-64, by their canonical names."""
    lines = (ROOT / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    machine = {"sys_platform": "linux", "platform_machine": "x86_64"}
    requirements = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(machine)
    ]
    return {re.sub(r"[-_.]+", "-", requirement.name).lower(): requirement for requirement in requirements}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def imported():
    """The top-level names that the product imports from others."""
    modules = set()
    for path in (path for package in CODE for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).split(".")[0])
    return modules - NOT_REQUIRED - set(sys.stdlib_module_names) - {"model", "backend", "_typeshed"}


@cache
def distributions():
    """The distributions here that have each top-level name, by their canonical names.

    ``packages_distributions`` of Python 3.10 does not look at their files, and misses those that say no more.
    """
    names = defaultdict(set)
    for each in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower()
        for path in each.files or ():
            names[path.parts[0].removesuffix(".py")].add(name)
    return names


@from_a_checkout
def test_what_is_imported_is_declared():
    names = set(declared("requirements.txt"))
    missing = {
        module for module in imported() if BROUGHT_BY.get(module) not in names and not distributions()[module] & names
    }
    assert missing == set()


@from_a_checkout
def test_what_is_declared_is_imported():
    used = {name for module in imported() for name in distributions()[module]}
    assert set(declared("requirements.txt")) - used == IMPORTED_BY_PADDLE


@from_a_checkout
def test_a_gpu_needs_the_same_but_for_paddle():
    cpu, gpu = declared("requirements.txt"), declared("requirements-gpu.txt")
    assert cpu.pop("paddlepaddle").specifier == gpu.pop("paddlepaddle-gpu").specifier
    assert cpu == gpu


@from_a_checkout
def test_every_requirement_has_a_range_that_ends():
    assert [
        name
        for name, requirement in (declared("requirements.txt") | declared("requirements-gpu.txt")).items()
        if {clause.operator for clause in requirement.specifier} != {">=", "<"}
    ] == []


@from_a_checkout
def test_every_file_that_the_packages_hold_is_in_the_wheel():
    patterns = project()["tool"]["setuptools"]["package-data"]
    left_out = []
    for package in CODE:
        data = {path for pattern in patterns[package.name] for path in package.glob(pattern)}
        others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
        left_out += sorted(others - data)
    assert left_out == []


@from_a_checkout
def test_every_folder_of_code_is_a_package():
    folders = {path.parent for package in CODE for path in package.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@from_a_checkout
@pytest.mark.parametrize(("command", "package"), COMMANDS.items())
def test_a_command_is_what_python_m_runs(command, package):
    module, _, function = project()["project"]["scripts"][command].partition(":")
    tree = ast.parse((ROOT / package / "__main__.py").read_text())
    ran = [node.func.id for node in ast.walk(tree.body[-1]) if isinstance(node, ast.Call)]
    assert ran == [function]
    imports = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imports.get(function, f"{package}.__main__") == module


def call(*command, **options):
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, **options)


@installed
def test_the_packages_come_from_the_installation():
    assert all(Path(sys.prefix) in package.parents for package in CODE)
    assert {each.locate_file("model") for each in [distribution(NAME)]} == {CODE[0]}


@installed
def test_it_brings_extras_licences_and_commands():
    package = distribution(NAME)
    assert {"gpu", "dev"} <= set(package.metadata.get_all("Provides-Extra"))
    assert {Path(path).name for path in package.metadata.get_all("License-File")} == {"LICENSE", "NOTICE"}
    scripts = {
        entry_point.name
        for entry_point in entry_points(group="console_scripts")
        if entry_point.dist and entry_point.dist.name == NAME
    }
    assert scripts == set(COMMANDS)


@installed
def test_what_it_requires_is_there_in_the_versions_it_requires():
    needed = [Requirement(line) for line in distribution(NAME).requires or []]
    needed = [
        requirement
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    assert {requirement.name for requirement in needed} >= {"paddlepaddle", "flask"}
    assert "paddlepaddle-gpu" not in {requirement.name for requirement in needed}
    wrong = [
        str(requirement)
        for requirement in needed
        if not requirement.specifier.contains(importlib.metadata.version(requirement.name))
    ]
    assert wrong == []


@installed
@pytest.mark.parametrize(("command", "package"), COMMANDS.items())
def test_an_installed_command_says_what_python_m_says(command, package, tmp_path):
    ours = call(command, "--help", cwd=tmp_path)
    theirs = call(sys.executable, "-m", package, "--help", cwd=tmp_path)
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout == theirs.stdout.replace(f"python -m {package}", command)


@installed
def test_the_installed_command_segments_a_sample_with_the_model_that_ships(tmp_path):
    result = call("paddle-sam", "segment", SAMPLES / "square.jpg", "--point", "200,200", "--out", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "square_mask_1.png", "square_res.jpg", "square_res.json",
    }  # fmt: skip


@installed
def test_the_installed_service_answers_clicks_and_shows_its_page(tmp_path):
    command = shutil.which("paddle-sam-backend")
    assert command is not None
    with serving(tmp_path, command=(command,)) as server:
        status, answer = server.ask("/predict", encoded(click_on(data_uri())))
        assert status == 200
        assert json.loads(answer)["results"][0]["model_version"].startswith("demo@")
        assert b"demo@" in server.ask("/", Accept="text/html")[1]
