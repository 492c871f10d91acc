"""What all processes know of the addresses images come from, and the notices by which they tell each other.

The counterpart of `backend.embeddings.content_index`, in Redis. How old an entry is follows from how much of its time
is left there, so the clocks of the machines do not matter. Entries and notices are JSON of a fixed shape; anything else
reads as nothing.
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

_LONGEST_TEXT = 500
_KINDS: dict[str, type[BackendError]] = {
    kind.__name__: kind for kind in (ImageError, AccessError, RetryLater, RequestError, BackendError)
}

_WRITE = """
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
return 1
"""


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    etag: str
    last_modified: str
    immutable: bool


class _Failure(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    reason: str
    text: str


class _Notice(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    address: str
    note: _Note | None = None
    failure: _Failure | None = None


@dataclass(frozen=True)
class SharedRecord:
    """What lies behind an address.

    Attributes:
        digest: sha256 of the image file.
        version: what its server said of it.
        immutable: whether it never changes.
        age_s: how long ago that was so.
    """

    digest: str
    version: Validators
    immutable: bool
    age_s: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether it may be used without asking the image's server."""
        return self.age_s < (IMMUTABLE_FRESH_S if self.immutable else FRESH_S)

    @property
    def usable_s(self) -> float:
        """For how long it may be used while its server is being asked."""
        return USABLE_FACTOR * (IMMUTABLE_FRESH_S if self.immutable else FRESH_S)


@dataclass(frozen=True)
class LookupResult:
    """What Redis holds about one address."""

    note: SharedRecord | None = None
    failure: BackendError | None = None


@dataclass(frozen=True)
class CompletionEvent:
    """A worker has dealt with an address."""

    place: SourceKey
    known: LookupResult


class SharedContentIndex:
    """Addresses and their contents, as all processes see them."""

    def __init__(self, link: RedisConnection, keys: Keys) -> None:
        """Connect to nothing yet."""
        self._link, self._keys = link, keys

    def get(self, place: SourceKey) -> LookupResult:
        """Return what is known of an address.

        Raises:
            RetryLater: Redis does not answer.
        """
        key, failure_key = self._keys.place(place), self._keys.failure(place)

        def work(client: "Redis") -> list[Any]:  # Any: a pipeline's answers are of many types
            pipeline = client.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            pipeline.get(failure_key)
            pipeline.pttl(failure_key)
            return answers(pipeline)

        note, left_ms, failure, failure_left_ms = self._link.call(work)
        is_passing = 0 < failure_left_ms <= FAILURE_S * 1000  # one from a restored dump may have no end
        return LookupResult(_note(note, left_ms), _failure(failure) if is_passing else None)

    def put(self, place: SourceKey, note: SharedRecord, lease: Lease) -> None:
        """Note what lies behind an address now, if the lease still holds, and tell everybody.

        Raises:
            RetryLater: Redis does not answer, or has no room.
        """
        raw = _Note(note.digest, note.version.etag, note.version.last_modified, note.immutable)
        self._write(lease, self._keys.place(place), raw, note.usable_s, forget=self._keys.failure(place))
        self._tell(_Notice(*place, note=raw))

    def fail(self, place: SourceKey, error: BackendError, lease: Lease) -> None:
        """Remember a failure for a short while, if the lease still holds, and tell everybody.

        A Redis that has no room for it still passes the notice on.

        Raises:
            RetryLater: Redis does not answer.
        """
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        raw = _Failure(kind, error.reason.value, str(error)[:_LONGEST_TEXT])
        lasts_s = PASSING_FAILURE_S if error.retry else FAILURE_S
        forget = lease.key + ":none" if error.retry else self._keys.place(place)
        try:
            self._write(lease, self._keys.failure(place), raw, lasts_s, forget=forget)
        except RetryLater as unavailable:
            logger.warning("event=failure_not_kept detail=%r", str(unavailable))
        self._tell(_Notice(*place, failure=raw))

    def _write(self, lease: Lease, key: str, value: _Note | _Failure, lasts_s: float, *, forget: str) -> None:
        keys, arguments = (lease.key, key, forget), (lease.token, msgspec.json.encode(value), int(lasts_s * 1000))
        if not self._link.call(lambda client: client.eval(_WRITE, len(keys), *keys, *arguments)):
            logger.warning("event=lease_lost key=%s", lease.key)

    def _tell(self, notice: _Notice) -> None:
        self._link.call(lambda client: client.publish(self._keys.notices, msgspec.json.encode(notice)))


def parse_notice(data: bytes) -> CompletionEvent | None:
    """Return what a message on the channel says, None if it is not one of ours."""
    try:
        raw = msgspec.json.decode(data, type=_Notice)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return CompletionEvent((raw.owner, raw.address), LookupResult(_unpacked(raw.note, 0.0), _as_error(raw.failure)))


def _note(data: object, left_ms: int) -> SharedRecord | None:
    if not isinstance(data, bytes):
        return None
    try:
        raw = msgspec.json.decode(data, type=_Note)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    lasts_s = USABLE_FACTOR * (IMMUTABLE_FRESH_S if raw.immutable else FRESH_S)
    is_passing = 0 < left_ms <= lasts_s * 1000
    return _unpacked(raw, lasts_s - left_ms / 1000) if is_passing else None


def _unpacked(raw: _Note | None, age_s: float) -> SharedRecord | None:
    if raw is None or len(raw.digest) != 64 or not set(raw.digest) <= set("0123456789abcdef"):
        return None
    return SharedRecord(raw.digest, Validators(raw.etag, raw.last_modified), raw.immutable, age_s)


def _failure(data: object) -> BackendError | None:
    if not isinstance(data, bytes):
        return None
    try:
        return _as_error(msgspec.json.decode(data, type=_Failure))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _as_error(raw: _Failure | None) -> BackendError | None:
    if raw is None:
        return None
    try:
        reason = Reason(raw.reason)
    except ValueError:
        reason = Reason.INTERNAL_ERROR
    return _KINDS.get(raw.kind, BackendError)(raw.text[:_LONGEST_TEXT], reason)
