"""Validated access to single fields of untrusted JSON."""

import math
from typing import TypeAlias

import msgspec

Fields: TypeAlias = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")


class FieldError(ValueError):
    """A value is missing or of the wrong type."""


def anything(raw: msgspec.Raw | None) -> object:
    """Return any JSON value; None for a missing one and for one that Python cannot hold, such as 1e999."""
    if raw is None:
        return None
    try:
        found: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found


def text(value: object) -> str:
    """Return a string; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """Return a whole number, None for any other value; some callers write 90.0 for 90.

    >>> whole(90.0), whole("90")
    (90, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value if isinstance(value, int) else None


def strings(raw: msgspec.Raw) -> tuple[str, ...]:
    """Return the non-empty strings of a list, or a string alone."""
    found = anything(raw)
    listed = found if isinstance(found, list) else [found]
    return tuple(item for item in listed if isinstance(item, str) and item)


def number(fields: Fields, key: str, default: float | None = None) -> float:
    """Return a finite number, or ``default``, where one is given, for a missing or null value.

    >>> number({"x": msgspec.Raw(b"12.5")}, "x"), number({}, "rotation", 0.0)
    (12.5, 0.0)

    Raises:
        FieldError: the key is missing, or its value is not a finite number.
    """
    raw = fields.get(key, _NULL)
    if default is not None and bytes(raw) == b"null":
        return default
    return finite(raw, key)


def finite(raw: msgspec.Raw, key: str) -> float:
    """Return a finite number.

    Raises:
        FieldError: it is not a finite number; the message names ``key``.
    """
    try:
        found = msgspec.json.decode(raw, type=float)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise FieldError(f"{key}: expected a number, got {shown(raw)}") from error
    if not math.isfinite(found):
        raise FieldError(f"{key}: expected a finite number, got {found}")
    return found


def objects(fields: Fields, key: str) -> list[Fields]:
    """Return a list of JSON objects; empty where the key is missing.

    Raises:
        FieldError: the value is not a list of objects.
    """
    try:
        return msgspec.json.decode(fields.get(key, msgspec.Raw(b"[]")), type=list[Fields])
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(f"{key}: expected a list of objects, got {shown(fields[key])}") from error


def numbers(fields: Fields, key: str) -> list[float]:
    """Return a list of finite numbers.

    Raises:
        FieldError: the value is not such a list.
    """
    try:
        raw = msgspec.json.decode(fields.get(key, _NULL), type=list[msgspec.Raw])
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(f"{key}: expected a list of numbers, got {shown(fields.get(key, _NULL))}") from error
    return [finite(item, key) for item in raw]


def pairs(fields: Fields, key: str) -> tuple[tuple[float, float], ...]:
    """Return a list of pairs of finite numbers.

    Raises:
        FieldError: the value is not such a list.
    """
    try:
        found = msgspec.json.decode(fields.get(key, _NULL), type=tuple[tuple[float, float], ...])
    except (msgspec.DecodeError, ValueError):
        found = ()  # the problem is reported below
    if found and all(math.isfinite(x) and math.isfinite(y) for x, y in found):
        return found
    try:
        raw = msgspec.json.decode(fields.get(key, _NULL), type=list[tuple[msgspec.Raw, msgspec.Raw]])
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(f"{key}: expected pairs of numbers, got {shown(fields.get(key, _NULL))}") from error
    return tuple((finite(first, key), finite(second, key)) for first, second in raw)


def octets(fields: Fields, key: str) -> bytes:
    """Return a list of whole numbers from 0 to 255 as bytes; empty where the key is missing or null.

    Raises:
        FieldError: the value is not such a list.
    """
    try:
        return bytes(msgspec.json.decode(fields.get(key, _NULL), type=list[int] | None) or ())
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(f"{key}: expected numbers from 0 to 255, got {shown(fields[key])}") from error


def shown(raw: msgspec.Raw) -> str:
    """Return the beginning of a value, for a message."""
    return bytes(raw)[:40].decode(errors="replace")
