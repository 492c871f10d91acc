"""Decodes the content codings of a ``Content-Encoding`` header (RFC 9110, 8.4) as browsers do, in bounded pieces.

Chromium decodes gzip and deflate, ignores gzip's checksum and the bytes after it, and ignores a coding that it does
not know. Many servers send values that are no codings, such as ``utf-8`` or S3's ``aws-chunked``.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

MOST_CODINGS = 5
"""Largest number of codings; each can multiply the sent bytes, and the time to decode them, by a thousand."""

_PIECE_BYTES = 1 << 20
_NO_CODING = ("", "identity", "none", "aws-chunked", "utf-8", "utf8", "binary", "8bit", "7bit")
_HEADER_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16  # flags of a gzip header, RFC 1952

_Pieces: TypeAlias = Iterator[bytes]


class CodingError(ValueError):
    """The content has another coding than its header names."""


def codings(header: str) -> tuple[str, ...]:
    """Return the codings in a header, in the order in which they were applied, without values that are no codings.

    >>> codings("gzip, utf-8")
    ('gzip',)
    """
    return tuple(name for name in (part.strip().lower() for part in header.split(",")) if name not in _NO_CODING)


def unknown(names: Iterable[str]) -> tuple[str, ...]:
    """Return the codings that are not supported."""
    return tuple(name for name in names if name not in _UNDO)


def decoded(
    pieces: Iterable[bytes],
    names: tuple[str, ...],
    limited: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda content: content,
) -> Iterator[bytes]:
    """Yield the content in pieces of at most a megabyte; unknown codings are not decoded.

    ``limited`` passes content on and raises if it is too long; it is applied to the result of each coding.

    Raises:
        CodingError: the content has another coding, or more than `MOST_CODINGS` times.
    """
    if len(names) > MOST_CODINGS:
        raise CodingError(f"expected at most {MOST_CODINGS} content-encodings, got {len(names)}")
    content = limited(iter(pieces))
    for name in reversed(names):
        content = limited(_UNDO[name](content)) if name in _UNDO else content
    return content


def _gunzipped(pieces: _Pieces) -> _Pieces:
    head = bytearray()
    for piece in pieces:
        head += piece
        end = _end_of_gzip_header(head)
        if end is not None:
            yield from _inflated(bytes(head[end:]), pieces, -zlib.MAX_WBITS)
            return
        if len(head) > _PIECE_BYTES:
            break
    if head:
        raise CodingError("expected gzip, got something else")


def _end_of_gzip_header(data: bytearray) -> int | None:
    """Return where the header ends, None if ``data`` holds only a part of it; `CodingError` if it is none."""
    if not b"\x1f\x8b\x08".startswith(data[:3]) and data[:3] != b"\x1f\x8b\x08":
        raise CodingError("expected gzip, got something else")
    if len(data) < 10:
        return None
    flags, at = data[3], 10
    if flags & _EXTRA:
        if len(data) < at + 2:
            return None
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            at = data.find(0, at) + 1
            if not at:
                return None
    at += 2 if flags & _HEADER_CRC else 0
    return at if len(data) >= at else None


def _undeflated(pieces: _Pieces) -> _Pieces:
    """Decode deflate: in zlib's format, as the standard requires, or raw, as many servers send it."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= 2:
            break
    is_zlib = len(head) >= 2 and head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
    yield from _inflated(head, pieces, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _inflated(first: bytes, pieces: _Pieces, wbits: int) -> _Pieces:
    """Inflate; bytes after the end are ignored, and a missing end is left for the reader to find."""
    inflate = zlib.decompressobj(wbits)
    piece: bytes | None = first
    while piece is not None:
        while True:
            try:
                output = inflate.decompress(piece, _PIECE_BYTES)
            except zlib.error as error:
                raise CodingError(f"the content cannot be inflated: {error}") from error
            piece = inflate.unconsumed_tail
            if output:
                yield output
            if not piece and len(output) < _PIECE_BYTES:  # otherwise more output may be buffered
                break
        piece = None if inflate.eof else next(pieces, None)


_UNDO: dict[str, Callable[[_Pieces], _Pieces]] = {"gzip": _gunzipped, "x-gzip": _gunzipped, "deflate": _undeflated}
