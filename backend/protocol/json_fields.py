"""Validated access to single fields of untrusted JSON. Numbers are finite: msgspec refuses any other."""

from typing import Annotated, TypeAlias, TypeVar

import msgspec

Fields: TypeAlias = dict[str, msgspec.Raw]

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises for JSON that is damaged, nested too deeply or of another type."""

LARGEST_ID = 2**63 - 1
EXACT = 2.0**53  # from here on floats leave out whole numbers

_Octet: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
_T = TypeVar("_T")
_NULL = msgspec.Raw(b"null")


class FieldError(ValueError):
    """A value is missing or of the wrong type."""


def anything(raw: msgspec.Raw | None) -> object:
    """Return any JSON value; None for a missing one and for one that Python cannot hold, such as 1e999."""
    try:
        value: object = msgspec.json.decode(_NULL if raw is None else raw)
    except DECODE_ERRORS:
        return None
    return value


def items(raw: msgspec.Raw) -> tuple[msgspec.Raw, ...]:
    """Return the unread items of a list; none for any other value."""
    try:
        return msgspec.json.decode(raw, type=tuple[msgspec.Raw, ...])
    except DECODE_ERRORS:
        return ()


def text(value: object) -> str:
    """Return a string; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """Return a whole number, None for any other value; some callers write 90.0 for 90.

    >>> whole(90.0), whole("90"), whole(1e300)
    (90, None, None)
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def identifier(value: object) -> int | None:
    """Return the id of a task or project, which some callers write as text; None for what is no id of a database.

    >>> identifier(7), identifier("7"), identifier(1.7), identifier("9" * 20)
    (7, 7, None, None)
    """
    is_text = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(LARGEST_ID))
    number = whole(int(value) if is_text else value)  # type: ignore[call-overload]  # `is_text` has checked it
    return number if number is not None and 0 <= number <= LARGEST_ID else None


def strings(raw: msgspec.Raw) -> tuple[str, ...]:
    """Return the non-empty strings of a list, or a string alone."""
    value = anything(raw)
    return tuple(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item)


def number(fields: Fields, key: str, default: float | None = None) -> float:
    """Return a number, or ``default``, where one is given, for a missing or null value; else a `FieldError`.

    >>> number({"x": msgspec.Raw(b"12.5")}, "x"), number({}, "rotation", 0.0)
    (12.5, 0.0)
    """
    if default is not None and not _is_given(fields, key):
        return default
    return _decoded(fields, key, float, "a number")


def numbers(fields: Fields, key: str) -> list[float]:
    """Return a list of numbers; `FieldError` for any other value."""
    return _decoded(fields, key, list[float], "a list of numbers")


def pairs(fields: Fields, key: str) -> tuple[tuple[float, float], ...]:
    """Return a list of pairs of numbers; `FieldError` for any other value."""
    return _decoded(fields, key, tuple[tuple[float, float], ...], "pairs of numbers")


def objects(fields: Fields, key: str) -> list[Fields]:
    """Return a list of JSON objects, empty where the key is missing; `FieldError` for any other value."""
    return _decoded(fields, key, list[Fields], "a list of objects") if key in fields else []


def octets(fields: Fields, key: str) -> bytes:
    """Return a list of numbers from 0 to 255 as bytes, empty where missing or null; `FieldError` for any other."""
    return bytes(_decoded(fields, key, list[_Octet], "numbers from 0 to 255") if _is_given(fields, key) else ())


def _is_given(fields: Fields, key: str) -> bool:
    return bytes(fields.get(key, _NULL)) != b"null"


def _decoded(fields: Fields, key: str, kind: type[_T], expected: str) -> _T:
    raw = fields.get(key, _NULL)
    try:
        return msgspec.json.decode(raw, type=kind)
    except DECODE_ERRORS as error:
        raise FieldError(f"{key}: expected {expected}, got {bytes(raw)[:40].decode(errors='replace')}") from error
