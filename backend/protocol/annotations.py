"""Reads the annotations and predictions of a task; their regions stay unparsed.

Nothing raises: what cannot be read counts as missing, since one damaged annotation must not cost a task its masks.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec

from backend.protocol import json_fields

LARGE_BODY = 1 << 16
SMALLEST_SAVED = 16  # bytes of the shortest list that can hold a region; anything shorter is not parsed
_KEY = b'"rle"'
_CODE = re.compile(rb'"rle"\s*:\s*\[')


@dataclass(frozen=True)
class Saved:
    """One annotation or prediction."""

    id: int | None  # its id, None where the caller gave none
    changed_at: float  # time of its last change, seconds since 1970; 0 where it is unknown
    result: tuple[msgspec.Raw, ...]  # its regions, each still JSON
    is_cancelled: bool = False  # whether the annotator skipped the task with it
    is_ground_truth: bool = False  # whether a reviewer marked it as the ground truth
    model_version: str = ""  # of a prediction; empty for annotations and where the caller gave none
    author: int | None = None  # id of the user who completed an annotation, None where the caller gave none

    @property
    def stamp(self) -> str:
        """Identifies a draft and its state; another one after each change."""
        return f"{self.id}:{self.changed_at}"


class _Saved(msgspec.Struct):
    id: object = None
    result: msgspec.Raw = msgspec.Raw(b"[]")
    was_cancelled: object = None
    ground_truth: object = None
    model_version: object = None
    completed_by: object = None
    created_at: object = None
    updated_at: object = None


def without_masks(body: bytes) -> bytes:
    """Return a large click body with the run-length codes before its context emptied; any other body unchanged.

    Codes are lists of plain numbers, so each ends at the next ``]``; finding those is many times faster than any JSON
    parser, which has to read every number. Task data may use the key for something else, which stays unchanged. Label
    Studio writes the context last.
    """
    end = body.rfind(b'"context"')
    if len(body) < LARGE_BODY or end < 0 or body[end + len(b'"context"') :].lstrip(b" \t\r\n:").startswith(b"null"):
        return body
    kept, last, close, at = [], 0, 0, body.find(_KEY, 0, end)
    while at >= 0:
        code = _CODE.match(body, at)
        at += len(_KEY)
        if code and body[code.start() - 1 : code.start()] != b"\\":
            start = code.end()
            if close < start and (close := body.find(b"]", start, end)) < 0:
                break
            if all(body.find(sign, start, close) < 0 for sign in (b'"', b"[", b"{")):
                kept.append(body[last:start])
                last = at = close
        at = body.find(_KEY, at, end)
    kept.append(body[last:])
    return b"".join(kept)


def read(raw: msgspec.Raw) -> tuple[Saved, ...]:
    """Return the annotations, or the predictions, of a task in their order in the JSON."""
    decoded = (_decoded(item) for item in json_fields.items(raw) if memoryview(item).nbytes >= SMALLEST_SAVED)
    return tuple(
        Saved(
            id=json_fields.whole(item.id),
            changed_at=max(_seconds(item.updated_at), _seconds(item.created_at)),
            result=json_fields.items(item.result),
            is_cancelled=item.was_cancelled is True,
            is_ground_truth=item.ground_truth is True,
            model_version=json_fields.text(item.model_version),
            author=json_fields.whole(item.completed_by),
        )
        for item in decoded
        if item is not None
    )


def newest_first(candidates: Iterable[Saved]) -> list[Saved]:
    """Return annotations or predictions in order of precedence: ground truths first, then the last changed."""
    return sorted(candidates, key=lambda saved: (saved.is_ground_truth, saved.changed_at, saved.id or 0), reverse=True)


def _decoded(item: msgspec.Raw) -> _Saved | None:
    try:
        return msgspec.json.decode(item, type=_Saved)
    except json_fields.DECODE_ERRORS:
        return None


def _seconds(moment: object) -> float:
    try:
        time = msgspec.convert(moment, datetime)
    except msgspec.ValidationError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
