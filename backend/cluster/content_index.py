"""The index of image addresses in Redis, shared by all processes, and the events that announce finished jobs.

The counterpart of `backend.embeddings.content_index`. The age of an entry is computed from its remaining time to live
in Redis, so the clocks of the machines do not matter. Entries and events are JSON of a fixed shape; anything else
counts as missing.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

from backend.cluster.connection import RedisConnection, answers
from backend.cluster.keys import Keys
from backend.cluster.lease import Lease, unused_key
from backend.embeddings.content_index import (
    FAILURE_S,
    FRESH_S,
    IMMUTABLE_FRESH_S,
    USABLE_FACTOR,
    SourceKey,
    failure_lasts_s,
)
from backend.errors import AccessError, BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images.fetch import Validators

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
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
    """

    digest: str  # sha256 of the image file, in hex
    version: Validators  # HTTP validators that the image's server sent with it
    immutable: bool  # whether the content at the address never changes
    age_s: float = 0.0  # seconds since the server last confirmed it

    @property
    def is_fresh(self) -> bool:
        """Whether the record may be used without revalidation at the image's server."""
        return self.age_s < _fresh_s(immutable=self.immutable)


@dataclass(frozen=True)
class LookupResult:
    """The content and the failure that Redis holds for one address; each is None if missing."""

    record: SharedRecord | None = None
    failure: BackendError | None = None


class SharedContentIndex:
    """Addresses and their contents in Redis, shared by all processes."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        self._link, self._keys = link, keys

    def get(self, address_key: SourceKey) -> LookupResult:
        """Return the content and the failure stored for an address."""
        keys = self._keys.content(address_key), self._keys.failure(address_key)
        commands = [(command, key) for key in keys for command in ("GET", "PTTL")]
        data, left_ms, failure_data, failure_left_ms = self._link.call(lambda client: answers(client, *commands))
        raw, failure, record = _decode(data, _Record), _decode(failure_data, _Failure), None
        if raw is not None and 0 < left_ms <= _usable_ms(raw):  # a key of a restored dump may have no expiry
            record = _to_record(raw, (_usable_ms(raw) - left_ms) / 1000)
        is_current = 0 < failure_left_ms <= FAILURE_S * 1000
        return LookupResult(record, _to_error(failure) if failure is not None and is_current else None)

    def put(self, address_key: SourceKey, record: SharedRecord, lease: Lease) -> None:
        """Store the current content of an address, if the lease is still held, and publish a completion event."""
        raw = _Record(record.digest, record.version.etag, record.version.last_modified, record.immutable)
        failure_key = self._keys.failure(address_key)
        self._write(lease, self._keys.content(address_key), raw, _usable_ms(raw), delete=failure_key)
        self._publish(_Event(*address_key, note=raw))

    def fail(self, address_key: SourceKey, error: BackendError, lease: Lease) -> None:
        """Cache a failure for a short time, if the lease is still held, and publish a completion event.

        The event is also published if Redis has no room for the failure.
        """
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        raw = _Failure(kind, error.reason.value, str(error)[:_MAX_TEXT])
        delete = unused_key(lease.key) if error.retry else self._keys.content(address_key)
        try:
            self._write(lease, self._keys.failure(address_key), raw, int(failure_lasts_s(error) * 1000), delete=delete)
        except RetryLater as unavailable:
            logger.warning("event=failure_not_kept detail=%r", str(unavailable))
        self._publish(_Event(*address_key, failure=raw))

    def _write(self, lease: Lease, key: str, value: _Record | _Failure, lasts_ms: int, *, delete: str) -> None:
        if not self._link.run_script(
            _WRITE, (lease.key, key, delete), lease.token, msgspec.json.encode(value), lasts_ms
        ):
            logger.warning("event=lease_lost key=%s", lease.key)

    def _publish(self, event: _Event) -> None:
        self._link.call(lambda client: client.publish(self._keys.events, msgspec.json.encode(event)))


def digest_of(data: object) -> str | None:
    """Return the digest in a stored record, None if it is none."""
    raw = _decode(data, _Record)
    return None if raw is None else raw.digest


def parse_event(data: bytes) -> tuple[SourceKey, LookupResult] | None:
    """Return the address and the result in a message of the channel, None if the message has another form.

    >>> parse_event(b"damaged") is None
    True
    """
    raw = _decode(data, _Event)
    if raw is None:
        return None
    record = None if raw.note is None else _to_record(raw.note, 0.0)
    failure = None if raw.failure is None else _to_error(raw.failure)
    return (raw.owner, raw.address), LookupResult(record, failure)


def _decode(data: object, kind: type[T]) -> T | None:
    """Return a value of a fixed shape; None for anything else."""
    try:
        return msgspec.json.decode(data, type=kind) if isinstance(data, bytes) else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _fresh_s(*, immutable: bool) -> float:
    return IMMUTABLE_FRESH_S if immutable else FRESH_S


def _usable_ms(raw: _Record) -> int:
    return int(1000 * USABLE_FACTOR * _fresh_s(immutable=raw.immutable))


def _to_record(raw: _Record, age_s: float) -> SharedRecord:
    return SharedRecord(raw.digest, Validators(raw.etag, raw.last_modified), raw.immutable, age_s)


def _to_error(raw: _Failure) -> BackendError:
    try:
        reason = Reason(raw.reason)
    except ValueError:  # of a newer version
        reason = Reason.INTERNAL_ERROR
    return _KINDS.get(raw.kind, BackendError)(raw.text[:_MAX_TEXT], reason)
