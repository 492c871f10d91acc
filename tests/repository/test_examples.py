"""Runs the examples (``>>>``) in the docstrings of every module of ``backend`` and ``model``."""

import doctest
import importlib
import pkgutil

import pytest

import backend
import model

MODULES = tuple(
    module.name
    for package in (backend, model)
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}.")
)


@pytest.mark.parametrize("name", ["backend", "model", *MODULES])
def test_examples_print_what_the_docstrings_show(name: str) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for docstring in doctest.DocTestFinder().find(importlib.import_module(name), name):
        runner.run(docstring, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", ["backend.protocol.rle", "model.transforms"])
def test_examples_are_found_in_functions(name: str) -> None:
    docstrings = doctest.DocTestFinder().find(importlib.import_module(name), name)
    assert any(docstring.examples for docstring in docstrings)
