"""Starts this backend and a Label Studio with a project in which a click shows a mask.

All data is in one folder. The next start continues an interrupted one, and keeps the annotations. Both programs listen
on this machine only, and neither connects to another machine, except to download weights.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backend.demo import environment, processes, programs
from backend.demo.environment import InstallError
from backend.demo.programs import Login
from backend.demo.project import WITH_REAL_WEIGHTS, labeling_config, prepare
from backend.errors import AccessError, BackendError
from backend.label_studio.http import LabelStudioHttp
from backend.types import Secret
from model.demo import DETECTOR

BACKEND_PORT = 9090
LABEL_STUDIO_PORT = 8080
API_TIMEOUT_S = 120.0
REQUIREMENTS = Path(__file__).with_name("requirements-label-studio.txt")
REAL, DEMO_MODEL = "mobile_sam", "demo"
WATCH_S = 1.0
IMAGES = (".jpg", ".jpeg", ".png", ".webp")

WEIGHTS, MODEL_DIR, FINDER = "PADDLE_SAM_WEIGHTS", "MODEL_DIR", "PADDLE_SAM_DETECTOR"


@dataclass(frozen=True)
class Demo:
    """The demo's folders, ports and commands."""

    folder: Path  # where its data, logs and login are kept
    # the interpreter of the environment in which Label Studio is installed; None makes one in ``folder``
    label_studio_python: Path | None
    samples: Path
    backend_port: int | None = None  # the backend's port; None takes 9090 or the next free one
    label_studio_port: int | None = None  # Label Studio's port; None takes 8080 or the next free one
    weights: str | None = None  # a model's name or a path; None for what the environment says
    serve: tuple[str, ...] = (sys.executable, "-m", "backend", "serve")

    @property
    def data(self) -> Path:
        """Label Studio's data folder."""
        return self.folder / "label-studio"

    @property
    def complete(self) -> Path:
        """The file that marks Label Studio's folder as set up completely."""
        return self.folder / "label-studio.complete"

    @property
    def with_real_weights(self) -> str:
        """The command that starts the demo with real weights."""
        return f"paddle-sam-backend demo --weights {REAL}" if self.label_studio_python is None else WITH_REAL_WEIGHTS


