"""Child processes of the demo: started with a log file, awaited until they answer, stopped without leaving anything."""

import errno
import fcntl
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
    """The demo cannot go on; the message says why, and what to do about it."""


@dataclass(frozen=True)
class Program:
    """What to start and how to know that it is ready.

    Attributes:
        name: for messages.
        arguments: the command and its arguments.
        environ: its whole environment.
        folder: the directory it runs in; None is the current one.
        log: the file that takes what it prints.
        ready_url: answers 2xx as soon as the program can be used.
        timeout_s: how long that may take.
    """

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    folder: Path | None
    log: Path
    ready_url: str
    timeout_s: float


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
        """Return if the program is still running.

        Raises:
            DemoError: it ended by itself; the message closes with the end of its log.
        """
        status = self._process.poll()
        if status is not None:
            raise DemoError(f"{self.program.name} stopped by itself (exit status {status}).\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return where the log is and its last lines."""
        shown = "\n".join(f"  | {line}" for line in self._last_lines()) or "  | (nothing)"
        return f"The end of {self.program.log}:\n{shown}"

    def doing(self) -> str:
        """Return the last line of its log that says anything, shortened."""
        lines = [line.strip() for line in self._last_lines() if line.strip()]
        return lines[-1][:LONGEST_PROGRESS] if lines else "nothing in its log yet"

    def _last_lines(self) -> list[str]:
        with self.program.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ask the whole group to end and, when it does not, or on a second Ctrl-C, end it.

        It returns when nobody is left who could still hold a port or a file.
        """
        try:
            self._signal(signal.SIGTERM)
            self._process.wait(timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            self._signal(signal.SIGKILL)  # also what the leader may have left behind
            self._process.wait()
            until = time.monotonic() + KILL_S  # where nobody takes note of dead orphans, the group never becomes empty
            while self._signal(signal.SIGKILL) and time.monotonic() < until:
                time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to whoever is in the group; say whether there was anybody."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # gone; macOS says so with the second
            return False
        return True


def start(program: Program, keep_open: IO[bytes] | None = None) -> Running:
    """Start a program in a process group of its own, so that a Ctrl-C reaches only the one who then stops it in order.

    Args:
        program: what to start.
        keep_open: a file that the program inherits, so that a lock on it lasts as long as the program does.

    Raises:
        DemoError: it cannot be started at all.
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
    """Return when every program answers, and tell each as it does.

    Args:
        programs: what was started.
        say: is told.
        progress_s: how often to tell what is still being waited for.

    Raises:
        DemoError: one ended, or did not answer in its time; the message closes with the end of its log.
    """
    started = told = time.monotonic()
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
            if waiting and time.monotonic() - told >= progress_s:
                told = time.monotonic()
                for running in waiting:
                    say(f"{running.program.name} is starting, {told - started:.0f} s: {running.doing()}")
            time.sleep(POLL_S)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.HTTPError:
        return False


def choose_port(asked: int | None, usual: int, name: str, option: str, say: Callable[[str], None]) -> int:
    """Return the port that was asked for, else the usual one or the next free one, and say where it is not the usual.

    Raises:
        DemoError: the one that was asked for is taken.
    """
    if asked is None:
        port = free_port(usual, name)
        if port != usual:
            say(f"Port {usual} is taken: {name} gets {port}.")
        return port
    if not is_free(asked):
        raise DemoError(f"Port {asked} is taken. Choose another for {name} with {option}, or leave it out.")
    return asked


def free_port(first: int, name: str) -> int:
    """Return the first port from ``first`` on that nothing listens on.

    Raises:
        DemoError: there is none among the next ones.
    """
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        if is_free(port):
            return port
    raise DemoError(f"No free port for {name} was found from {first} on; name one that is free.")


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port of every address of this machine."""
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
    """Hold a lock file, and give it open, to be inherited by what must be over before the next one may begin.

    Raises:
        DemoError: another one holds it, or its folder cannot be written to.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("ab+")
    except OSError as error:
        raise DemoError(
            f"The demo keeps its data in {lock.parent}, which cannot be written to ({error.strerror}). "
            "Name another one, with --folder or as make demo CACHE=/some/folder."
        ) from error
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read().decode(errors="replace").strip() or "unknown processes"
            raise DemoError(
                f"The demo in {lock.parent} is already running. Stop it with Ctrl-C where it was started, or end {who}."
            ) from error
        yield file


def note(lock: IO[bytes], text: str) -> None:
    """Write into a held lock file what the one who finds it locked is told."""
    lock.truncate(0)
    lock.write(text.encode())
    lock.flush()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn a closed terminal and a polite kill into what Ctrl-C raises, so that one way of stopping serves all.

    What the caller was started to ignore it goes on ignoring: a closed terminal under ``nohup``.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    heard = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
