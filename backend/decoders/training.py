"""Trains the decoder of a project in a process of its own, at low priority, and records the state of the training.

The process is ``python -m backend finetune``; the status page shows the last lines of its output.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum
from queue import SimpleQueue
from typing import Protocol

from backend.decoders.folder import TRAINING, DecoderFolder, Document
from backend.types import WebhookEvent

logger = logging.getLogger(__name__)

LOWEST_PRIORITY = 19
"""As in ``nice -n 19``: it runs when nothing else wants the processor."""

HEARTBEAT_S = 10.0
STALE_S = 120.0
"""A training without a heartbeat for this long has ended, with its process or its machine."""

STOP_WITHIN_S = 10.0
"""How long the process may take to publish its best decoder when it is stopped."""

STATES = "finetune"
"""In the cache's folder, the folder of what a training needs to go on where it was stopped."""

MOST_WAITING = 100
SHOWN_LINES = 5  # of the end of what a training wrote
TAKEN, NOT_TAKEN = 0, 1  # exit statuses of a training that came to its end
_TEXT_LENGTH = 600
_LOCK = ".service"  # of a web process that trains
_WAS_STOPPED = "the service was stopped; start the training again"


def command(weights: str, device: str) -> tuple[str, ...]:
    """Return the command that trains a decoder of these weights; its other settings are in the environment.

    >>> command("sam_vit_b", "cpu")[1:]
    ('-m', 'backend', 'finetune', '--weights', 'sam_vit_b', '--device', 'cpu')
    """
    return sys.executable, "-m", "backend", "finetune", "--weights", weights, "--device", device


class State(str, Enum):
    """How far the training of a project is."""

    NONE = "none"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Training(Document):
    """The last training of a project."""

    FILE = TRAINING
    state: State = State.NONE
    at: float = 0.0  # when this was written, in seconds since 1970
    text: str = ""  # the last line that the training wrote; once it has ended, the last lines
    annotations: int = 0  # how many annotations the project had when it was started
    number: int = 0  # how many trainings of the project were started, this one included

    def state_at(self, now: float) -> State:
        """Return the state, which is `State.FAILED` if a running one has had no heartbeat for `STALE_S`."""
        is_stale = self.state is State.RUNNING and abs(now - self.at) > STALE_S
        return State.FAILED if is_stale else self.state


@dataclass(frozen=True)
class Submitted(Document):
    """The annotations that were submitted in a project since its last training was started, as this machine saw it."""

    FILE = "annotations.json"
    training: int = 0  # the `Training.number` of that training
    total: int = 0  # how many annotations the project had after the last of them; deleted ones do not count
    new: int = 0  # how many they are; those that were deleted again count


class TrainingLog:
    """Reads and writes the state of each project's training; a failure to write is only logged."""

    def __init__(self, folder: DecoderFolder, clock: Callable[[], float] = time.time) -> None:
        """Keep the states in the folder of decoders; ``clock`` is in seconds since 1970."""
        self.folder, self.now = folder, clock

    def of(self, project_id: int) -> Training:
        """Return the last training of a project."""
        return self.folder.load(project_id, Training)

    def all(self) -> dict[int, Training]:
        """Return the last training of each project that had one."""
        trainings = {project_id: self.of(project_id) for project_id in self.folder.projects()}
        return {project_id: each for project_id, each in trainings.items() if each.state is not State.NONE}

    def write(self, project_id: int, state: State, text: str = "", annotations: int | None = None) -> None:
        """Replace the state of a project's training; of a new one, with the annotations that the project has."""

        def written(before: Training) -> Training:
            after = replace(before, state=state, at=self.now(), text=text[:_TEXT_LENGTH])
            return after if annotations is None else replace(after, annotations=annotations, number=before.number + 1)

        try:
            self.folder.update(project_id, Training, written)
        except OSError as error:
            logger.warning("event=training_not_recorded project=%s detail=%r", project_id, str(error))

    def count(self, project_id: int, total: int) -> int:
        """Count an annotation that was just submitted, and those before it that were not seen.

        Args:
            project_id: its project.
            total: how many annotations the project has now, which may be fewer than before; 0 if that is not known.

        Returns:
            How many were submitted since the last training was started.
        """
        training = self.of(project_id)

        def counted(before: Submitted) -> Submitted:
            if before.training != training.number:
                before = Submitted(0, training.number, training.annotations)
            return replace(before, total=total or before.total + 1, new=before.new + max(1, total - before.total))

        try:
            return self.folder.update(project_id, Submitted, counted).new
        except OSError as error:
            logger.warning("event=annotations_not_counted project=%s detail=%r", project_id, str(error))
            return 0


