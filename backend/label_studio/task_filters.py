"""Selects tasks of a project: turns a typed filter, or a tab of the Data Manager, into a query for Label Studio.

A filter reads ``COLUMN OPERATOR VALUE``: ``total_annotations>0``, ``data.city=Berlin``, ``file_upload~street``.
Without a value, ``completed_at=`` selects tasks that have none, ``completed_at!=`` those that have one. Columns
are those of the Data Manager; fields of the task's data begin with ``data.``.
"""

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import msgspec

from backend.errors import RequestError
from backend.label_studio.types import Column

_FILTER = re.compile(r"\s*([\w.$\-\[\]]+)\s*(<=|>=|!=|!~|<|>|=|~)\s*(.*?)\s*", re.DOTALL)
_PREFIX = "filter:tasks:"
_LABEL_STUDIO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_COMPARED = {"<": "less", "<=": "less_or_equal", ">": "greater", ">=": "greater_or_equal"}
_OPERATORS = {"=": "equal", "!=": "not_equal", "~": "contains", "!~": "not_contains", **_COMPARED}


@dataclass(frozen=True)
class Condition:
    """One filter of the Data Manager.

    Attributes:
        filter: the column as Label Studio names it in filters.
        operator: Label Studio's name of the operator.
        type: the type as which values are compared.
        value: the value as JSON.
        child: a second filter that the same row must pass.
    """

    filter: str
    operator: str
    type: str
    value: msgspec.Raw
    child: "Condition | None" = None


@dataclass(frozen=True)
class Selection:
    """The tasks of a project that pass all conditions, or any of them if ``is_any``."""

    conditions: tuple[Condition, ...] = ()
    is_any: bool = False

    def and_also(self, more: Condition) -> "Selection":
        """Return the selection narrowed to the tasks that also pass ``more``.

        Raises:
            RequestError: Label Studio has no query for that.
        """
        if not self.is_any or len(self.conditions) < 2:
            return Selection((*self.conditions, more))
        if any(condition.child is not None for condition in self.conditions):
            raise RequestError(
                "a view whose filters are joined by 'or' and hold further filters cannot be narrowed down"
            )
        return replace(self, conditions=tuple(replace(condition, child=more) for condition in self.conditions))


class _Filter(msgspec.Struct, omit_defaults=True):
    filter: str
    operator: str
    type: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    child_filter: "_Filter | None" = None


class _Filters(msgspec.Struct):
    conjunction: str = "and"
    items: list[_Filter] = []


class _Selected(msgspec.Struct):
    all: bool
    included: Sequence[int]


class _Query(msgspec.Struct, rename={"selected": "selectedItems"}, omit_defaults=True):
    filters: _Filters | None = None
    ordering: tuple[str, ...] = ()
    selected: _Selected | None = None


def parse(text: str, columns: Sequence[Column]) -> Condition:
    """Return the condition that a user has typed.

    >>> parse("total_annotations>0", [Column("total_annotations", "Number")]).operator
    'greater'

    Raises:
        RequestError: it is not a condition, or names a column that the project does not have.
    """
    found = _FILTER.fullmatch(text)
    if found is None:
        raise RequestError(f"filter: expected COLUMN OPERATOR VALUE such as total_annotations>0, got {text!r}")
    name, sign, value = found.groups()
    column = _column(name, columns)
    if not value:
        if sign not in ("=", "!="):
            raise RequestError(f"filter {text!r}: expected a value after {sign}")
        return _condition(column, "empty", sign == "=")
    return _typed(column, sign, value)


def below(task_id: int) -> Condition:
    """Return the condition that a task is older than another."""
    return _condition(Column("id", "Number"), "less", task_id)


def annotated() -> Condition:
    """Return the condition that a task has an annotation; skipped ones do not count."""
    return _condition(Column("total_annotations", "Number"), "greater", 0)


def holding(model_version: str) -> Condition:
    """Return the condition that a task has a prediction whose model version contains this text."""
    return _condition(Column("predictions_model_versions", "List"), "contains", [model_version])


