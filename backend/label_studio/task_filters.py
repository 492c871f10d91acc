"""Selects tasks of a project, in the form of the Data Manager's filters."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from backend.errors import RequestError

NEWEST_FIRST, OLDEST_FIRST = "-tasks:id", "tasks:id"


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """One filter of the Data Manager, as Label Studio writes it, such as of the column ``filter:tasks:data.city``."""

    filter: str
    operator: str
    type: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    child_filter: "Condition | None" = None  # a second filter that the same row must pass


@dataclass(frozen=True)
class Selection:
    """The tasks of a project that pass all conditions, or any of them if ``is_any``.

    >>> dump(Selection((below(7),)))
    '{"filters":{"conjunction":"and","items":[{"filter":"filter:tasks:id","operator":"less","type":"Number","value":7}]},"ordering":["-tasks:id"]}'
    """

    conditions: tuple[Condition, ...] = ()
    is_any: bool = False

    def and_also(self, more: Condition) -> "Selection":
        """Return the tasks that also pass ``more``; `RequestError` if Label Studio has no query for them."""
        if not self.is_any or len(self.conditions) < 2:
            return Selection((*self.conditions, more))
        if any(condition.child_filter is not None for condition in self.conditions):
            raise RequestError("a view whose filters are joined by 'or' and hold further ones cannot be narrowed down")
        narrowed = (msgspec.structs.replace(condition, child_filter=more) for condition in self.conditions)
        return replace(self, conditions=tuple(narrowed))


class _Filters(msgspec.Struct):
    conjunction: str = "and"
    items: tuple[Condition, ...] = ()


class _Selected(msgspec.Struct):
    all: bool
    included: Sequence[int]


class _Query(msgspec.Struct, rename={"selected": "selectedItems"}, omit_defaults=True):
    filters: _Filters | None = None
    ordering: tuple[str, ...] = ()
    selected: _Selected | None = None


def below(task_id: int) -> Condition:
    """Return the condition that a task is older than another."""
    return _condition("id", "less", "Number", task_id)


def above(task_id: int) -> Condition:
    """Return the condition that a task is newer than another."""
    return _condition("id", "greater", "Number", task_id)


def holding(model_version: str) -> Condition:
    """Return the condition that a task has a prediction whose model version contains this text."""
    return _condition("predictions_model_versions", "contains", "List", [model_version])


def _condition(column: str, operator: str, kind: str, value: object) -> Condition:
    return Condition(f"filter:tasks:{column}", operator, kind, msgspec.Raw(msgspec.json.encode(value)))


UNFINISHED = _condition("completed_at", "empty", "Datetime", True)
"""A task does not have all annotations that it needs."""
ANNOTATED = _condition("total_annotations", "greater", "Number", 0)
"""A task has an annotation; skipped ones do not count."""


def read_view(filters: msgspec.Raw) -> Selection:
    """Return the tasks that a tab of the Data Manager shows; `RequestError` if its filters have an unknown form."""
    try:
        view = msgspec.json.decode(filters, type=_Filters | None) or _Filters()
    except msgspec.MsgspecError as error:
        raise RequestError(f"the view's filters cannot be read: {error}") from error
    return Selection(view.items, view.conjunction == "or")


def dump(selection: Selection, included: Collection[int] | None = None, order: str = NEWEST_FIRST) -> str:
    """Return the query for these tasks; only among the ids ``included``, where given."""
    query = _Query(
        _Filters("or" if selection.is_any else "and", selection.conditions) if selection.conditions else None,
        (order,),
        None if included is None else _Selected(False, sorted(included)),
    )
    return msgspec.json.encode(query).decode()
