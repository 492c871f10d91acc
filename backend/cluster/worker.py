"""The worker: takes jobs off the queues, one at a time, and holds the encoder that does them.

RQ's `SimpleWorker` runs jobs in its own process: a worker that forks for each would load the model for each, and CUDA
does not survive a fork. Of what lies in Redis it takes nothing but an image's address: jobs cannot name a function, a
callback or a web hook, and commands from Redis are not listened to.
"""

import logging
import signal
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from backend.cluster import queues
from backend.cluster.connection import RedisConnection
from backend.cluster.encode_job import EncodeJob
from backend.cluster.keys import Keys
from backend.cluster.lease import Leases
from backend.embeddings.encode import Encoder
from backend.embeddings.encoder_thread import EncoderThread
from backend.errors import RetryLater
from backend.types import Priority

logger = logging.getLogger(__name__)

WORKER_TTL_S = 30
"""RQ asks Redis for work this many seconds at a time, less fifteen."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_TAKEN = (b"data", b"created_at", b"enqueued_at", b"origin", b"status")

STOPPED, FAILED = 0, 1


class WarmLoad:
    """Loads an encoder and lets it encode once, so that the first image is no slower than the second.

    Attributes:
        is_over: set when it has succeeded or failed.
        error: why it has failed.
    """

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self.is_over = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> Encoder:
        """Return the encoder, warm."""
        try:
            encoder = self._load()
            encoder.encode(np.zeros((64, 64, 3), np.uint8))
        except Exception as error:
            self.error = error
            raise
        finally:
            self.is_over.set()
        return encoder


class Worker:
    """One process' worth of work: runs until it is told to stop, through every outage of Redis."""

    def __init__(
        self,
        link: RedisConnection,
        keys: Keys,
        job: EncodeJob,
        queue: EncoderThread,
        load: WarmLoad,
        leases: Leases,
        *,
        announce: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet.

        Args:
            link: to Redis; RQ gets connections of its own.
            keys: the queues' names.
            job: what is done about an image.
            queue: the encoder; it was given ``load`` to load it with.
            load: tells when that is over.
            leases: what the job holds.
            announce: says that this worker is alive; called before the encoder is loaded, and once it is.
            on_stop: is called at the end.
        """
        self._link, self._keys, self._leases = link, keys, leases
        self._job, self._queue, self._load, self._announce, self._on_stop = job, queue, load, announce, on_stop
        self._stop = threading.Event()

    def run(self, *, max_jobs: int | None = None) -> int:
        """Work until SIGTERM or SIGINT, then finish the job in hand; in the main thread, for the signals' sake.

        Args:
            max_jobs: stop after so many.

        Returns:
            `STOPPED`, or `FAILED` if there is no encoder or it hangs; whoever started the worker starts it again.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        self._say_alive()
        self._leases.start()
        self._queue.start()
        try:
            while not self._load.is_over.wait(0.2) and not self._stop.is_set():
                pass
            if self._load.error is not None or self._stop.is_set():
                return FAILED if self._load.error is not None else STOPPED
            self._say_alive()
            logger.info("event=worker_ready queues=%s", ",".join(self._keys.queue(priority) for priority in Priority))
            return self._work(max_jobs)
        finally:
            self._leases.close()
            self._on_stop()

    def _say_alive(self) -> None:
        with suppress(RetryLater):  # it is said again and again, by the leases' thread
            self._announce()

    def _work(self, max_jobs: int | None) -> int:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                worker = self._rq_worker()
                did_something = worker.work(logging_level="WARNING", max_jobs=max_jobs)
                if worker.is_told_to_stop or max_jobs is not None:
                    break
                pause_s = FIRST_PAUSE_S if did_something else pause_s
            except StopRequested:  # it came before RQ was ready for it
                break
            except (RedisError, OSError) as error:
                logger.warning("event=worker_without_redis detail=%r pause_s=%.1f", str(error)[:200], pause_s)
            if len(self._queue):
                logger.error("event=encoder_hangs")
                return FAILED
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._queue.close()
        return STOPPED

    def _rq_worker(self) -> "_RqWorker":
        worker = _RqWorker(
            [self._keys.queue(priority) for priority in Priority],
            connection=self._link.connect(),
            job_class=_job_class(self._perform),
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            default_result_ttl=0,
            log_job_description=False,
        )
        worker.must_stop = self._stop.is_set
        return worker

    def _perform(self, arguments: object, queue: str, job_id: str) -> None:
        ref = queues.parse(arguments)
        priority = next((one for one in Priority if self._keys.queue(one) == queue), Priority.BULK)
        self._job.run(ref, priority, job_id)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()


class _RqWorker(SimpleWorker):  # type: ignore[misc]  # RQ counts as untyped, see pyproject
    """RQ's worker in one process, without what would let Redis command it.

    Attributes:
        is_told_to_stop: whether a signal has asked it to stop, rather than an error.
        must_stop: whether one did so before its handlers were installed.
    """

    is_told_to_stop = False
    must_stop: Callable[[], bool]

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        if self.must_stop():
            self.is_told_to_stop = self._stop_requested = True

    def execute_job(self, job: "_Job", queue: Any) -> None:  # noqa: ANN401 - RQ counts as untyped
        """Do a job; which queue it was in is known from where it was found, not from what it says."""
        job.found_in = queue.name
        super().execute_job(job, queue)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the job in hand, at once if there is none; however often it is asked."""
        self.is_told_to_stop = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        self._stop_requested = True

    def subscribe(self) -> None:
        """Listen to no commands."""


class _Job(Job):  # type: ignore[misc]  # RQ counts as untyped, see pyproject
    """A job of which only the argument is taken from Redis, up to a size."""

    found_in = ""
    run: Callable[[object, str, str], None]

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over what is harmless; a job that does not look like one is as good as none."""
        taken = {name: raw_data[name] for name in _TAKEN if name in raw_data}
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(taken.get(b"data", b""), 2 * queues.MAX_JOB_BYTES)
        except zlib.error:
            data = b""
        if not data or unpacker.unconsumed_tail:
            raise NoSuchJobError("expected a job of ours")
        try:
            super().restore({**taken, b"data": b"-"})  # RQ would unpack it to any size
        except (ValueError, TypeError, KeyError) as error:
            raise NoSuchJobError("expected a job of ours") from error
        self.data = data
        self.timeout, self.result_ttl, self.failure_ttl = queues.JOB_TIMEOUT_S, 0, queues.FAILURE_TTL_S

    def perform(self) -> None:
        """Do what this worker does, whatever function the job names."""
        type(self).run(self.args, self.found_in, self.id)


def _job_class(run: Callable[[object, str, str], None]) -> type[_Job]:
    """Return the class of this worker's jobs; RQ makes them itself, so that what to do has to be part of the class."""
    return type("_Job", (_Job,), {"run": staticmethod(run)})
