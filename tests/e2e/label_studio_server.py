"""The real demo as a process, and what the tests ask of its Label Studio through the API."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx

ROOT = Path(__file__).parents[2]


class Studio:
    """`python -m backend demo` with this backend and a real Label Studio, on ports and in a folder of its own."""

    def __init__(self, folder: Path, label_studio_python: Path, port: int, label_studio_port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{label_studio_port}"
        self.backend_url = f"http://127.0.0.1:{port}"
        self._arguments = [
            *(sys.executable, "-m", "backend", "demo", "--folder", str(folder)),
            *("--label-studio-python", str(label_studio_python)),
            *("--port", str(port), "--label-studio-port", str(label_studio_port)),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self) -> None:
        self.api = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._process = subprocess.Popen(
            self._arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        self.output = ""
        while "Password" not in self.output:
            line = self._process.stdout.readline()
            if not line:
                raise AssertionError(f"the demo ended with exit status {self._process.wait()}:\n{self.output}")
            self.output += line
        login = json.loads((self.folder / "login.json").read_text())
        self.username, self.password, self.token = login["username"], login["password"], login["token"]
        self.api.headers["Authorization"] = f"Token {self.token}"

    def stop(self) -> int:
        """Stop it as Ctrl-C does, but with SIGTERM: what a script starts in the background ignores SIGINT, and so do
        the processes it starts. Return the exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        self.api.close()
        process.terminate()
        try:
            self.output += process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode

    def invitation(self) -> str:
        """Return the address where another person makes an account."""
        address = urlsplit(self._json("GET", "/api/invite")["invite_url"])
        return f"{self.url}{address.path}?{address.query}"

    def project(self, label_config: str, backend: bool = True) -> int:
        """Create a project with this labeling config, connected to the backend."""
        created = self._json("POST", "/api/projects/", json={"title": "A test", "label_config": label_config})
        if backend:
            body = {"project": created["id"], "title": "SAM", "url": self.backend_url, "is_interactive": True}
            self._json("POST", "/api/ml", json=body)
        return created["id"]

    def task(self, project: int, name: str, data: bytes) -> int:
        """Upload an image; return its task."""
        self._json("POST", f"/api/projects/{project}/import", files={"file": (name, data)})
        return max(task["id"] for task in self.tasks(project))

    def upload(self, project: int, files: dict[str, bytes], **params: str) -> dict[str, int]:
        """Upload images in one request; return their tasks by the images' names, listed with these parameters."""
        uploads = {name: (name, data) for name, data in files.items()}
        self._json("POST", f"/api/projects/{project}/import", files=uploads)
        listed = self._json("GET", "/api/tasks", params={"project": project, "page_size": 1000, **params})
        tasks = listed["tasks"]
        return {task["data"]["image"].rpartition("-")[2]: task["id"] for task in tasks}

    def uploaded(self, project: int, name: str, data: bytes) -> str:
        """Upload an image without making a task of it; return its address."""
        path = f"/api/projects/{project}/import?commit_to_project=false"
        (number,) = self._json("POST", path, files={"file": (name, data)})["file_upload_ids"]
        return "/data/" + self._json("GET", f"/api/import/file-upload/{number}")["file"]

    def task_of(self, project: int, data: dict) -> int:
        """Create a task with this data; return it."""
        return self._json("POST", "/api/tasks", json={"project": project, "data": data})["id"]

    def tasks(self, project: int) -> list[dict]:
        params = {"project": project, "fields": "all", "page_size": 1000}
        return self._json("GET", "/api/tasks", params=params)["tasks"]

    def stored(self, task: int) -> list[dict]:
        """Return the regions of the only annotation of a task."""
        (annotation,) = self._json("GET", f"/api/tasks/{task}/annotations")
        return annotation["result"]

    def post(self, path: str, body: dict) -> dict:
        """Create something; return it."""
        return self._json("POST", path, json=body)

    def patch(self, path: str, body: dict) -> dict:
        """Change something; return it."""
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """Delete something."""
        response = self.api.delete(path)
        assert response.is_success, f"DELETE {path}: {response.status_code} {response.text[:500]}"

    def predictions(self, task: int) -> list[dict]:
        """Return the predictions of a task."""
        return self._json("GET", "/api/predictions/", params={"task": task})

    def counts(self, project: int) -> dict[str, int]:
        """Return how many predictions of each model version a project holds."""
        return self._json("GET", f"/api/projects/{project}/model-versions/")

    def _json(self, method: str, path: str, **request: object):
        response = self.api.request(method, path, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json()


def label_studio_python() -> Path | None:
    """Return the interpreter with Label Studio that the environment names or `make demo` installed, if there is one."""
    path = Path(os.environ.get("LABEL_STUDIO_PYTHON") or ROOT / ".venv-label-studio" / "bin" / "python")
    return path if os.access(path, os.X_OK) else None


def chromium_executable() -> Path | None:
    """Return the browser that the environment names or the system has, if there is one."""
    for path in filter(None, (os.environ.get("CHROMIUM"), "/usr/bin/chromium", "/usr/bin/google-chrome")):
        if os.access(path, os.X_OK):
            return Path(path)
    return None
