"""The start that label-studio-ml's users know: ``gunicorn _wsgi:app``, with ``--preload`` too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint
from tests.support.processes import Server, environment, free_port
from tests.support.raw_http import exchange
from tests.support.service import wait_until

ROOT = Path(__file__).parents[2]
CHUNKED = b"POST /setup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


OURS = ("--worker-class", "backend.web.gunicorn_server.WebWorker")


@pytest.mark.parametrize("worker_class", [
    pytest.param((), id="its own threads", marks=pytest.mark.slow), pytest.param(OURS, id="our worker"),
    pytest.param((*OURS, "--preload"), id="our worker, preloaded", marks=pytest.mark.slow),
])  # fmt: skip
def test_gunicorn_serves_it_and_ends_well(tmp_path, worker_class):
    weights = native.write(random_checkpoint(), tmp_path / "small.safetensors")
    port, log = free_port(), tmp_path / "log"
    own = environment(PADDLE_SAM_WEIGHTS=str(weights), PADDLE_SAM_CACHE_DIR=str(tmp_path / "cache"))
    command = ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "40", "--timeout", "0", *worker_class]
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, *command, "_wsgi:app"], cwd=ROOT, env=own, stdout=sink, stderr=sink)
    server = Server(process, port, log)
    try:
        wait_until(server.is_up, 60)
        assert exchange(port, CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert server.stop(signal.SIGTERM) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    assert "Traceback" not in server.log


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
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert completed.returncode == 0, completed.stderr
