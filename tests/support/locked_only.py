"""``python -m model`` with the locked packages alone: ``python -m tests.support.locked_only LOCKED ARGUMENTS``.

LOCKED are the names of distributions, by comma. Modules of all others here, such as those of the tests, are missing.
"""

import importlib.metadata
import re
import runpy
import sys


class Missing:
    """An import hook before all others, for which these top-level modules are not installed."""

    def __init__(self, names):
        self._names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def modules_of(distribution):
    """Return the top-level modules that a distribution installed."""
    tops = {path.parts[0].removesuffix(".py") for path in distribution.files or ()}
    return {top for top in tops if top.isidentifier()}


def others(locked):
    """Return the top-level modules that are here and not of these distributions."""
    missing, there = set(), set()
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        (there if name in locked else missing).update(modules_of(distribution))
    return missing - there - set(sys.stdlib_module_names) - {"model", "backend", "tests"}


if __name__ == "__main__":
    hidden = others(set(sys.argv.pop(1).split(",")))
    sys.meta_path.insert(0, Missing(hidden))
    for loaded in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[loaded]
    sys.argv[0] = "model"
    runpy.run_module("model", run_name="__main__")
