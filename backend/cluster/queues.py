"""What is asked of the workers: one job shape, three queues. RQ carries it and nothing more.

A job holds the address of an image as plain JSON. What comes out of a queue is read as if a stranger had put it there:
of a known shape and size, without anything in it that names code.
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
"""What the jobs name; workers of ours do not look at it, others would not find it."""

MAX_JOB_BYTES = 16_000_000
"""An image that stands in the task's data itself travels in its job; one that is larger does not."""

MAX_WAITING = 1000
"""How many images may wait to be encoded ahead."""

JOB_TIMEOUT_S = 900
FAILURE_TTL_S = 60
ASKED_S = 3600.0
_RQ_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class _Job(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    task_id: int | None = None
    project_id: int | None = None
    item_index: int | None = None


def dump(ref: ImageRef) -> str:
    """Return a job's argument.

    Raises:
        ImageError: the image stands in the task's data and is too large to travel (``image_too_large``), or its address
            is no text (``unsupported_image_source``).
    """
    try:
        text = msgspec.json.encode(_Job(ref.uri, ref.task_id, ref.project_id, ref.item_index)).decode()
    except UnicodeEncodeError as error:  # half of a character of two
        shown = ascii(without_credentials(ref.uri)[:80])
        raise ImageError(f"{shown} is not an address", Reason.UNSUPPORTED_IMAGE_SOURCE) from error
    if len(text) > MAX_JOB_BYTES:
        raise ImageError(
            f"an image inside the task's data: expected at most {MAX_JOB_BYTES} bytes, got {len(text)}",
            Reason.IMAGE_TOO_LARGE,
        )
    return text


def parse(arguments: object) -> ImageRef:
    """Return the image that a job is about.

    Raises:
        RequestError: this is not a job of ours.
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
    """How full a queue is; ``age_s`` is how long its first job has waited."""

    name: str
    depth: int
    age_s: float


class JobQueues:
    """The queues of one installation, from the side that asks."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        """Connect to nothing yet."""
        self._link, self._keys = link, keys

    def ask(self, ref: ImageRef, place: SourceKey, priority: Priority) -> bool:
        """Queue an image unless somebody has already; return whether this call did.

        Raises:
            ImageError: see `dump`.
            RetryLater: Redis does not answer, or has no room.
        """
        text, job_id, asked = dump(ref), secrets.token_hex(16), self._keys.asked(place, priority)

        def work(client: "Redis") -> bool:
            if priority is not Priority.INTERACTIVE and self._queue(client, priority).count >= MAX_WAITING:
                return False
            if not client.set(asked, job_id, nx=True, px=int(ASKED_S * 1000)):
                return False
            try:
                self._queue(client, priority).enqueue_call(
                    FUNCTION,
                    args=(text,),
                    job_id=job_id,
                    timeout=JOB_TIMEOUT_S,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_S,
                    description="encode",  # RQ's own would show the address
                )
            except RedisError:
                client.delete(asked)
                raise
            return True

        return self._link.call(work)

    def is_queued(self, place: SourceKey, priority: Priority) -> bool:
        """Whether the job that was announced for an address still waits in its queue.

        Raises:
            RetryLater: Redis does not answer.
        """

        def work(client: "Redis") -> bool:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(self._keys.asked(place, priority))
            (job_id,) = answers(pipeline)
            if not isinstance(job_id, bytes):
                return False
            return client.lpos(self._queue(client, priority).key, job_id.decode(errors="replace")) is not None

        return self._link.call(work)

    def is_click_waiting(self) -> bool:
        """Whether an image that somebody at a screen waits for is in its queue.

        Raises:
            RetryLater: Redis does not answer.
        """
        return self._link.call(lambda client: bool(self._queue(client, Priority.INTERACTIVE).count))

    def forget(self, place: SourceKey, priority: Priority) -> None:
        """Take back the announcement of a job that got lost, so that it can be queued again.

        Raises:
            RetryLater: Redis does not answer.
        """
        self._link.call(lambda client: client.delete(self._keys.asked(place, priority)))

    def states(self) -> tuple[QueueState, ...]:
        """Return how full the queues are, the most urgent first.

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
