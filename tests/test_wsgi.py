"""The start that label-studio-ml's users know: ``gunicorn _wsgi:app``, with ``--preload`` too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.weights import native
from tests.checkpoints import random_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("redis_url", ["", "redis://127.0.0.1:1/0"], ids=["embedded", "over Redis"])
def test_the_application_is_there_before_a_fork_without_paddle_a_thread_or_a_connection(tmp_path, redis_url):
    weights = native.write(random_checkpoint(), tmp_path / "small.safetensors")
    code = (
        "import sys, threading\n"
        "from _wsgi import app\n"
        "assert 'paddle' not in sys.modules\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert app.test_client().get('/health').json['status'] == 'UP'\n"
    )
    environ = {
        **os.environ,
        "PADDLE_SAM_WEIGHTS": str(weights),
        "PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"),
        "REDIS_URL": redis_url,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
