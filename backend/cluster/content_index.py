"""The index of image addresses in Redis, shared by all processes, and the events that announce finished jobs.

The counterpart of `backend.embeddings.content_index`. The age of an entry is computed from its remaining time to live
in Redis, so the clocks of the machines do not matter. Entries and events are JSON of a fixed shape; anything else
counts as missing.
"""

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.cluster.lease import Lease
from backend.embeddings.content_index import (
    FAILURE_S,
    FRESH_S,
    IMMUTABLE_FRESH_S,
    PASSING_FAILURE_S,
    USABLE_FACTOR,
    SourceKey,
)
from backend.errors import AccessError, BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images.fetch import Validators

logger = logging.getLogger(__name__)

_MAX_TEXT = 500
_KINDS: dict[str, type[BackendError]] = {
    kind.__name__: kind for kind in (ImageError, AccessError, RetryLater, RequestError, BackendError)
}

_WRITE = """
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
return 1
"""


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    etag: str
    last_modified: str
    immutable: bool


class _Failure(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    reason: str
    text: str


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    address: str
    note: _Record | None = None
    failure: _Failure | None = None


@dataclass(frozen=True)
class SharedRecord:
    """The content last seen at an address.

    >>> SharedRecord("00" * 32, Validators(), immutable=False, age_s=61.0).is_fresh
    False

    Attributes:
        digest: sha256 of the image file, in hex.
        version: HTTP validators that the image's server sent with it.
        immutable: whether the content at the address never changes.
        age_s: seconds since the server last confirmed it.
    """

    digest: str
    version: Validators
    immutable: bool
    age_s: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the record may be used without revalidation at the image's server."""
        return self.age_s < (IMMUTABLE_FRESH_S if self.immutable else FRESH_S)

    @property
    def usable_s(self) -> float:
        """Age in seconds up to which the record may be used while it is being revalidated."""
        return USABLE_FACTOR * (IMMUTABLE_FRESH_S if self.immutable else FRESH_S)


@dataclass(frozen=True)
class LookupResult:
    """The content and the failure that Redis holds for one address; each is None if missing."""

    record: SharedRecord | None = None
    failure: BackendError | None = None


@dataclass(frozen=True)
class CompletionEvent:
    """A worker's announcement of its result for an address."""

    address_key: SourceKey
    result: LookupResult


class SharedContentIndex:
    """Addresses and their contents in Redis, shared by all processes."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        """Use the names ``keys`` in the Redis at ``link``."""
        self._link, self._keys = link, keys

    def get(self, address_key: SourceKey) -> LookupResult:
        """Return the content and the failure stored for an address.

        Raises:
            RetryLater: Redis does not answer.
        """
        key, failure_key = self._keys.content(address_key), self._keys.failure(address_key)

        def work(client: "Redis") -> list[Any]:  # Any: a pipeline's answers are of many types
            pipeline = client.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            pipeline.get(failure_key)
            pipeline.pttl(failure_key)
            return answers(pipeline)

        record, left_ms, failure, failure_left_ms = self._link.call(work)
        is_current = 0 < failure_left_ms <= FAILURE_S * 1000  # a key of a restored dump may have no expiry
        return LookupResult(_parse_record(record, left_ms), _parse_failure(failure) if is_current else None)

    def put(self, address_key: SourceKey, record: SharedRecord, lease: Lease) -> None:
        """Store the current content of an address, if the lease is still held, and publish a completion event.

        Raises:
            RetryLater: Redis does not answer, or has no room.
        """
        raw = _Record(record.digest, record.version.etag, record.version.last_modified, record.immutable)
        failure_key = self._keys.failure(address_key)
        self._write(lease, self._keys.content(address_key), raw, record.usable_s, delete=failure_key)
        self._publish(_Event(*address_key, note=raw))

    def fail(self, address_key: SourceKey, error: BackendError, lease: Lease) -> None:
        """Cache a failure for a short time, if the lease is still held, and publish a completion event.

        The event is also published if Redis has no room for the failure.

        Raises:
            RetryLater: Redis does not answer.
        """
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        raw = _Failure(kind, error.reason.value, str(error)[:_MAX_TEXT])
        lasts_s = PASSING_FAILURE_S if error.retry else FAILURE_S
        delete = lease.key + ":none" if error.retry else self._keys.content(address_key)
        try:
            self._write(lease, self._keys.failure(address_key), raw, lasts_s, delete=delete)
        except RetryLater as unavailable:
            logger.warning("event=failure_not_kept detail=%r", str(unavailable))
        self._publish(_Event(*address_key, failure=raw))

    def _write(self, lease: Lease, key: str, value: _Record | _Failure, lasts_s: float, *, delete: str) -> None:
        keys, arguments = (lease.key, key, delete), (lease.token, msgspec.json.encode(value), int(lasts_s * 1000))
        if not self._link.call(lambda client: client.eval(_WRITE, len(keys), *keys, *arguments)):
            logger.warning("event=lease_lost key=%s", lease.key)

    def _publish(self, event: _Event) -> None:
        self._link.call(lambda client: client.publish(self._keys.events, msgspec.json.encode(event)))


def parse_event(data: bytes) -> CompletionEvent | None:
    """Return the event in a message of the channel, None if the message has another form.

    >>> parse_event(b"damaged") is None
    True
    """
    try:
        raw = msgspec.json.decode(data, type=_Event)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return CompletionEvent((raw.owner, raw.address), LookupResult(_to_record(raw.note, 0.0), _to_error(raw.failure)))


def _parse_record(data: object, left_ms: int) -> SharedRecord | None:
    if not isinstance(data, bytes):
        return None
    try:
        raw = msgspec.json.decode(data, type=_Record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    lasts_s = USABLE_FACTOR * (IMMUTABLE_FRESH_S if raw.immutable else FRESH_S)
    is_current = 0 < left_ms <= lasts_s * 1000
    return _to_record(raw, lasts_s - left_ms / 1000) if is_current else None


def _to_record(raw: _Record | None, age_s: float) -> SharedRecord | None:
    if raw is None or len(raw.digest) != 64 or not set(raw.digest) <= set("0123456789abcdef"):
        return None
    return SharedRecord(raw.digest, Validators(raw.etag, raw.last_modified), raw.immutable, age_s)


def _parse_failure(data: object) -> BackendError | None:
    if not isinstance(data, bytes):
        return None
    try:
        return _to_error(msgspec.json.decode(data, type=_Failure))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _to_error(raw: _Failure | None) -> BackendError | None:
    if raw is None:
        return None
    try:
        reason = Reason(raw.reason)
    except ValueError:
        reason = Reason.INTERNAL_ERROR
    return _KINDS.get(raw.kind, BackendError)(raw.text[:_MAX_TEXT], reason)