class TrainingRunner:
    """Runs one training at a time, in a process of its own."""

    def __init__(self, command: Sequence[str], log: TrainingLog) -> None:
        """Run ``command`` with ``--project N`` added, and keep its state in ``log``."""
        self._command, self._log = tuple(command), log

    def run(self, project_id: int, stop: threading.Event) -> bool:
        """Train the decoder of a project, and return whether the training came to its end before ``stop``."""
        self._log.write(project_id, State.RUNNING)
        logger.info("event=training_started project=%s", project_id)
        try:
            process = self._start(project_id)
        except OSError as error:
            return self._end(project_id, State.FAILED, f"the training cannot be started: {error}")
        lines: deque[str] = deque(maxlen=SHOWN_LINES)
        reader = threading.Thread(target=_keep_last, args=(process, lines), name="training-output", daemon=True)
        reader.start()
        written_at = self._log.now()
        while process.poll() is None and not stop.wait(0.2):
            if self._log.now() - written_at >= HEARTBEAT_S:
                written_at = self._log.now()
                self._log.write(project_id, State.RUNNING, "".join(list(lines)[-1:]))
        was_stopped = process.poll() is None
        if was_stopped:
            _stop(process)
        reader.join(STOP_WITHIN_S)
        if was_stopped:
            return False
        status, text = process.returncode, "; ".join(lines)
        state = State.DONE if status in (TAKEN, NOT_TAKEN) else State.FAILED
        return self._end(project_id, state, text or f"exit status {status}")

    def _start(self, project_id: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(  # noqa: S603 - our own command; the project's number is the only other argument
            [*self._command, "--project", str(project_id)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with suppress(OSError, AttributeError):  # it has ended already, or this is Windows
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
        return process

    def _end(self, project_id: int, state: State, text: str) -> bool:
        self._log.write(project_id, state, text)
        level = logging.INFO if state is State.DONE else logging.WARNING
        logger.log(level, "event=training_%s project=%s detail=%r", state.value, project_id, text)
        return True


class Trainings(Protocol):
    """Starts trainings; see `LocalTrainings`, and `backend.decoders.exchange.QueuedTrainings` with Redis."""

    def start(self, project_id: int, annotations: int, /) -> bool:
        """Start the training of a project; return False if it waits or runs already, or too many wait."""
        ...


class TrainingTrigger:
    """Starts the training of a project at the button *Start training* and, if wanted, after every so many annotations.

    Label Studio 1.23.2 sends both as webhook events.
    """

    def __init__(self, trainings: Trainings, log: TrainingLog, every: int) -> None:
        """Start ``trainings`` whose states are in ``log``, also after ``every`` new annotations; 0 for never."""
        self._trainings, self._log, self._every = trainings, log, every

    def on_event(self, event: WebhookEvent) -> None:
        """Start the training that an event asks for, if any.

        Raises:
            RetryLater: Redis does not answer.
        """
        if event.project_id is None or event.project_id < 1:
            return
        is_due = event.action == "START_TRAINING"
        if self._every and event.action in ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED"):
            is_due = self._log.count(event.project_id, event.annotations) >= self._every
        if is_due:
            is_started = self._trainings.start(event.project_id, event.annotations)
            outcome = "accepted" if is_started else "in_hand"
            logger.info("event=training_%s project=%s action=%s", outcome, event.project_id, event.action)


class LocalTrainings:
    """Trains in a background thread of this process, one project after the other.

    Several processes may do so: the one that holds a project's lock trains it, and writes its state.
    """

    def __init__(self, runner: TrainingRunner, log: TrainingLog) -> None:
        """Create it; the first training starts the thread."""
        self._runner, self._log = runner, log
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._in_hand: dict[int, ExitStack] = {}  # with the locks of the projects
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, project_id: int, annotations: int, /) -> bool:
        """Start the training of a project; see `Trainings`."""
        with self._lock:
            if self._stop.is_set() or project_id in self._in_hand or len(self._in_hand) >= MOST_WAITING:
                return False
            locks = ExitStack()
            try:
                locks.enter_context(self._log.folder.only_training(project_id, _LOCK))
            except (ValueError, OSError) as error:
                logger.info("event=training_elsewhere project=%s detail=%r", project_id, str(error))
                return False
            if self._log.of(project_id).state_at(self._log.now()) is State.RUNNING:  # by a process without that lock
                locks.close()
                return False
            self._in_hand[project_id] = locks
            self._log.write(project_id, State.WAITING, annotations=annotations)
            self._queue.put(project_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)
                self._thread.start()
            return True

    def close(self) -> None:
        """Stop the running training, which keeps its best decoder, and drop those that wait."""
        with self._lock:
            self._stop.set()
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        for project_id, locks in self._in_hand.items():
            if not self._is_erased(project_id):
                self._log.write(project_id, State.FAILED, _WAS_STOPPED)
            locks.close()

    def end_lost(self) -> None:
        """Record the end of the trainings that waited in a process that was killed."""
        for project_id in self._log.all():
            with suppress(ValueError, OSError), self._log.folder.only_training(project_id, _LOCK):
                if self._log.of(project_id).state is State.WAITING:
                    self._log.write(project_id, State.FAILED, _WAS_STOPPED)

    def _is_erased(self, project_id: int) -> bool:
        return self._log.of(project_id).state is State.NONE

    def _work(self) -> None:
        while not self._stop.is_set() and (project_id := self._queue.get()) is not None:
            if self._is_erased(project_id) or self._runner.run(project_id, self._stop):
                with self._lock:
                    self._in_hand.pop(project_id).close()


def _keep_last(process: "subprocess.Popen[str]", lines: "deque[str]") -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            if text := line.strip():
                lines.append(text)


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
