"""The source of the product and of its tests, parsed once in a process."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text())


@cache
def trees(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of the modules below some folders, by their paths."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): tree(path) for path in paths}
