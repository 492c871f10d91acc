"""The worker process: threads that take jobs off the queues, so that images are fetched while another is encoded.

Some of the threads take only jobs that annotators wait for, so that a click never waits for a download of bulk work.
Each thread holds one job at a time, which bounds how many images are in memory.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from backend.cluster.monitor import LOADING_S
from backend.cluster.parts import ClusterParts
from backend.cluster.pipeline import EncodePipeline
from backend.embeddings.encode import Encoder, EncodeSpec
from backend.embeddings.encoder_thread import EncoderThread
from backend.errors import RequestError, RetryLater
from backend.types import Priority

logger = logging.getLogger(__name__)

THREADS = 8
RESERVED = 3  # number of the threads that take only jobs that annotators wait for
TAKE_WITHIN_S = 1
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
POLL_EVERY_S = 0.1

STOPPED, FAILED, DEVICE_FAILED = 0, 1, 3
"""Exit codes; 2 is that of settings and commands that cannot be used."""


def load_warm(load: Callable[[], Encoder], spec: EncodeSpec) -> Encoder:
    """Load an encoder and encode one blank image, so that the first real image is no slower than the second."""
    encoder = load()
    encoder.encode(spec.preprocess(np.zeros((64, 64, 3), np.uint8)))
    return encoder


class Worker:
    """The main loop of a worker process: runs until it is stopped, also through outages of Redis."""

    def __init__(
        self,
        parts: ClusterParts,
        pipeline: EncodePipeline,
        encoder: EncoderThread,
        train_next: Callable[[threading.Event], None],
    ) -> None:
        """``train_next`` trains a decoder if a training waits; it waits a moment for one, or until its event is set."""
        self._parts, self._pipeline, self._encoder, self._train_next = parts, pipeline, encoder, train_next
        self._name = parts.keys.worker(socket.gethostname(), os.getpid())
        self._must_stop = False
        self._stop = threading.Event()

    def run(self) -> int:
        """Work until SIGTERM or SIGINT, then finish what is urgent; must run in the main thread, for its signals.

        Returns:
            `STOPPED`; `FAILED` if the encoder cannot be loaded or hangs, `DEVICE_FAILED` if memory or the device failed
            at several images in a row: then the supervisor must restart it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with suppress(RetryLater):  # the leases' thread repeats it
            self._heartbeat()
        self._parts.leases.start(self._heartbeat)
        self._encoder.start()
        try:
            while not (self._encoder.is_ready or self._encoder.failure or self._must_stop):
                time.sleep(POLL_EVERY_S)
            if self._encoder.failure:
                return FAILED
            return STOPPED if self._must_stop else self._work()
        finally:
            self._parts.leases.close()
            self._parts.monitor.deregister(self._name)

    def _heartbeat(self) -> None:
        self._parts.monitor.heartbeat(self._name, 0 if self._encoder.is_ready else LOADING_S)

    def _work(self) -> int:
        steps = [
            partial(self._run_next, (Priority.INTERACTIVE,) if number < RESERVED else tuple(Priority))
            for number in range(THREADS)
        ]
        steps.append(partial(self._train_next, self._stop))
        threads = [
            threading.Thread(target=self._repeat, args=(step,), name=f"job-{number}", daemon=True)
            for number, step in enumerate(steps)
        ]
        for thread in threads:
            thread.start()
        logger.info("event=worker_ready queues=%s", ",".join(map(self._parts.keys.queue, Priority)))
        while not (self._must_stop or self._pipeline.encoder_hangs or self._encoder.is_failing):
            time.sleep(POLL_EVERY_S)
        self._stop.set()
        if self._pipeline.encoder_hangs:
            logger.error("event=encoder_hangs")
            return FAILED
        self._pipeline.stop()
        for thread in threads:
            thread.join()
        if self._encoder.is_failing:
            logger.error("event=worker_gives_up exit_code=%d", DEVICE_FAILED)
            return DEVICE_FAILED
        return STOPPED

    def _run_next(self, priorities: Sequence[Priority]) -> None:
        job = self._parts.queues.take(priorities, TAKE_WITHIN_S)
        if job is not None:
            self._pipeline.run(job)

    def _repeat(self, step: Callable[[], None]) -> None:
        """Call ``step`` until the worker stops, through outages of Redis."""
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                step()
                pause_s = FIRST_PAUSE_S
                continue
            except RequestError as error:
                logger.warning("event=job_refused detail=%r", str(error))
                continue
            except RetryLater as error:
                logger.info("event=worker_without_redis detail=%r pause_s=%.1f", str(error)[:200], pause_s)
            except Exception:  # a defect must not end the thread
                logger.exception("event=worker_defect")
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _on_signal(self, number: int, frame: object) -> None:
        self._must_stop = True  # a plain attribute: the lock of an Event may be held where the signal comes
