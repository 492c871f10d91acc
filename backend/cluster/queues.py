"""The job queues: images in three queues, trainings in one, which RQ transports; the only module that knows RQ.

A job holds the address of an image as plain JSON. A job that comes out of a queue is untrusted input: its shape and
size are checked, and the function, callbacks and webhooks that it may name are ignored.
"""

import secrets
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum

import msgspec
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout, DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import DecoderKeys, Keys
from backend.embeddings.content_index import SourceKey
from backend.errors import ImageError, Reason, RequestError
from backend.logs import without_credentials
from backend.types import ImageRef, Priority
from backend.words import WordQuery

FUNCTION = "backend.cluster.worker.encode"
"""The function that the jobs name; it does not exist: our workers ignore it, and other RQ workers cannot import it."""

TRAINING = "backend.cluster.worker.train"
"""The same for jobs that train a decoder."""

MAX_JOB_BYTES = 16_000_000
"""Largest job; an image inside the task's data is a part of its job, and is refused if it is larger."""

MAX_WAITING = 1000  # most images that may wait in the queue of prefetches, and in that of bulk work
MARKER_TTL_S = 3600.0
_RQ_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class _Payload(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    uri: str
    task_id: int | None = None
    project_id: int | None = None
    item_index: int | None = None
    words: WordQuery | None = None


def dump(ref: ImageRef) -> str:
    """Return a job's argument.

    >>> dump(ImageRef("/data/upload/1/a.png", task_id=7, project_id=1))
    '{"uri":"/data/upload/1/a.png","task_id":7,"project_id":1}'

    Raises:
        ImageError: the image is a part of the task's data and larger than a job may be (``image_too_large``), or its
            address is not valid Unicode text (``unsupported_image_source``).
    """
    try:
        text = msgspec.json.encode(_Payload(ref.uri, ref.task_id, ref.project_id, ref.item_index, ref.words)).decode()
    except UnicodeEncodeError as error:  # an unpaired surrogate
        shown = ascii(without_credentials(ref.uri)[:80])
        raise ImageError(f"{shown} is not an address", Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    if len(text) > MAX_JOB_BYTES:
        raise ImageError(
            f"an image inside the task's data: expected at most {MAX_JOB_BYTES} bytes, got {len(text)}",
            Reason.IMAGE_TOO_LARGE,
        )
    return text


def parse(arguments: object) -> ImageRef:
    """Return the image reference in a job's arguments.

    >>> parse(['{"uri":"/data/upload/1/a.png","task_id":7}']).task_id
    7

    Raises:
        RequestError: the arguments do not have the shape that `dump` writes.
    """
    if not isinstance(arguments, list | tuple) or len(arguments) != 1 or not isinstance(arguments[0], str):
        raise RequestError("job: expected one text as its argument")
    if len(arguments[0]) > MAX_JOB_BYTES:
        raise RequestError(f"job: expected at most {MAX_JOB_BYTES} bytes, got {len(arguments[0])}")
    try:
        raw = msgspec.json.decode(arguments[0], type=_Payload)
        return ImageRef(raw.uri, raw.task_id, raw.project_id, raw.item_index, raw.words)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RequestError(f"job: {str(error)[:200]}") from error


@dataclass(frozen=True)
class TakenJob:
    """A job that a worker took off a queue."""

    ref: ImageRef
    priority: Priority  # of the queue that it was in
    job_id: str  # the value of the image's marker


@dataclass(frozen=True)
class QueueState:
    """The number of jobs in a queue, and for how many seconds the first one has waited."""

    name: str
    depth: int
    age_s: float


class JobState(Enum):
    """How far the job of an image is, before it is done or failed."""

    QUEUED = "queued"
    TAKEN = "taken"  # it left its queue, and the worker that took it, if it lives, has not begun yet
    LEASED = "leased"  # a worker holds the image's lease
    LOST = "lost"


class JobQueues:
    """The queues of one installation: web processes and runs enqueue jobs, and workers take them."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        self._link, self._keys = link, keys

    def enqueue(self, ref: ImageRef, address_key: SourceKey, priority: Priority) -> bool:
        """Enqueue an image, see `dump`; return False if it is enqueued already or its background queue is full."""
        text, job_id, marker_key = dump(ref), secrets.token_hex(16), self._keys.enqueued(address_key, priority)

        def work(client: "Redis") -> bool:
            queue = self._queue(client, priority)
            if priority is not Priority.INTERACTIVE and queue.count >= MAX_WAITING:
                return False
            if not client.set(marker_key, job_id, nx=True, px=int(MARKER_TTL_S * 1000)):
                return False
            try:  # RQ's default description would contain the address
                queue.enqueue_call(FUNCTION, args=(text,), job_id=job_id, description="encode")
            except RedisError:
                client.delete(marker_key)
                raise
            return True

        return self._link.call(work)

    def take(self, priorities: Sequence[Priority], within_s: int) -> TakenJob | None:
        """Take the first job of the first queue that has any off it; None if all stay empty for ``within_s`` seconds.

        Raises:
            RequestError: the job is not one of ours; it is dropped.
        """

        def work(client: "Redis") -> tuple[_Job, str] | None:
            return _taken(client, [self._queue(client, priority) for priority in priorities], within_s)

        taken = self._link.call(work)
        if taken is None:
            return None
        job, queue = taken
        priority = next(level for level in priorities if self._keys.queue(level) == queue)
        return TakenJob(parse(job.arguments), priority, job.id)

    def enqueue_training(self, project_id: int) -> bool:
        """Enqueue the training of a project's decoder unless it waits already; return whether this call did."""
        job_id = _training_job_id(self._keys.prefix, project_id)

        def work(client: "Redis") -> bool:
            queue = self._training_queue(client)
            if queue.count >= MAX_WAITING or job_id in queue.job_ids:
                return False
            queue.enqueue_call(TRAINING, args=(str(project_id),), job_id=job_id, description="training")
            return True

        return self._link.call(work)

    def lost_trainings(self, waiting: Collection[int]) -> set[int]:
        """Return those of the projects that wait for a training whose job is in no queue and with no worker."""

        def work(client: "Redis") -> set[int]:
            queued, keys = set(self._training_queue(client).job_ids), DecoderKeys(self._keys)
            gone = {number for number in waiting if _training_job_id(self._keys.prefix, number) not in queued}
            return {number for number in gone if not client.exists(keys.training(number))}

        return self._link.call(work)

    def take_training(self) -> int | None:
        """Take the first training off its queue, if no image waits in another queue; return the project's number."""

        def work(client: "Redis") -> int | None:
            if any(self._queue(client, priority).count for priority in Priority):
                return None
            if (taken := _taken(client, [self._training_queue(client)], None)) is None:
                return None
            match taken[0].arguments:
                case [str(text)] if text.isascii() and text.isdecimal() and len(text) < 19:
                    return int(text)
            raise RequestError("job: expected the number of a project as its argument")

        return self._link.call(work)

    def clear_marker(self, address_key: SourceKey, priority: Priority) -> None:
        """Delete the marker of a lost job, so that the image can be enqueued again."""
        self._link.call(lambda client: client.delete(self._keys.enqueued(address_key, priority)))

    def job_states(self, jobs: Sequence[tuple[SourceKey, Priority]]) -> list[JobState]:
        """Return how far the jobs of images are, in one round trip; each image with the priority of its job."""
        if not jobs:
            return []

        def work(client: "Redis") -> list[JobState]:
            commands: list[tuple[str | int, ...]] = []
            for address_key, priority in jobs:
                commands.append(("EXISTS", self._keys.lease(address_key)))
                commands.append(("GET", self._keys.enqueued(address_key, priority)))
            commands += [("LRANGE", self._queue(client, priority).key, 0, -1) for priority in Priority]
            *replies, interactive, prefetch, bulk = answers(client, *commands)
            waiting = {*(interactive or ()), *(prefetch or ()), *(bulk or ())}
            return [_job_state(*pair, waiting) for pair in zip(replies[::2], replies[1::2], strict=True)]

        return self._link.call(work)

    def states(self) -> tuple[QueueState, ...]:
        """Return the state of each queue, the most urgent first."""

        def work(client: "Redis") -> tuple[QueueState, ...]:
            return tuple(_state(self._queue(client, priority), priority, client) for priority in Priority)

        return self._link.call(work)

    def _training_queue(self, client: "Redis") -> Queue:
        return Queue(DecoderKeys(self._keys).trainings, connection=client, serializer=JSONSerializer)

    def _queue(self, client: "Redis", priority: Priority) -> Queue:
        return Queue(self._keys.queue(priority), connection=client, serializer=JSONSerializer)


def drop_training(client: "Redis", prefix: str, project_id: int) -> None:
    """Drop the training of a project that waits, whatever its model."""
    job_id = _training_job_id(prefix, project_id)
    for name in client.scan_iter(f"{Queue.redis_queue_namespace_prefix}{prefix}:*:training"):
        client.lrem(name, 0, job_id)
    client.delete(Job.key_for(job_id))


def _training_job_id(prefix: str, project_id: int) -> str:
    return f"{prefix}-training-{project_id}"


class _Job(Job):  # type: ignore[misc]  # RQ counts as untyped, see pyproject
    """A job of which only the argument is read, up to a size."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read the packed call, and nothing else; RQ would unpack it to any size."""
        unpacker = zlib.decompressobj()
        try:
            self.data = unpacker.decompress(raw_data.get(b"data", b""), 2 * MAX_JOB_BYTES)
        except zlib.error:
            self.data = b""

    @property
    def arguments(self) -> object:
        """The call's arguments; None if they cannot be read."""
        try:
            return self.args
        except DeserializationError:
            return None


def _taken(client: "Redis", queues: list[Queue], within_s: int | None) -> tuple[_Job, str] | None:
    """Take the first job off the queues, with its queue's name; None if they stay empty, or are with ``within_s`` None.

    From here on, its lease shows that it is in progress.
    """
    # Twice, because RQ keeps a job that comes from a single queue in a list that only its own workers clear.
    try:
        taken = Queue.dequeue_any(2 * queues, within_s, client, job_class=_Job, serializer=JSONSerializer)
    except DequeueTimeout:
        return None
    if taken is None:
        return None
    client.delete(taken[0].key)
    return taken[0], taken[1].name


def _job_state(is_leased: bool, job_id: bytes | None, waiting: set[bytes]) -> JobState:
    if is_leased:
        return JobState.LEASED
    if job_id is None:
        return JobState.LOST
    return JobState.QUEUED if job_id in waiting else JobState.TAKEN


def _state(queue: Queue, priority: Priority, client: "Redis") -> QueueState:
    depth, first = answers(client, ("LLEN", queue.key), ("LINDEX", queue.key, 0))
    depth = int(depth or 0)
    job_key = Job.key_for(first.decode(errors="replace") if isinstance(first, bytes) else "none")
    since, (seconds, _) = answers(client, ("HGET", job_key, "enqueued_at"), ("TIME",))
    try:
        text = since.decode() if isinstance(since, bytes) else ""
        moment = datetime.strptime(text, _RQ_TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return QueueState(priority.name.lower(), depth, 0.0)
    return QueueState(priority.name.lower(), depth, max(0.0, seconds - moment.timestamp()))
