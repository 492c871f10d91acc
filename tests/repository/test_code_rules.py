"""What holds for all code: sizes of files, classes and functions; tests that use public names and no other test."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.source import ROOT, trees

MOST_METHODS = 15
MOST_ARGUMENTS = 7
"""Of a constructor; the fields of a dataclass are its values and not counted."""

MOST_LINES_OF_A_FUNCTION = 50

MOST_LINES_OF_THE_BACKEND = 23_851
"""The goal is 14,800. Lower it with every change that makes the package smaller."""

NETWORKS = ("model.modeling",)
"""Packages of networks, whose constructors and passes are as long as the diagram of the paper."""

TOO_LARGE: set[str] = set()
"""Classes and functions that are still larger; only ever shorten this list."""

USES_PRIVATE_NAMES: set[str] = set()
"""Tests that still do; only ever shorten this list."""

USES_OTHER_TESTS: set[str] = set()
"""Tests that still do; only ever shorten this list."""

OF_OTHERS = {"_Pickler", "_exit", "_bb_feat_sizes", "_features", "_transforms"}
"""Private names of Python and of Meta's SAM 2, which have no public ones."""


PRODUCT = ("backend", "model")


# Sizes


def too_large(module: str, tree: ast.Module) -> Iterator[str]:
    """The dotted names of the classes and functions of a module that are larger than they may be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            constructors = [each.args for each in methods if each.name == "__init__"]
            if len(methods) > MOST_METHODS or any(
                len(a.args) - 1 + len(a.kwonlyargs) > MOST_ARGUMENTS for a in constructors
            ):
                yield f"{module}.{node.name}"
        elif isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                yield f"{module}.{node.name}"


def test_classes_constructors_and_functions_are_small():
    names = set()
    for path, tree in trees(*PRODUCT).items():
        module = path.removesuffix(".py").replace("/", ".")
        if not module.startswith(NETWORKS):
            names |= set(too_large(module, tree))
    assert names - TOO_LARGE == set()


def test_a_class_of_16_methods_is_too_large():
    methods = "\n".join(f"    def m{number}(self): ..." for number in range(16))
    assert list(too_large("m", ast.parse(f"class C:\n{methods}"))) == ["m.C"]


def test_the_backend_grows_no_more():
    lines = sum(len((ROOT / path).read_text().splitlines()) for path in trees("backend"))
    assert lines <= MOST_LINES_OF_THE_BACKEND


# Tests


def private_names(tree: ast.Module) -> Iterator[str]:
    """The private names of other modules that one uses, in the scripts that it runs too."""
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node.value)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            yield from {node.attr} - own if is_private(node.attr) else ()
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "patch")):
            words = [word.value for word in node.args if isinstance(word, ast.Constant)]
            yield from (word for word in words if isinstance(word, str) and is_private(word.rpartition(".")[2]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            yield from script_names(node.value)


def script_names(text: str) -> Iterator[str]:
    try:
        yield from private_names(ast.parse(text))
    except SyntaxError:
        return  # prose


def is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_OTHERS


@pytest.mark.parametrize(
    "text",
    [
        "a.NAME",
        "super().NAME",
        "from m import NAME",
        "monkeypatch.setattr(m, 'NAME', 1)",
        "patch('m.NAME')",
        "run('import m; m.NAME')",
    ],
)
def test_a_private_name_is_seen_wherever_it_is_used(text):
    assert list(private_names(ast.parse(text.replace("NAME", "_name")))) != []
    assert list(private_names(ast.parse(text))) == []


def test_tests_use_no_private_names():
    names_by_path = {path: sorted(set(private_names(tree))) for path, tree in trees("tests").items()}
    assert {path: names for path, names in names_by_path.items() if names and path not in USES_PRIVATE_NAMES} == {}


def test_no_test_imports_from_another_test():
    """Helpers lie in tests/support, the fixtures of a folder in its conftest."""
    paths = {
        path
        for path, tree in trees("tests").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).rpartition(".")[2].startswith("test_")
    }
    assert paths - USES_OTHER_TESTS == set()


# Benchmarks


def test_benchmarks_have_torch_in_a_process_of_its_own():
    """In one process the OpenMP libraries of torch and Paddle slow each other down; see ``tests.benchmarks.engine``."""
    at_fault = set()
    for path, tree in trees("tests/benchmarks").items():
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        uses_torch = any(name.partition(".")[0] == "torch" or name == "meta_predictor" for name in names)
        if uses_torch and path.rpartition("/")[2].startswith("bench_"):
            at_fault.add(path)
    assert at_fault == set()