def run(demo: Demo, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Start both programs, prepare the project, print its address, and wait for Ctrl-C, which stops both.

    Raises:
        DemoError: a program cannot be started, or ended by itself; both are stopped.
    """
    images = _images(demo)
    environ = environ_of(demo, environ)
    with processes.stopped_by_signals(), processes.only_one(demo.folder / "lock") as lock, ExitStack() as stack:
        try:
            _have_weights(environ)
            python = demo.label_studio_python or _label_studio(demo.folder / "environment", say)
            login = programs.read_login(demo.folder / "login.json")
            port = processes.choose_port(demo.backend_port, BACKEND_PORT, "the backend", "--port", say)
            studio_port = processes.choose_port(
                demo.label_studio_port, LABEL_STUDIO_PORT, "Label Studio", "--label-studio-port", say
            )
            backend_environ = programs.backend_environ(environ, login, port, studio_port, demo.folder)
            backend = programs.backend(demo.serve, backend_environ, port, demo.folder)
            studio_environ = programs.label_studio_environ(environ, login, demo.data)
            label_studio = programs.label_studio(python, studio_environ, studio_port, _data_folder(demo))
            about = "" if demo.complete.exists() else "; about a minute"
            say(f"Starting Label Studio and the backend{about} ...")
            running: list[processes.Running] = []
            for program in (label_studio, backend):
                running.append(processes.start(program, keep_open=lock))
                stack.callback(running[-1].stop)
            processes.note(lock, "processes " + ", ".join(str(program.pid) for program in running))
            processes.wait_until_ready(running, say)
            config = labeling_config(demo.with_real_weights, has_words=environ.get(FINDER) == DETECTOR)
            project = _prepare(demo, login, images, label_studio, backend.url, config)
            say(_welcome(demo, login, f"{label_studio.url}/projects/{project}/data", environ))
            _watch(running)
        except KeyboardInterrupt:
            say("Stopping ...")


def _label_studio(folder: Path, say: Callable[[str], None]) -> Path:
    """Return the interpreter of an environment with Label Studio, which is made unless it is complete."""
    stamp = folder / "stamp"
    if not environment.is_complete(stamp, REQUIREMENTS):
        try:
            arguments = ("--use-pep517", "-r", str(REQUIREMENTS))
            environment.install(stamp, arguments, say, text=REQUIREMENTS.read_bytes())
        except InstallError as error:
            raise processes.DemoError(str(error)) from error
    return environment.python_of(folder)


def environ_of(demo: Demo, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment with the demo's weights, and its detector beside the demo model where none is named."""
    if demo.weights is not None:
        environ = {**environ, WEIGHTS: demo.weights}
    return {FINDER: DETECTOR, **environ} if _is_demo_model(environ) else environ


def _is_demo_model(environ: Mapping[str, str]) -> bool:
    return environ.get(WEIGHTS, "").strip() in ("", DEMO_MODEL)


def _have_weights(environ: Mapping[str, str]) -> None:
    """Download the weights here, where the progress is seen and waited for, if the backend would have to."""
    if not environ.get(WEIGHTS, "").strip():
        return
    from backend import settings
    from backend.composition import parts  # here: --help must not wait for it

    try:
        parts.read_weights(settings.read({name: environ[name] for name in (WEIGHTS, MODEL_DIR) if name in environ}))
    except (ValueError, OSError) as error:
        raise processes.DemoError(str(error)) from error


def _images(demo: Demo) -> list[Path]:
    if not demo.samples.is_dir():
        raise processes.DemoError(f"There is no folder {demo.samples} with images to label.")
    images = sorted(path for path in demo.samples.iterdir() if path.suffix.lower() in IMAGES)
    if not images:
        raise processes.DemoError(f"There are no images to label in {demo.samples}; expected {', '.join(IMAGES)}.")
    return images


def _data_folder(demo: Demo) -> Path:
    """Return Label Studio's folder, emptied if its first start was not completed."""
    if not demo.complete.exists():
        shutil.rmtree(demo.data, ignore_errors=True)
    demo.data.mkdir(parents=True, exist_ok=True)
    return demo.data


def _prepare(
    demo: Demo, login: Login, images: Sequence[Path], label_studio: processes.Program, backend_url: str, config: str
) -> int:
    http = LabelStudioHttp(label_studio.url, Secret(login.token), timeout_s=API_TIMEOUT_S)
    try:
        http.get("/api/current-user/whoami", msgspec.Raw)
        demo.complete.touch()
        return prepare(http, images, backend_url, config)
    except AccessError as error:
        text = f"Label Studio does not accept the demo's own token. Remove {demo.folder} to start over."
        raise processes.DemoError(text) from error
    except BackendError as error:
        raise processes.DemoError(str(error)) from error
    finally:
        http.close()


def _welcome(demo: Demo, login: Login, url: str, environ: Mapping[str, str]) -> str:
    about_weights = f"""
  On photographs draw a rectangle (the same tool, one click further). This small model is for trying things out; real
  weights, 41 MB to download:  {demo.with_real_weights}"""
    return f"""
  Open        {url}
  Log in as   {login.username}
  Password    {login.password}

  Open an image and switch on Auto-Annotation at the bottom. Click the lowest tool at the right, the purple one, until
  it shows three dots. Then click an object; Alt+click takes away. The tick accepts the mask, Submit keeps it.
  Without the tick a mask is lost, without a message: at Submit, at a click with another label, on leaving the task.\
{about_weights if _is_demo_model(environ) else ""}
  All of it is kept in {demo.folder}. Ctrl-C here stops everything.
"""


def _watch(running: Sequence[processes.Running]) -> None:
    while True:
        for program in running:
            program.check_alive()
        time.sleep(WATCH_S)
