"""Runs a few lines of Python where label-studio-sdk is installed, which is not where these tests run.

The environment variable ``LABEL_STUDIO_PYTHON`` names the interpreter of a virtual environment that holds it (Label
Studio's own does); without it, this interpreter is tried.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache

import pytest


@lru_cache(maxsize=1)
def interpreter() -> str | None:
    for candidate in (os.environ.get("LABEL_STUDIO_PYTHON"), sys.executable):
        if (
            candidate
            and not subprocess.run([candidate, "-c", "import label_studio_sdk"], capture_output=True).returncode
        ):
            return candidate
    return None


def run(script: str, question: object) -> object:
    """Return what ``script`` leaves in ``answer``, given ``question``; both travel as JSON."""
    python = interpreter()
    if python is None:
        pytest.skip("set LABEL_STUDIO_PYTHON to an interpreter that has label-studio-sdk")
    program = f"import json, sys\nquestion = json.load(sys.stdin)\n{script}\nprint('\\n' + json.dumps(answer))"
    completed = subprocess.run([python, "-c", program], input=json.dumps(question), capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-2000:]
    return json.loads(completed.stdout.splitlines()[-1])
