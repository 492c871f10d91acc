"""Protocol buffers: the wire format, as far as Paddle's descriptions need it (protobuf.dev, "Encoding")."""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value of a message: an int for a varint, the bytes for anything with a length.

    Fields of fixed width (floating point attributes) are skipped.

    Raises:
        ValueError: the bytes end within a field or are no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError(f"expected {length} bytes in field {number}, got {len(message) - at}")
            yield number, message[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"expected a field of a known kind, got kind {kind}")


def children(message: memoryview, number: int) -> list[memoryview]:
    """Return the values of the field ``number`` that have a length: strings and nested messages."""
    return [value for key, value in fields(message) if key == number and not isinstance(value, int)]


def integers(message: memoryview, number: int) -> list[int]:
    """Return the values of the integer field ``number`` as signed 64-bit numbers, packed or not."""
    numbers: list[int] = []
    for key, value in fields(message):
        if key != number:
            continue
        if isinstance(value, int):
            numbers.append(value)
        else:
            at = 0
            while at < len(value):
                integer, at = _varint(value, at)
                numbers.append(integer)
    return [value - (1 << 64) if value >= 1 << 63 else value for value in numbers]


def child(message: memoryview, number: int) -> memoryview:
    """Return the value of the field ``number`` that has a length; the last one where there are several.

    Raises:
        ValueError: the message has no such field.
    """
    values = children(message, number)
    if not values:
        raise ValueError(f"expected something in field {number}, got nothing")
    return values[-1]


def text(message: memoryview, number: int) -> str:
    """Return the string in field ``number``.

    Raises:
        ValueError: the message has no such field, or it is not UTF-8.
    """
    return str(child(message, number), "utf-8")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("expected a whole number, got the end of the message")