def read_view(filters: msgspec.Raw) -> Selection:
    """Return the tasks that a tab of the Data Manager shows.

    Raises:
        RequestError: its filters have an unknown form.
    """
    try:
        view_filters = msgspec.json.decode(filters, type=_Filters | None)
    except msgspec.MsgspecError as error:
        raise RequestError(f"the view's filters cannot be read: {error}") from error
    if view_filters is None:
        return Selection()
    return Selection(tuple(map(_from_wire, view_filters.items)), view_filters.conjunction == "or")


def dump(selection: Selection, included: Collection[int] | None = None) -> str:
    """Return the query for these tasks, the newest first; only among the ids ``included``, where given."""
    filters = _Filters("or" if selection.is_any else "and", [_to_wire(condition) for condition in selection.conditions])
    query = _Query(
        filters if selection.conditions else None,
        ("-tasks:id",),
        None if included is None else _Selected(False, sorted(included)),
    )
    return msgspec.json.encode(query).decode()


def _column(name: str, columns: Sequence[Column]) -> Column:
    names = {column.name: column for column in columns}
    if name in names:
        return names[name]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(names))}"
    raise RequestError(f"filter: the project has no column {name!r}; {hint}")


def _typed(column: Column, sign: str, text: str) -> Condition:
    """Return a comparison of a column with a value of the column's type."""
    if column.type == "List":
        return _member(column, sign, text)
    if column.type in _READERS:
        if sign in ("~", "!~"):
            raise RequestError(f"filter: expected =, !=, <, <=, > or >= for {column.name}, got {sign}")
        return _condition(column, _OPERATORS[sign], _READERS[column.type](column, text))
    if sign in _COMPARED:
        return _condition(replace(column, type="Number"), _COMPARED[sign], _number(column, text))
    if sign in ("=", "!=") and column.name.startswith("data.") and _is_number(text):
        # Tasks hold numbers as numbers or as text, and Label Studio does not convert between the two.
        value = [text, float(text), int(text)] if text.lstrip("-").isdecimal() else [text, float(text)]
        return _condition(replace(column, type="String"), "in_list" if sign == "=" else "not_in_list", value)
    return _condition(replace(column, type="String"), _OPERATORS[sign], text)


def _member(column: Column, sign: str, text: str) -> Condition:
    if sign in _COMPARED:
        raise RequestError(f"filter: expected =, !=, ~ or !~ for {column.name}, got {sign}")
    operator = "contains" if sign in ("=", "~") else "not_contains"
    if column.name == "predictions_model_versions":
        return _condition(column, operator, [text])
    if not text.isascii() or not text.isdecimal():
        raise RequestError(f"filter: expected a user's id for {column.name}, got {text!r}")
    return _condition(column, operator, int(text))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", text, re.ASCII) is not None


def _number(column: Column, text: str) -> float:
    if not _is_number(text):
        raise RequestError(f"filter: expected a number for {column.name}, got {text!r}")
    return float(text)


def _time(column: Column, text: str) -> str:
    """Return a moment as Label Studio writes it; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except ValueError as error:
        raise RequestError(
            f"filter: expected a day or time such as 2026-01-31 or 2026-01-31T18:30 for {column.name}, got {text!r}"
        ) from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return aware.astimezone(timezone.utc).strftime(_LABEL_STUDIO_TIME)


def _truth(column: Column, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise RequestError(f"filter: expected true or false for {column.name}, got {text!r}")
    return text.lower() == "true"


_READERS: dict[str, Callable[[Column, str], object]] = {"Number": _number, "Datetime": _time, "Boolean": _truth}


def _condition(column: Column, operator: str, value: object) -> Condition:
    return Condition(_PREFIX + column.name, operator, column.type, msgspec.Raw(msgspec.json.encode(value)))


def _from_wire(wire: _Filter) -> Condition:
    child = None if wire.child_filter is None else _from_wire(wire.child_filter)
    return Condition(wire.filter, wire.operator, wire.type, wire.value, child)


def _to_wire(condition: Condition) -> _Filter:
    child = None if condition.child is None else _to_wire(condition.child)
    return _Filter(condition.filter, condition.operator, condition.type, condition.value, child)
