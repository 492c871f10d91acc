"""Whether this Label Studio reaches a backend on a private address with its defaults, as README's step 3 says."""

import json
import os
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

from backend.demo.processes import Program, free_port, start, wait_until_ready
from backend.demo.programs import Login, label_studio_environ
from tests.support.fakes import HttpServer, Reply

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

LOGIN = Login("demo@example.com", "a password", "0123456789abcdef0123456789abcdef01234567")
LIFTED = "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"
PROTECTS_FROM = (1, 23, 1)
CONFIG = (
    '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image" smart="true">'
    '<Label value="Cat"/></KeyPointLabels><BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>'
    "</View>"
)


@contextmanager
def label_studio_at(python, folder, port, *, is_lifted):
    """A client of a Label Studio that keeps its data in a folder, with its protection or without."""
    folder.mkdir(exist_ok=True)
    environ = label_studio_environ(os.environ, LOGIN, folder)
    if not is_lifted:
        del environ[LIFTED]
    options = ("--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--enable-legacy-api-token")
    command = (str(python), "-m", "label_studio.server", "start", *options)
    url = f"http://127.0.0.1:{port}"
    running = start(Program("Label Studio", command, environ, folder, folder / "log", f"{url}/health", 900.0))
    try:
        wait_until_ready([running], lambda line: None)
        headers = {"Authorization": f"Token {LOGIN.token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as client:
            yield client
    finally:
        running.stop()


@pytest.fixture
def backend():
    """A backend that is up and answers clicks with nothing."""
    with HttpServer() as server:
        up, empty = b'{"status": "UP", "model_version": "small@1"}', b'{"results": [{"result": []}]}'
        for path, body in (("/health", up), ("/setup", up), ("/predict", empty), ("/webhook", b"{}")):
            server.routes[path] = Reply(body, headers={"Content-Type": "application/json"})
        yield server


def connect(client, backend):
    """Connect a new project to the backend; return the answer's status and the project."""
    project = client.post("/api/projects/", json={"title": "A test", "label_config": CONFIG}).json()["id"]
    body = {"project": project, "title": "SAM", "url": f"http://127.0.0.1:{backend.port}", "is_interactive": True}
    return client.post("/api/ml", json=body).status_code, project


def click(client, backend, project, task):
    """Click as the editor does; return whether that reached the backend."""
    (connection,) = client.get("/api/ml", params={"project": project}).json()
    before = backend.paths().count("/predict")
    context = {"result": [{"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["Cat"]}}]}
    client.post(f"/api/ml/{connection['id']}/interactive-annotating", json={"task": task, "context": context})
    time.sleep(0.5)
    return backend.paths().count("/predict") > before


def test_from_which_release_on_a_local_backend_is_refused_and_falls_silent(label_studio, tmp_path, backend):
    release = subprocess.check_output(
        [label_studio, "-c", "import importlib.metadata as m; print(m.version('label-studio'))"], text=True
    ).strip()
    protects = tuple(map(int, release.split("."))) >= PROTECTS_FROM
    port = free_port(20000 + os.getpid() % 20000, "a test")
    with label_studio_at(label_studio, tmp_path / "data", port, is_lifted=True) as client:
        status, project = connect(client, backend)
        assert status == 201
        task = client.post("/api/tasks", json={"project": project, "data": {"image": "http://x/a.png"}}).json()["id"]
        assert click(client, backend, project, task)
    with label_studio_at(label_studio, tmp_path / "data", port, is_lifted=False) as client:
        observed = {"connects": connect(client, backend)[0] == 201, "clicks": click(client, backend, project, task)}
        print(json.dumps({"release": release, **observed}))
    assert observed == {"connects": not protects, "clicks": not protects}
