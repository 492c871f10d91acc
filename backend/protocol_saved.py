"""What a task already holds, as Label Studio writes it: its annotations and predictions, their regions still unread.

Nothing raises: what cannot be read counts as not there, since one damaged annotation must not cost a task its masks.
"""

from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec

from backend import json_fields


@dataclass(frozen=True)
class Saved:
    """One annotation or prediction.

    Attributes:
        id: its id, None where the caller gave none.
        changed_at: when it was last changed, seconds since 1970; 0 where nothing says so.
        result: its regions, each still JSON.
        is_cancelled: whether the annotator skipped the task with it.
        is_ground_truth: whether a reviewer marked it as the one to go by.
        model_version: of a prediction; empty for annotations and where the caller gave none.
    """

    id: int | None
    changed_at: float
    result: tuple[msgspec.Raw, ...]
    is_cancelled: bool = False
    is_ground_truth: bool = False
    model_version: str = ""


class _Saved(msgspec.Struct):
    id: object = None
    result: msgspec.Raw = msgspec.Raw(b"[]")
    was_cancelled: object = None
    ground_truth: object = None
    model_version: object = None
    created_at: object = None
    updated_at: object = None


def read(raw: msgspec.Raw) -> tuple[Saved, ...]:
    """Return the annotations, or the predictions, of a task in the order in which they stand there."""
    found = []
    for item in _listed(raw):
        try:
            one = msgspec.json.decode(item, type=_Saved)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        found.append(
            Saved(
                id=json_fields.whole(one.id),
                changed_at=max(_seconds(one.updated_at), _seconds(one.created_at)),
                result=_listed(one.result),
                is_cancelled=one.was_cancelled is True,
                is_ground_truth=one.ground_truth is True,
                model_version=json_fields.text(one.model_version),
            )
        )
    return tuple(found)


def _listed(raw: msgspec.Raw) -> tuple[msgspec.Raw, ...]:
    try:
        return msgspec.json.decode(raw, type=tuple[msgspec.Raw, ...])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ()


def _seconds(moment: object) -> float:
    try:
        found = msgspec.convert(moment, datetime)
    except msgspec.ValidationError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
