"""The worker process: takes jobs off the queues, one at a time, and encodes their images.

RQ's `SimpleWorker` runs jobs in its own process: a worker that forks for each job would load the model for each, and
CUDA does not work after a fork. The only data it uses from a job is an image's address: a job cannot name a function,
a callback or a webhook, and RQ's commands over Redis are ignored.
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
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.encoder_thread import EncoderThread
from backend.errors import RetryLater
from backend.types import Priority

logger = logging.getLogger(__name__)

WORKER_TTL_S = 30
"""RQ waits for a job for this many seconds, minus fifteen, in one command."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_ACCEPTED_FIELDS = (b"data", b"created_at", b"enqueued_at", b"origin", b"status")

STOPPED, FAILED = 0, 1


class WarmLoad:
    """Loads an encoder and encodes one blank image, so that the first real image is no slower than the second.

    Attributes:
        is_over: set when loading has succeeded or failed.
        error: the error if it failed.
    """

    def __init__(self, load: Callable[[], Encoder], spec: EncodeSpec) -> None:
        self._load, self._spec = load, spec
        self.is_over = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> Encoder:
        """Return the encoder, warm."""
        try:
            encoder = self._load()
            encoder.encode(self._spec.preprocess(np.zeros((64, 64, 3), np.uint8)))
        except Exception as error:
            self.error = error
            raise
        finally:
            self.is_over.set()
        return encoder


class Worker:
    """The main loop of a worker process: runs until it is stopped, also through outages of Redis."""

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
        """Combine the parts of a worker; `run` starts it.

        Args:
            link: connection to Redis; RQ gets its own connections.
            keys: names of the queues.
            job: processes the image of one job.
            queue: the encoder; it loads with ``load``.
            load: signals when loading is over.
            leases: the leases that ``job`` holds.
            announce: sends a heartbeat; called before and after the encoder is loaded.
            on_stop: called at the end.
        """
        self._link, self._keys, self._leases = link, keys, leases
        self._job, self._queue, self._load, self._announce, self._on_stop = job, queue, load, announce, on_stop
        self._stop = threading.Event()

    def run(self, *, max_jobs: int | None = None) -> int:
        """Work until SIGTERM or SIGINT, then finish the current job; must run in the main thread, for its signals.

        Args:
            max_jobs: stop after this many jobs.

        Returns:
            `STOPPED`, or `FAILED` if the encoder cannot be loaded or hangs; then the supervisor must restart it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._send_heartbeat()
        self._leases.start()
        self._queue.start()
        try:
            while not self._load.is_over.wait(0.2) and not self._stop.is_set():
                pass
            if self._load.error is not None or self._stop.is_set():
                return FAILED if self._load.error is not None else STOPPED
            self._send_heartbeat()
            logger.info("event=worker_ready queues=%s", ",".join(self._keys.queue(priority) for priority in Priority))
            return self._work(max_jobs)
        finally:
            self._leases.close()
            self._on_stop()

    def _send_heartbeat(self) -> None:
        with suppress(RetryLater):  # the leases' thread repeats it
            self._announce()

    def _work(self, max_jobs: int | None) -> int:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                worker = self._rq_worker()
                has_worked = worker.work(logging_level="WARNING", max_jobs=max_jobs)
                if worker.got_stop_signal or max_jobs is not None:
                    break
                pause_s = FIRST_PAUSE_S if has_worked else pause_s
            except StopRequested:  # the signal came before RQ was ready for it
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
        priority = next((level for level in Priority if self._keys.queue(level) == queue), Priority.BULK)
        self._job.run(ref, priority, job_id)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()


class _RqWorker(SimpleWorker):  # type: ignore[misc]  # RQ counts as untyped, see pyproject
    """RQ's worker in one process, without the commands that RQ accepts over Redis.

    Attributes:
        got_stop_signal: whether it stops because of a signal, not of an error.
        must_stop: returns whether a signal came before RQ's handlers were installed.
    """

    got_stop_signal = False
    must_stop: Callable[[], bool]

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        if self.must_stop():
            self.got_stop_signal = self._stop_requested = True

    def execute_job(self, job: "_Job", queue: Any) -> None:  # noqa: ANN401 - RQ counts as untyped
        """Run a job, with the name of the queue it was taken from; the job's own field is not trusted."""
        job.found_in = queue.name
        super().execute_job(job, queue)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the current job, or at once if there is none; may be called several times."""
        self.got_stop_signal = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        self._stop_requested = True

    def subscribe(self) -> None:
        """Override RQ's subscription to commands with nothing."""


class _Job(Job):  # type: ignore[misc]  # RQ counts as untyped, see pyproject
    """A job that accepts only the argument from Redis, up to a size."""

    found_in = ""
    run: Callable[[object, str, str], None]

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read the harmless fields; raise `NoSuchJobError`, as for a missing job, if they are malformed."""
        accepted = {name: raw_data[name] for name in _ACCEPTED_FIELDS if name in raw_data}
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(accepted.get(b"data", b""), 2 * queues.MAX_JOB_BYTES)
        except zlib.error:
            data = b""
        if not data or unpacker.unconsumed_tail:
            raise NoSuchJobError("expected a job of ours")
        try:
            super().restore({**accepted, b"data": b"-"})  # RQ would decompress it to any size
        except (ValueError, TypeError, KeyError) as error:
            raise NoSuchJobError("expected a job of ours") from error
        self.data = data
        self.timeout, self.result_ttl, self.failure_ttl = queues.JOB_TIMEOUT_S, 0, queues.FAILURE_TTL_S

    def perform(self) -> None:
        """Call this worker's own function, and ignore the function that the job names."""
        type(self).run(self.args, self.found_in, self.id)


def _job_class(run: Callable[[object, str, str], None]) -> type[_Job]:
    """Return a job class that calls ``run``; RQ creates the jobs itself, so the function must be part of the class."""
    return type("_Job", (_Job,), {"run": staticmethod(run)})
