"""The job queues: one kind of job in three queues, which RQ transports.

A job holds the address of an image as plain JSON. A job that comes out of a queue is untrusted input: its shape and
size are checked, and nothing in it names code.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.embeddings.content_index import SourceKey
from backend.errors import ImageError, Reason, RequestError
from backend.logs import without_credentials
from backend.types import ImageRef, Priority

FUNCTION = "backend.cluster.worker.encode"
"""The function that the jobs name; our workers ignore it, and other RQ workers cannot import it."""

MAX_JOB_BYTES = 16_000_000
"""Largest job; an image inside the task's data is a part of its job, and is refused if it is larger."""

MAX_WAITING = 1000
"""Most images that may wait in the queue of prefetches, and in that of bulk work."""

JOB_TIMEOUT_S = 900
FAILURE_TTL_S = 60
MARKER_TTL_S = 3600.0
_RQ_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class _Job(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    task_id: int | None = None
    project_id: int | None = None
    item_index: int | None = None


def dump(ref: ImageRef) -> str:
    """Return a job's argument.

    >>> dump(ImageRef("/data/upload/1/a.png", task_id=7, project_id=1))
    '{"uri":"/data/upload/1/a.png","task_id":7,"project_id":1,"item_index":null}'

    Raises:
        ImageError: the image is a part of the task's data and larger than a job may be (``image_too_large``), or its
            address is not valid Unicode text (``unsupported_image_source``).
    """
    try:
        text = msgspec.json.encode(_Job(ref.uri, ref.task_id, ref.project_id, ref.item_index)).decode()
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
        raw = msgspec.json.decode(arguments[0], type=_Job)
        return ImageRef(raw.uri, raw.task_id, raw.project_id, raw.item_index)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RequestError(f"job: {str(error)[:200]}") from error


@dataclass(frozen=True)
class QueueState:
    """The number of jobs in a queue, and for how many seconds the first one has waited."""

    name: str
    depth: int
    age_s: float


class JobQueues:
    """The queues of one installation, as the web processes and runs that enqueue jobs see them."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        """Use the names ``keys`` in the Redis at ``link``."""
        self._link, self._keys = link, keys

    def ask(self, ref: ImageRef, address_key: SourceKey, priority: Priority) -> bool:
        """Enqueue an image unless it is enqueued or its background queue is full; return whether this call did.

        Raises:
            ImageError: see `dump`.
            RetryLater: Redis does not answer, or has no room.
        """
        text, job_id, marker_key = dump(ref), secrets.token_hex(16), self._keys.enqueued(address_key, priority)

        def work(client: "Redis") -> bool:
            if priority is not Priority.INTERACTIVE and self._queue(client, priority).count >= MAX_WAITING:
                return False
            if not client.set(marker_key, job_id, nx=True, px=int(MARKER_TTL_S * 1000)):
                return False
            try:
                self._queue(client, priority).enqueue_call(
                    FUNCTION,
                    args=(text,),
                    job_id=job_id,
                    timeout=JOB_TIMEOUT_S,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_S,
                    description="encode",  # RQ's default would contain the address
                )
            except RedisError:
                client.delete(marker_key)
                raise
            return True

        return self._link.call(work)

    def is_queued(self, address_key: SourceKey, priority: Priority) -> bool:
        """Whether the job that was enqueued for an address still waits in its queue.

        Raises:
            RetryLater: Redis does not answer.
        """

        def work(client: "Redis") -> bool:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(self._keys.enqueued(address_key, priority))
            (job_id,) = answers(pipeline)
            if not isinstance(job_id, bytes):
                return False
            return client.lpos(self._queue(client, priority).key, job_id.decode(errors="replace")) is not None

        return self._link.call(work)

    def is_click_waiting(self) -> bool:
        """Whether an image that an annotator waits for is in the interactive queue.

        Raises:
            RetryLater: Redis does not answer.
        """
        return self._link.call(lambda client: bool(self._queue(client, Priority.INTERACTIVE).count))

    def clear_marker(self, address_key: SourceKey, priority: Priority) -> None:
        """Delete the marker of a lost job, so that the image can be enqueued again.

        Raises:
            RetryLater: Redis does not answer.
        """
        self._link.call(lambda client: client.delete(self._keys.enqueued(address_key, priority)))

    def states(self) -> tuple[QueueState, ...]:
        """Return the state of each queue, the most urgent first.

        Raises:
            RetryLater: Redis does not answer.
        """

        def work(client: "Redis") -> tuple[QueueState, ...]:
            return tuple(_state(self._queue(client, priority), priority, client) for priority in Priority)

        return self._link.call(work)

    def _queue(self, client: "Redis", priority: Priority) -> Queue:
        return Queue(self._keys.queue(priority), connection=client, serializer=JSONSerializer)


def _state(queue: Queue, priority: Priority, client: "Redis") -> QueueState:
    pipeline = client.pipeline(transaction=False)
    pipeline.llen(queue.key)
    pipeline.lindex(queue.key, 0)
    depth, first = answers(pipeline)
    depth = int(depth or 0)
    pipeline.hget(Job.key_for(first.decode(errors="replace") if isinstance(first, bytes) else "none"), "enqueued_at")
    pipeline.time()
    since, (seconds, _) = answers(pipeline)
    try:
        text = since.decode() if isinstance(since, bytes) else ""
        moment = datetime.strptime(text, _RQ_TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return QueueState(priority.name.lower(), depth, 0.0)
    return QueueState(priority.name.lower(), depth, max(0.0, seconds - moment.timestamp()))
