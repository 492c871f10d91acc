"""Starts the demo's child processes with log files, waits until they answer, and stops their process groups."""

import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

LOCALHOST = "127.0.0.1"
PORTS_TRIED = 50
POLL_S = 0.25
PROGRESS_S = 8.0
LONGEST_PROGRESS = 90
STOP_S = 15.0
KILL_S = 1.0
TAIL_LINES = 25
TAIL_BYTES = 16_384


class DemoError(Exception):
    """The demo cannot continue; the message gives the cause and a remedy."""


@dataclass(frozen=True)
class Program:
    """A program to start, and how to check that it is ready."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    folder: Path | None  # the directory it runs in; None is the current one
    log: Path
    ready_url: str  # answers 2xx as soon as the program is ready
    timeout_s: float  # maximum time until it is ready

    @property
    def url(self) -> str:
        """Its address."""
        return self.ready_url.removesuffix("/health")


class Running:
    """A started program, the leader of its own process group."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self._process = process

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise a `DemoError`, which closes with the end of its log, if the program ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise DemoError(f"{self.program.name} stopped by itself (exit status {status}).\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return where the log is and its last lines."""
        shown = "\n".join(f"  | {line}" for line in self._last_lines()) or "  | (nothing)"
        return f"The end of {self.program.log}:\n{shown}"

    def doing(self) -> str:
        """Return the last non-empty line of its log, shortened."""
        lines = [line.strip() for line in self._last_lines() if line.strip()]
        return lines[-1][:LONGEST_PROGRESS] if lines else "nothing in its log yet"

    def _last_lines(self) -> list[str]:
        with self.program.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Send SIGTERM to the process group; after ``timeout_s``, or on a second Ctrl-C, kill it.

        It returns when no process of the group is left that could hold a port or a file.
        """
        try:
            self._signal(signal.SIGTERM)
            self._process.wait(timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            self._signal(signal.SIGKILL)  # also the leader's remaining children
            self._process.wait()
            until = time.monotonic() + KILL_S  # if init does not reap dead orphans, the group never becomes empty
            while self._signal(signal.SIGKILL) and time.monotonic() < until:
                time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process group, and return whether it had a process."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # no such group; macOS raises the second
            return False
        return True


def start(program: Program, keep_open: IO[bytes] | None = None) -> Running:
    """Start a program in its own process group, so that Ctrl-C reaches only this process, which then stops it cleanly.

    It inherits the file ``keep_open``, so that a lock on it lasts as long as the program does; `DemoError` if it cannot
    be started.
    """
    inherited = () if keep_open is None else (keep_open.fileno(),)
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("wb") as log:
        try:
            process = subprocess.Popen(  # noqa: S603 - the commands are the demo's own
                program.arguments,
                env=dict(program.environ),
                cwd=program.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )
        except OSError as error:
            raise DemoError(f"{program.name} cannot be started: {error}") from error
    return Running(program, process)


def wait_until_ready(programs: Sequence[Running], say: Callable[[str], None], progress_s: float = PROGRESS_S) -> None:
    """Return when every program answers, and print each one when it does, and every ``progress_s`` what they are at.

    Raises:
        DemoError: one ended, or did not answer within its timeout; the message closes with the end of its log.
    """
    started = reported = time.monotonic()
    waiting = list(programs)
    with httpx.Client(timeout=5, trust_env=False) as client:  # not through a proxy: this is the same machine
        while waiting:
            for running in programs:
                running.check_alive()
            for running in tuple(waiting):
                after_s = time.monotonic() - started
                if _answers(client, running.program.ready_url):
                    waiting.remove(running)
                    say(f"{running.program.name} is ready after {after_s:.0f} s.")
                elif after_s > running.program.timeout_s:
                    raise DemoError(
                        f"{running.program.name} did not answer at {running.program.ready_url} within "
                        f"{running.program.timeout_s:.0f} s.\n{running.log_tail()}"
                    )
            if waiting and time.monotonic() - reported >= progress_s:
                reported = time.monotonic()
                for running in waiting:
                    say(f"{running.program.name} is starting, {reported - started:.0f} s: {running.doing()}")
            time.sleep(POLL_S)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.HTTPError:
        return False


def choose_port(requested: int | None, usual: int, name: str, option: str, say: Callable[[str], None]) -> int:
    """Return the requested port, else the usual one or the next free one; print a line if it is not the usual one."""
    if requested is None:
        port = free_port(usual, name)
        if port != usual:
            say(f"Port {usual} is taken: {name} gets {port}.")
        return port
    if not is_free(requested):
        raise DemoError(f"Port {requested} is taken. Choose another for {name} with {option}, or leave it out.")
    return requested


def free_port(first: int, name: str) -> int:
    """Return the first port from ``first`` on that nothing listens on; `DemoError` if `PORTS_TRIED` are taken."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        if is_free(port):
            return port
    raise DemoError(f"No free port for {name} was found from {first} on; name one that is free.")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of every address of this machine."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):  # noqa: S104 - only tried
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a machine without IPv6
            continue
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((address, port))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:  # IPv6 without a loopback
                    continue
                return False
    return True


@contextmanager
def only_one(lock: Path) -> Iterator[IO[bytes]]:
    """Hold a lock file and yield it open; child processes inherit it, so that it stays locked until they have ended."""
    try:
        import fcntl
    except ImportError as error:  # here, as all other commands work there
        raise DemoError(
            "The demo needs Linux or macOS, on Windows inside WSL. `paddle-sam-backend serve` runs here, "
            "for a Label Studio that you start yourself."
        ) from error
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("ab+")
    except OSError as error:
        raise DemoError(
            f"The demo keeps its data in {lock.parent}, which cannot be written to ({error.strerror}). "
            "Name another one, with --folder or as make demo CACHE=/some/folder."
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            ids = file.read().decode(errors="replace").strip() or "unknown processes"
            raise DemoError(
                f"The demo in {lock.parent} is already running. Stop it with Ctrl-C where it was started, or end {ids}."
            ) from error
        yield file


def note(lock: IO[bytes], text: str) -> None:
    """Write the holders of a lock file into it, for the error message of another start."""
    lock.truncate(0)
    lock.write(text.encode())
    lock.flush()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, as Ctrl-C does, so that all three stop the demo the same way.

    A signal that the process was started to ignore stays ignored: SIGHUP under ``nohup``.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # handlers can only be set in the main thread
        yield
        return
    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    heeded = [each for each in known if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
