"""Every folder imports only from itself and the folders before it; libraries with one place stay there."""

import ast
from functools import cache

import pytest

from tests.support.source import ROOT, tree

BACKEND = (
    "",
    "concurrency",
    "network",
    "protocol",
    "labeling",
    "label_studio",
    "images",
    "embeddings",
    "cluster",
    "decoders",
    "segmentation",
    "web",
    "composition",
    "projects",
    "demo",
    "cli",
)
"""The folders of ``backend`` in the order in which data flows; ``""`` is the package itself."""

MODEL = (
    ("types", "config", "errors", "transforms", "machine", "folders", "tls", "quiet", "device", "colours", "overlay"),
    ("coco", "images", "modeling", "weights", "detection", "encoder", "decoder", "build"),
    ("automatic", "paddlex", "finetuning"),
    ("cli",),
)
"""The modules and folders of ``model``: each row imports from itself and the rows before it."""

ENTRY_POINTS = ("backend.__main__", "backend.label_studio_ml", "model", "model.__main__")
"""Modules of a package itself that name or start what lies in its folders."""

TRAINING = "demo_training"

ALLOWED = {
    # library: the modules or folders that may import it
    "paddle": ("model", "demo_training.detector.export"),
    "tokenizers": ("model.detection.tokenizers", "demo_training.detector.tokens"),
    "torch": (TRAINING,),
    "segment_anything": (TRAINING,),
    "transformers": (),
    "flask": ("backend.web", "backend.composition.web"),
    "werkzeug": ("backend.web.error_answers", "backend.web.request_body"),
    "waitress": ("backend.web",),
    "gunicorn": ("backend.web.gunicorn_server",),
    "redis": ("backend.cluster", "backend.settings_fields"),
    "rq": ("backend.cluster.queues",),
    "prometheus_client": ("backend.metrics",),
    "defusedxml": ("backend.labeling.config_xml",),
    "httpcore": ("backend.network", "backend.label_studio.http", "backend.images"),
    "label_studio_sdk": (),
    "label_studio_ml": ("backend.label_studio_ml",),
    "pickle": (),  # loading one runs code
    "marshal": (),
    "shelve": (),
}

ENVIRONMENT = (
    "backend.cli.commands",
    "backend.cli.demo",
    "backend.demo.processes",
    "backend.label_studio_ml",
    "backend.web.gunicorn_server",
)
"""Entry points, which read the environment and pass it on; and MKL's own switch, which only the environment can set."""

MOST_FILES = 16
"""In one folder, without its ``__init__``: more is no list that a reader takes in."""


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("model", "backend", TRAINING)
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""The file of every module of the product, and of the demo model's training, by its dotted name."""

PACKAGES = {name for name in MODULES if any(other.startswith(f"{name}.") for other in MODULES)}


@cache
def imports(name: str) -> tuple[str, ...]:
    """The dotted names that a module imports anywhere, functions included; imports for types alone count too."""
    names = []
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} line {node.lineno}: expected absolute imports"
            wholes = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [whole if whole in MODULES else str(node.module) for whole in wholes]
    return tuple(names)


def rank(name: str) -> int:
    """The place of a module's folder in the order of its package."""
    package, *rest = name.split(".")
    if package == "backend":
        is_in_folder = len(rest) > 1 or name in PACKAGES
        return BACKEND.index(rest[0] if rest and is_in_folder else "")
    return next((row for row, names in enumerate(MODEL) if rest and rest[0] in names), 0)


def test_every_module_of_the_model_has_a_row():
    known = {name for row in MODEL for name in row} | {"__main__", "demo"}
    assert {name.split(".")[1] for name in MODULES if name.startswith("model.")} <= known


def test_every_folder_of_the_backend_is_in_the_order():
    assert {name.split(".")[1] for name in MODULES if name in PACKAGES and name.startswith("backend.")} <= {*BACKEND}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(TRAINING)])
def test_a_module_imports_only_from_its_own_folder_and_those_before(name):
    others = [other for other in imports(name) if other in MODULES and other.split(".")[0] == name.split(".")[0]]
    assert name in ENTRY_POINTS or [other for other in others if rank(other) > rank(name)] == []


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_folder_says_in_a_line_what_it_is_for_and_holds_no_more_than_a_reader_takes_in(name):
    docstring = ast.get_docstring(tree(MODULES[name]))
    assert docstring
    assert docstring.splitlines()[0].endswith(".")
    inside = [other for other in MODULES if other.rpartition(".")[0] == name and other not in PACKAGES]
    assert len(inside) <= MOST_FILES


def test_the_model_knows_nothing_of_the_backend():
    guilty = [
        name for name in MODULES if name.startswith("model") for other in imports(name) if other.startswith("backend")
    ]
    assert guilty == []


def test_the_product_does_not_need_the_demo_models_training():
    guilty = {
        (name, other)
        for name in MODULES
        if not name.startswith(TRAINING)
        for other in imports(name)
        if other.startswith(TRAINING)
    }
    assert guilty == set()


def test_no_two_modules_import_each_other_even_by_way_of_others():
    graph = {name: {other for other in imports(name) if other in MODULES and other != name} for name in MODULES}
    for package in PACKAGES:
        graph.pop(package)  # a package may name what lies within
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_is_imported_only_in_its_place(library):
    folders = ALLOWED[library]
    guilty = [
        name
        for name in MODULES
        if any(other == library or other.startswith(f"{library}.") for other in imports(name))
        and not any(name == folder or name.startswith(f"{folder}.") for folder in folders)
    ]
    assert guilty == []


def test_values_need_no_paddle_even_by_way_of_others():
    reached, ahead = set(), ["model.types", "model.config", "model.transforms", "model.errors"]
    ahead += [name for name in MODULES if name.startswith(("model.automatic", "model.coco"))]
    while ahead:
        name = ahead.pop()
        reached.add(name)
        ahead += [other for other in imports(name) if other in MODULES and other not in reached]
    assert not any(other.split(".")[0] == "paddle" for name in reached for other in imports(name))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("backend")])
def test_the_environment_is_read_at_the_entry_points_alone(name):
    reads = [
        node.lineno
        for node in ast.walk(tree(MODULES[name]))
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert not reads or name in ENVIRONMENT, f"{name} lines {reads}"
