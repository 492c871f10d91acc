"""The last answers to clicks in Redis, so that any web process can correct what another one answered.

A value holds the region as JSON of the wire, and its logits as float16; a damaged one counts as missing.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import numpy as np

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.errors import RetryLater
from backend.protocol import json_fields, messages, regions
from backend.types import Prediction, RecentAnswer, Region


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    result: bytes
    prompt_ids: tuple[str, ...]
    draft: str
    answered_at: float
    logits: bytes = b""


class RedisAnswers:
    """The newest answers on each image of a task, for all web processes of one model."""

    def __init__(self, link: RedisConnection, keys: Keys, ttl_s: float, most: int, low_res_size: int) -> None:
        """Keep the ``most`` newest answers on an image until ``ttl_s`` after the last one.

        ``low_res_size`` is the side of the decoder's logits.
        """
        self._link, self._keys, self._ttl_s, self._most = link, keys, ttl_s, most
        self._low_res_size = low_res_size

    def add(self, key: tuple[int, int, str], new: Sequence[RecentAnswer]) -> None:
        """Add answers to those on an image, oldest first; they are lost while Redis does not answer."""
        name, values = self._keys.answers(*key), [_dump(answer) for answer in new]
        ttl_ms, most = int(self._ttl_s * 1000), self._most
        with suppress(RetryLater):  # the link's trouble is in the log and on the status page
            self._link.call(lambda client: client.rpush(name, *values))
            self._link.call(lambda client: client.ltrim(name, -most, -1))
            self._link.call(lambda client: client.pexpire(name, ttl_ms))

    def on(self, key: tuple[int, int, str]) -> tuple[RecentAnswer, ...]:
        """Return the answers on an image, oldest first; none while Redis does not answer."""
        name, most = self._keys.answers(*key), self._most
        try:
            values = self._link.call(lambda client: client.lrange(name, -most, -1))
        except RetryLater:
            return ()
        return tuple(answer for value in values if (answer := _load(value, self._low_res_size)) is not None)


def _dump(answer: RecentAnswer) -> bytes:
    region = answer.region
    assert region.original_size is not None  # an answer has the size of its image
    kind = f"{type(region.shape).__name__.lower()}labels"
    saved = Region(
        region.id, region.from_name, kind, region.to_name, region.shape, region.labels, region.original_size,
        item_index=region.item_index,
    )  # fmt: skip
    result = messages.dump_result(Prediction((saved,), 0.0, ""))
    logits = b"" if answer.low_res_mask is None else answer.low_res_mask.tobytes()
    return msgspec.msgpack.encode(_Record(result, answer.prompt_ids, answer.draft, answer.answered_at, logits))


def _load(value: bytes | str, low_res_size: int) -> RecentAnswer | None:
    """Return the answer in a value, None where it is damaged."""
    try:
        record = msgspec.msgpack.decode(value if isinstance(value, bytes) else b"", type=_Record)
        logits = np.frombuffer(record.logits, dtype=np.float16) if record.logits else None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    answered, _ = regions.read(json_fields.items(msgspec.Raw(record.result)))
    if len(answered) != 1 or not math.isfinite(record.answered_at):
        return None
    if logits is not None:
        if logits.size != low_res_size**2 or not np.isfinite(logits).all():
            return None
        logits = logits.reshape(low_res_size, low_res_size)
    return RecentAnswer(answered[0], record.prompt_ids, record.draft, record.answered_at, logits)
