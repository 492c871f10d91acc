"""What the documentation says exists: files, headings, settings, reasons, modules, code; and every table is whole."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import annotated_types
import pytest
import yaml
from PIL import Image

from backend.cli.settings_help import UNSET, variables
from backend.errors import Reason
from backend.settings import NAMES, PREFIX, Settings
from tests.support.markdown import ROOT, Document, document, documents

DOCUMENTS = documents()
LARGEST_IMAGE = 1_500_000
NO_HOSTS = ("http://", "https://", "mailto:")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)


# Links


@every_document
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: Document):
    for link in document.links:
        if link.startswith(NO_HOSTS):
            continue
        name, _, anchor = link.partition("#")
        target = (document.path.parent / name).resolve() if name else document.path
        assert target.exists(), f"{document.name}: {link}"
        assert target.is_relative_to(ROOT), f"{document.name}: {link} leads out of the project"
        if anchor:
            assert anchor in Document(target).anchors, f"{document.name}: {link}"


@every_document
def test_every_picture_can_be_shown_and_is_small(document: Document):
    for link in document.images:
        path = document.path.parent / link
        assert path.stat().st_size <= LARGEST_IMAGE, f"{link} has {path.stat().st_size} bytes"
        with Image.open(path) as picture:
            picture.verify()


def test_the_readme_moves():
    link = document("README.md").images[0]
    with Image.open(ROOT / link) as picture:
        assert getattr(picture, "n_frames", 1) > 20


def test_every_picture_in_docs_is_shown_or_linked_somewhere():
    linked = {(document.path.parent / link).resolve() for document in DOCUMENTS for link in document.links}
    assert set((ROOT / "docs" / "images").iterdir()) <= linked


def test_every_document_can_be_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        reached.add(path)
        for link in Document(path).links:
            target = (path.parent / link.partition("#")[0]).resolve()
            if not link.startswith(NO_HOSTS) and target.suffix == ".md" and target not in reached:
                ahead.append(target)
    assert {document.path for document in DOCUMENTS} <= reached


# Settings


def settings_rows(document: Document) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The rows of the tables of settings: names to the other cells."""
    rows = {}
    for table in document.tables:
        if table.head[:2] == ("variable", "default"):
            for names, *others in table.rows:
                rows[tuple(re.findall(r"`(\w+)`", names))] = tuple(others)
    return rows


def shown(default: str) -> str:
    """A default as the tables write it: code, unless it is described in words or there is none."""
    return "" if default == UNSET else default if "'" in default else f"`{default}`"


def test_the_table_of_settings_names_every_setting_with_its_default_and_no_other():
    defaults = {names: cells[0] for names, cells in settings_rows(document("docs/settings.md")).items()}
    assert defaults == {variable.names: shown(variable.default) for variable in variables()}


def test_the_readmes_settings_are_some_of_them():
    defaults = {name: shown(variable.default) for variable in variables() for name in variable.names}
    rows = settings_rows(document("README.md"))
    assert len(rows) > 5
    for names, (default, *_) in rows.items():
        assert {defaults.get(name) for name in names} == {default}, names


def test_the_table_of_settings_has_the_bounds_that_are_checked():
    cells = {names: accepts for names, (_, accepts, _) in settings_rows(document("docs/settings.md")).items()}
    bounded = 0
    for variable, field in zip(variables(), Settings.model_fields.values(), strict=True):
        for limit in field.metadata:
            if isinstance(limit, annotated_types.Ge | annotated_types.Le):
                number = limit.ge if isinstance(limit, annotated_types.Ge) else limit.le
                assert re.search(rf"\b{number:g}\b|\b{number}\b", cells[variable.names]), (variable.names, number)
                bounded += 1
    assert bounded > 10


@every_document
def test_no_variable_of_ours_is_named_that_is_not_read(document: Document):
    named = re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", document.path.read_text())
    assert set(named) <= set(NAMES)


# Reasons


def test_every_reason_is_explained_and_no_other():
    headings = re.findall(r"^### `(\w+)`$", "\n".join(document("docs/troubleshooting.md").prose), re.MULTILINE)
    assert sorted(headings) == sorted(map(str, Reason))


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_a_reason_is_documented_with_what_the_annotator_sees_why_and_what_to_do(reason):
    section = document("docs/troubleshooting.md").section(f"`{reason}`")
    answers = re.findall(r"^- \*\*(\w+):\*\* (.+)$", section, re.MULTILINE)
    assert [word for word, _ in answers] == ["Annotator", "Why", "Do"]
    assert all(len(text) > 5 for _, text in answers)


@every_document
def test_tables_of_reasons_name_none_that_does_not_exist(document: Document):
    for table in document.tables:
        if table.head[0] == "reason":
            named = [word for row in table.rows for word in re.findall(r"`(\w+)`", row[0])]
            assert named
            assert set(named) <= set(map(str, Reason))


# Modules and code


def inside(folder: Path) -> set[str]:
    """The modules and folders of one folder; folders end in a slash."""
    files = {path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")}
    return files | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


def test_the_architecture_names_every_folder_of_both_packages():
    backend, model = (table for table in document("docs/architecture.md").tables if table.head[0] == "folder")
    for package, table in (("backend", backend), ("model", model)):
        folders = {word for row in table.rows for word in re.findall(r"`([\w/]+/)`", row[0])} - {f"{package}/"}
        assert folders == {name for name in inside(ROOT / package) if name.endswith("/")}


def test_the_architecture_names_every_module_of_the_backend_in_its_folder_and_no_other():
    backend, _ = (table for table in document("docs/architecture.md").tables if table.head[0] == "folder")
    for name, _, modules in backend.rows:
        folder = ROOT / "backend" / name.strip("`").removeprefix("backend/")
        there = {name for name in inside(folder) if folder.name != "backend" or not name.endswith("/")}
        below = {name for sub in there if sub.endswith("/") for name in inside(folder / sub)}
        assert set(re.findall(r"`([\w/]+)`", modules)) - below == there, name


@every_document
def test_paths_in_the_text_exist(document: Document):
    for word in document.words_in_code:
        if re.fullmatch(r"(backend|model|tests|docs)/[\w./*-]+", word):
            assert list(ROOT.glob(word)), f"{document.name}: {word}"


@every_document
def test_python_in_the_text_imports_what_exists(document: Document):
    for block in document.blocks:
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module or "")
                    assert all(hasattr(module, alias.name) for alias in node.names), f"{document.name}:{block.line}"


@every_document
def test_json_and_yaml_in_the_text_parse(document: Document):
    for block in document.blocks:
        if block.language == "json":
            assert json.loads(block.text)
        if block.language == "yaml":
            assert yaml.safe_load(block.text)


@every_document
def test_every_block_of_code_says_what_it_is(document: Document):
    known = {"console", "xml", "python", "json", "yaml", ""}
    assert {block.language for block in document.blocks} <= known
    for block in document.blocks:
        assert block.language or not re.search(r"^\$ ", block.text, re.MULTILINE), f"{document.name}:{block.line}"


@every_document
def test_nothing_in_the_text_is_a_path_of_a_private_machine(document: Document):
    assert not re.search(r"(?<![\w/])/(work|opt|root|home/\w+)/", document.path.read_text())
