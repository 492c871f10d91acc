"""In the real label-studio-ml, the answers are those of our own service."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.label_studio_ml_hosts import REQUESTS, without_versions
from tests.support.service import VERSION

PYTHON = os.environ.get("LABEL_STUDIO_ML_PYTHON") or (find_spec("label_studio_ml") and sys.executable)


@pytest.mark.reference
@pytest.mark.skipif(
    not PYTHON,
    reason="LABEL_STUDIO_ML_PYTHON names no interpreter with label-studio-ml and this project's requirements",
)
def test_the_real_server_answers_recorded_requests_as_ours_does(tmp_path):
    completed = subprocess.run(
        [PYTHON, "-W", "ignore", "-m", "tests.reference.hosting"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,  # 2.x writes a database where it stands
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    report = json.loads(completed.stdout.splitlines()[-1])
    assert set(report["answers"]) == set(REQUESTS)
    for version, expected, answer in report["answers"].values():
        assert version == ("INITIAL" if report["release"] == 1 else VERSION)
        assert answer == (without_versions(expected) if report["release"] == 1 else expected)
    assert report["webhook"] == 201
