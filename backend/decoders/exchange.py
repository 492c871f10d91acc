"""Shares the folder of decoders with other machines over Redis, and has workers train them.

Every process works with its own folder. `DecoderExchange.sync` takes over what is newer in Redis and writes what is
newer here, so the decoders are still there after Redis was emptied, and on a machine that was off for a while.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import DecoderKeys, Keys
from backend.cluster.parts import ClusterParts
from backend.decoders.folder import MOST_BYTES, DecoderFolder, Document, Record
from backend.decoders.project_decoders import LOOK_EVERY_S, DecoderWatch
from backend.decoders.training import State, Training, TrainingLog, TrainingRunner
from model.weights.errors import WeightsError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 60.0
"""How long to wait before a decoder that could not be fetched or shared is tried again."""

_KINDS: dict[str, type[Document]] = {kind.FILE: kind for kind in (Record, Training)}
"""What is shared, by the names of their files."""

_PUT = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local is_read, document = pcall(cjson.decode, stored or '')
if is_read and type(document) == 'table' and type(document.revision) == 'number'
  and document.revision > tonumber(ARGV[2]) then return 0 end
if ARGV[4] then redis.call('SET', KEYS[2], ARGV[4]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""Writes a document, and the file that it names, unless Redis has a newer document."""


class DecoderExchange:
    """Keeps a folder of decoders and the one in Redis equal: the newer of two documents replaces the other."""

    def __init__(
        self, link: RedisConnection, keys: Keys, folder: DecoderFolder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Exchange ``folder`` with the names ``keys`` in the Redis at ``link``; ``clock`` is in s, monotonic."""
        self._link, self._keys, self._folder, self._clock = link, DecoderKeys(keys), folder, clock
        self._refused: dict[str, float] = {}

    def sync(self) -> None:
        """Exchange once.

        Raises:
            RetryLater: Redis does not answer.
            OSError: the folder cannot be written.
        """
        stored: dict[Any, Any]  # Any: bytes, by the names and values of this connection
        stored = self._link.call(lambda client: client.hgetall(self._keys.documents))
        theirs = {name.decode(errors="replace"): value for name, value in stored.items()}
        names = set(theirs)
        names |= {f"{project_id}/{name}" for project_id in self._folder.projects() for name in _KINDS}
        for field in sorted(names):
            number, _, name = field.partition("/")
            kind = _KINDS.get(name)
            if kind is None or not (number.isascii() and number.isdecimal() and len(number) < 19):
                continue
            project_id = int(number)
            own, other = self._folder.load(project_id, kind), kind.parse(theirs.get(field, b""))
            if other.order > own.order:
                self._take(project_id, other)
            elif own.order > other.order:
                self._put(project_id, field, own)

    def _take(self, project_id: int, document: Document) -> None:
        digest = document.active if isinstance(document, Record) else None
        if digest is not None and not self._folder.file(project_id, digest).is_file():
            if self._is_refused(digest):
                return
            key = self._keys.decoder(project_id)
            data = self._link.call(lambda client: client.getrange(key, 0, MOST_BYTES))  # one byte more, to be refused
            try:
                if not isinstance(data, bytes) or not data:
                    raise WeightsError(f"decoder {digest[:8]}: Redis does not hold its file")
                self._folder.add_file(project_id, data, digest)
            except WeightsError as error:
                self._refused[digest] = self._clock()
                logger.warning("event=decoder_not_taken project=%s detail=%r", project_id, str(error)[:300])
                return
        self._folder.take_over(project_id, document)

    def _put(self, project_id: int, field: str, document: Document) -> None:
        arguments: list[str | bytes] = [field, str(document.revision), document.dump()]
        if isinstance(document, Record) and document.active is not None:
            if self._is_refused(document.active):
                return
            try:
                arguments.append(self._folder.file(project_id, document.active).read_bytes())
            except OSError as error:
                self._refused[document.active] = self._clock()
                logger.warning("event=decoder_not_shared project=%s detail=%r", project_id, str(error))
                return
        self._link.run_script(_PUT, [self._keys.documents, self._keys.decoder(project_id)], *arguments)

    def _is_refused(self, digest: str) -> bool:
        return self._clock() - self._refused.get(digest, -math.inf) < RETRY_AFTER_S


class QueuedTrainings:
    """Starts trainings on workers; see `backend.decoders.training.Trainings`."""

    def __init__(self, parts: ClusterParts, log: TrainingLog) -> None:
        """Enqueue jobs with ``parts``, and keep the states in ``log``."""
        self._queues, self._log = parts.queues, log
        self._lost: set[int] = set()

    def start(self, project_id: int, annotations: int, /) -> bool:
        """Start the training of a project.

        Raises:
            RetryLater: Redis does not answer.
        """
        if self._log.of(project_id).state_at(self._log.now()) is State.RUNNING:
            return False
        if not self._queues.enqueue_training(project_id):
            return False
        self._log.write(project_id, State.WAITING, annotations=annotations)
        return True

    def enqueue_lost(self) -> None:
        """Enqueue the trainings again whose jobs were gone in the last call too, since Redis was emptied.

        Raises:
            RetryLater: Redis does not answer.
        """
        waiting = [project_id for project_id, each in self._log.all().items() if each.state is State.WAITING]
        lost = self._queues.lost_trainings(waiting) if waiting else set()
        for project_id in lost & self._lost:  # gone once, it may have been taken in this moment
            if self._queues.enqueue_training(project_id):
                logger.warning("event=training_enqueued_again project=%s", project_id)
        self._lost = lost


class TrainingWorker:
    """Trains decoders in a worker process, one at a time, when no image waits; shares those of its machine."""

    def __init__(
        self, parts: ClusterParts, exchange: DecoderExchange, runner: TrainingRunner, log: TrainingLog
    ) -> None:
        """Take jobs with ``parts``, run them with ``runner``, and have ``exchange`` share what they make."""
        self._parts, self._runner, self._log, self._exchange = parts, runner, log, exchange
        self._watch = DecoderWatch(exchange.sync)

    def train_next(self, stop: threading.Event) -> None:
        """Wait `LOOK_EVERY_S`, then train the first decoder of the queue, if any; end early at ``stop``.

        Raises:
            RetryLater: Redis does not answer.
            RequestError: a job is not one of ours; it is dropped.
        """
        if stop.wait(LOOK_EVERY_S):
            return
        self._watch.look()  # also for the state that the web process has written
        project_id = self._parts.queues.take_training()
        if project_id is None:
            return
        lease = self._parts.leases.acquire(DecoderKeys(self._parts.keys).training(project_id))
        if lease is None:  # another worker trains it
            return
        with lease, DecoderWatch(self._exchange.sync):
            is_done = self._runner.run(project_id, stop)
        if not is_done:
            self._log.write(project_id, State.WAITING, "its worker was stopped; it is continued on another one")
            self._parts.queues.enqueue_training(project_id)
        self._exchange.sync()
