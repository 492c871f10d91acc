"""The backend as a real process on a free port, for tests of what only a process has: ports, signals, exit codes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 120.0
PYTHON = sys.executable


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without any setting of the backend's, and with the given ones."""
    dropped = ("PADDLE_SAM_", "LABEL_STUDIO_", "BASIC_AUTH_", "GUNICORN_", "WEB_CONCURRENCY")
    names = {"HOST", "PORT", "WORKERS", "THREADS", "MODEL_DIR", "LOG_LEVEL", "DEVICE"}
    inherited = {
        name: value for name, value in os.environ.items() if name not in names and not name.startswith(dropped)
    }
    return inherited | {"PADDLE_SAM_DEVICE": "cpu"} | changes


def run(*arguments: str, timeout_s: float = START_S, **environ: str) -> subprocess.CompletedProcess:
    """Run ``python -m backend`` to its end."""
    command = [sys.executable, "-m", "backend", *arguments]
    return subprocess.run(
        command, env=environment(**environ), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )


def interruptible(command: Sequence[str], is_heard: bool = True) -> list[str]:
    """A command whose process hears Ctrl-C, or ignores it, also where the tests run in the background and ignore it.

    A ``preexec_fn`` would run after a fork, where a lock that another thread holds is never released.
    """
    handler = "SIG_DFL" if is_heard else "SIG_IGN"
    code = (
        f"import os, signal, sys; signal.signal(signal.SIGINT, signal.{handler}); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [PYTHON, "-c", code, *command]


@contextmanager
def commands(**environ: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """Yield what starts ``python -m backend`` with these settings; no process is left at the end of the block."""
    running: list[subprocess.Popen] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "backend", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        running.append(subprocess.Popen(command, env=environment(**environ), cwd=ROOT, text=True, **pipes))
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running ``python -m backend serve``."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def ask(self, path: str, body: bytes | None = None, timeout_s: float = 60.0, **headers: str) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return self.ask("/health", timeout_s=5)[0] == 200
        except OSError:
            return False


@contextmanager
def serving(folder: Path, command: tuple[str, ...] = (sys.executable, "-m", "backend"), **environ: str):
    """Serve on a free port of loopback until the block ends."""
    port, log = free_port(), folder / "server.log"
    command = (*command, "serve", "--host", "127.0.0.1", "--port", str(port))
    own = environment(
        PADDLE_SAM_CACHE_DIR=str(folder / "cache"), PADDLE_SAM_DECODERS_DIR=str(folder / "decoders"), **environ
    )
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=own, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True)
    server, pause = Server(process, port, log), threading.Event()
    try:
        for _ in range(int(START_S / 0.1)):
            if process.poll() is not None or server.is_up():
                break
            pause.wait(0.1)
        assert process.poll() is None, server.log
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
