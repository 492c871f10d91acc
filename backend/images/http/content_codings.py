"""Undoes the codings of a ``Content-Encoding`` header (RFC 9110, 8.4) as browsers do, in pieces of a bounded size.

Chromium undoes gzip and deflate, looks neither at gzip's checksum nor at what follows it, and takes a coding that it
does not know for none. Many servers write there what is no coding at all, such as ``utf-8`` or S3's ``aws-chunked``.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

MOST_CODINGS = 5
"""Each one can multiply what the server has to send by a thousand, and the time to read it with that."""

_PIECE_BYTES = 1 << 20
_NO_CODING = ("", "identity", "none", "aws-chunked", "utf-8", "utf8", "binary", "8bit", "7bit")
_HEADER_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16  # flags of a gzip header, RFC 1952

_Pieces: TypeAlias = Iterator[bytes]


class CodingError(ValueError):
    """The content is not coded as its header says."""


def codings(header: str) -> tuple[str, ...]:
    """Return the codings that a header names, in the order in which they were applied, without those that are none."""
    return tuple(one for one in (part.strip().lower() for part in header.split(",")) if one not in _NO_CODING)


def unknown(names: Iterable[str]) -> tuple[str, ...]:
    """Return the codings that are not undone here."""
    return tuple(name for name in names if name not in _UNDO)


def decoded(
    pieces: Iterable[bytes],
    names: tuple[str, ...],
    limited: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda content: content,
) -> Iterator[bytes]:
    """Yield the content in pieces of at most a megabyte; codings that are not known are left as they are.

    Args:
        pieces: the coded content.
        names: as `codings` returned them.
        limited: passes content on, and raises where it is too much; also what is unpacked on the way only.

    Raises:
        CodingError: it is coded otherwise, or more than `MOST_CODINGS` times.
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
    """Return where the header ends, None if it is not there yet.

    Raises:
        CodingError: it is none.
    """
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
    """Undo deflate: zlib's format by the standard, the bare one by many servers."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= 2:
            break
    is_zlib = len(head) >= 2 and head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
    yield from _inflated(head, pieces, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _inflated(first: bytes, pieces: _Pieces, wbits: int) -> _Pieces:
    """Inflate; what follows the end is left alone, and a missing end is left to who reads the content."""
    inflate = zlib.decompressobj(wbits)
    piece: bytes | None = first
    while piece is not None:
        while True:
            try:
                found = inflate.decompress(piece, _PIECE_BYTES)
            except zlib.error as error:
                raise CodingError(f"the content cannot be inflated: {error}") from error
            piece = inflate.unconsumed_tail
            if found:
                yield found
            if not piece and len(found) < _PIECE_BYTES:  # otherwise it may have kept something back
                break
        piece = None if inflate.eof else next(pieces, None)


_UNDO: dict[str, Callable[[_Pieces], _Pieces]] = {"gzip": _gunzipped, "x-gzip": _gunzipped, "deflate": _undeflated}
