"""The last answers to clicks in Redis, so that any web process can correct what another one answered.

A value holds the region as JSON of the wire, and its logits as float16; a damaged one counts as missing.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from redis import Redis

from backend.cluster.connection import RedisConnection, answers
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

    def __init__(self, link: RedisConnection, keys: Keys, ttl_s: float, most: int) -> None:
        """Keep the ``most`` newest answers on an image until ``ttl_s`` after the last one."""
        self._link, self._keys, self._ttl_s, self._most = link, keys, ttl_s, most

    def add(self, key: tuple[int, int, str], new: Sequence[RecentAnswer]) -> None:
        """Add answers to those on an image, oldest first; they are lost while Redis does not answer."""
        name, values = self._keys.answers(*key), [_dump(answer) for answer in new]

        def work(client: "Redis") -> None:
            pipeline = client.pipeline()
            pipeline.rpush(name, *values)
            pipeline.ltrim(name, -self._most, -1)
            pipeline.pexpire(name, int(self._ttl_s * 1000))
            pipeline.execute()

        with suppress(RetryLater):  # the link's trouble is in the log and on the status page
            self._link.call(work)

    def on(self, key: tuple[int, int, str]) -> tuple[RecentAnswer, ...]:
        """Return the answers on an image, oldest first; none while Redis does not answer."""

        def work(client: "Redis") -> list[Any]:  # Any: a pipeline's answers are of many types
            pipeline = client.pipeline(transaction=False)
            pipeline.lrange(self._keys.answers(*key), -self._most, -1)
            return answers(pipeline)

        try:
            [values] = self._link.call(work)
        except RetryLater:
            return ()
        return tuple(answer for value in values or () if (answer := _load(value)) is not None)


def _dump(answer: RecentAnswer) -> bytes:
    found = answer.region
    assert found.original_size is not None  # an answer has the size of its image
    kind = type(found.shape).__name__.lower()
    region = Region(
        found.id, found.from_name, f"{kind}labels", found.to_name, found.shape, found.labels, found.original_size,
        item_index=found.item_index,
    )  # fmt: skip
    result = messages.dump_result(Prediction((region,), 0.0, ""))
    logits = b"" if answer.low_res_mask is None else answer.low_res_mask.tobytes()
    return msgspec.msgpack.encode(_Record(result, answer.prompt_ids, answer.draft, answer.answered_at, logits))


def _load(value: bytes) -> RecentAnswer | None:
    """Return the answer in a value, None where it is damaged."""
    try:
        record = msgspec.msgpack.decode(value, type=_Record)
        logits = np.frombuffer(record.logits, dtype=np.float16) if record.logits else None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    found, _ = regions.read(json_fields.items(msgspec.Raw(record.result)))
    if len(found) != 1 or not math.isfinite(record.answered_at):
        return None
    if logits is not None:
        side = math.isqrt(logits.size)
        if side * side != logits.size or not np.isfinite(logits).all():
            return None
        logits = logits.reshape(side, side)
    return RecentAnswer(found[0], record.prompt_ids, record.draft, record.answered_at, logits)
