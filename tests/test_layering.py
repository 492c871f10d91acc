"""Every module imports only from its own row of the house and the rows above; heavy libraries have one place each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROWS = [
    "model.types model.config model.transforms model.errors",
    "model.*",
    "backend backend.errors backend.shapes backend.controls backend.types backend.setting_types backend.settings "
    "backend.logs backend.signals",
    "backend.json_fields backend.protocol_context backend.protocol_saved backend.protocol backend.label_config "
    "backend.task_images backend.rle backend.bitmask backend.outlines backend.marks backend.prompts "
    "backend.saved_prompts backend.coco_prompts backend.regions backend.embedding_bytes",
    "backend.addresses backend.locations backend.images backend.image_source backend.contents backend.tokens "
    "backend.label_studio_types backend.label_studio_http backend.label_studio backend.patience backend.pipeline "
    "backend.chunks backend.progress backend.tally backend.task_selection backend.bodies "
    "backend.project_tasks backend.prediction_writer backend.store backend.metrics",
    "backend.encoding backend.content_journal backend.encode_queue backend.direct_embeddings backend.ahead "
    "backend.waiting backend.fetchers backend.embeddings backend.redis_keys backend.redis_link backend.redis_store "
    "backend.lease backend.shared_contents backend.shared_embeddings backend.jobs backend.cluster "
    "backend.yielding_source backend.encode_job "
    "backend.listener backend.queued_embeddings",
    "backend.clicks backend.turns backend.errands backend.loading_decoder backend.drawing backend.task_objects "
    "backend.task_segmenter backend.claims backend.retrieval backend.pushing backend.segmenter backend.precompute "
    "backend.preannotate backend.overlays backend.deliveries",
    "backend.figures backend.answers backend.status backend.remedies backend.pictures backend.snapshot backend.app "
    "backend.http_requests backend.http_connection backend.http_server backend.worker",
    "backend.redis_parts backend.bootstrap backend.label_studio_ml backend.batch_parts",
    "backend.settings_help backend.health backend.server backend.doctor backend.redis_doctor backend.demo_processes "
    "backend.demo_project backend.demo backend.commands backend.batch_options backend.batch_run "
    "backend.preannotate_choice backend.precompute_command backend.preannotate_command backend.preannotation "
    "backend.__main__",
]

TORCH_TO_TRAIN = (
    "model.demo.train",
    "model.demo.network",
    "model.demo.prompting",
    "model.demo.export",
    "model.demo.warm_start",
)

ALLOWED = {
    # library: the modules that may import it
    "paddle": ("model",),
    "torch": TORCH_TO_TRAIN,
    "segment_anything": TORCH_TO_TRAIN,
    "transformers": (),
    "flask": ("backend.app", "backend.bootstrap"),
    "werkzeug": ("backend.app",),
    "gunicorn": ("backend.server",),
    "waitress": ("backend.http_requests", "backend.http_connection", "backend.http_server"),
    "redis": (
        "backend.redis_link",
        "backend.listener",
        "backend.shared_contents",
        "backend.jobs",
        "backend.cluster",
        "backend.worker",
    ),
    "rq": ("backend.jobs", "backend.worker"),
    "prometheus_client": ("backend.metrics",),
    "defusedxml": ("backend.label_config",),
    "label_studio_sdk": ("backend.label_studio",),
    "label_studio_ml": ("backend.label_studio_ml",),
    "pydantic_settings": ("backend.settings",),
    "pickle": (),  # loading one runs code
    "marshal": (),
    "shelve": (),
}

ENVIRONMENT = (
    "backend.commands",
    "backend.demo",
    "backend.demo_processes",
    "backend.label_studio_ml",
    "backend.server",
)
"""Entry points, which read the environment and pass it on; and MKL's own switch, which only the environment can set."""


def modules() -> dict[str, ast.Module]:
    """Every module of the product by its dotted name."""
    found = {}
    for package in ("model", "backend"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere, functions included; imports for types alone count too."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} line {node.lineno}: expected absolute imports"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)


def row_of(name: str) -> int | None:
    exact = next((row for row, names in enumerate(ROWS) if name in names.split()), None)
    return 1 if exact is None and (name == "model" or name.startswith("model.")) else exact


def test_every_module_has_a_row():
    assert [name for name in MODULES if row_of(name) is None] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_own_row_and_those_above(name):
    row = row_of(name)
    below = [other for other in imports(name) if other in MODULES and row is not None and (row_of(other) or 0) > row]
    assert below == []


def test_the_model_knows_nothing_of_the_backend():
    guilty = [
        name for name in MODULES if name.startswith("model") for other in imports(name) if other.startswith("backend")
    ]
    assert guilty == []


def test_only_training_and_its_tools_reach_into_the_demo_package():
    guilty = {
        (name, other)
        for name in MODULES
        if not name.startswith("model.demo")
        for other in imports(name)
        if other.startswith("model.demo.")
    }
    assert guilty == set()


def test_no_two_modules_import_each_other_even_by_way_of_others():
    graph = {name: {other for other in imports(name) if other in MODULES and other != name} for name in MODULES}
    packages = {name for name in MODULES if any(other.startswith(f"{name}.") for other in MODULES)}
    for package in packages:
        graph.pop(package)  # a package's front door may name what lies within
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_is_imported_only_in_its_place(library):
    places = ALLOWED[library]
    guilty = [
        name
        for name in MODULES
        if any(other == library or other.startswith(f"{library}.") for other in imports(name))
        and not any(name == place or name.startswith(f"{place}.") for place in places)
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
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert not reads or name in ENVIRONMENT, f"{name} lines {reads}"
