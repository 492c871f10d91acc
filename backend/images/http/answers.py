"""Parses HTTP/1 answers as browsers do, which accept more than HTTP libraries.

Annotators see an image if their browser accepts the answer of an old camera or a custom server, so this parser must
accept it too. The rules are Chromium's, checked with a real one by tests/e2e/test_browser_http_answers.py: a status
line may lack its version or reason; a header line may have blanks before its colon, and one without a colon is ignored;
invalid lengths are ignored; lines may end in a bare LF.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from urllib.parse import quote_from_bytes

import httpcore

from backend.errors import ImageError

MAX_HEAD_BYTES = 256 * 1024
PIECE_BYTES = 1 << 16
_LONGEST_CHUNK_LINE = 16_384
FREE_FRAMING_BYTES = 65_536
"""Of lines around chunks; beyond that they may take no more than the chunks themselves, or the reader is kept busy."""
_STATUS = re.compile(rb".{0,4}?HTTP(?:/(\d+)(?:\.(\d+))?)?\s+(\d{3})", re.IGNORECASE | re.DOTALL)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")
_WITHOUT_BODY = (204, 205, 304)


@dataclass(frozen=True)
class Head:
    """The status line and header of an answer.

    >>> Head(200, (1, 1), (("content-length", b"7"),)).length
    7
    """

    status: int
    version: tuple[int, int]
    fields: tuple[tuple[str, bytes], ...]  # lower-case names and values without surrounding blanks, in order

    def all(self, name: str) -> list[bytes]:
        """Return the values of a field, one for each line."""
        return [value for key, value in self.fields if key == name]

    def text(self, name: str) -> str:
        """Return the value of a field, empty where there is none; several lines that differ are joined by commas.

        Bytes above 127 are decoded as UTF-8 where they are valid, else percent-encoded, as browsers do.
        """
        value = b", ".join(dict.fromkeys(self.all(name)))
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return quote_from_bytes(value, safe=bytes(range(0x20, 0x7F)))

    @property
    def is_chunked(self) -> bool:
        """Whether the body is sent in chunks."""
        named = b",".join(self.all("transfer-encoding")).lower().split(b",")
        return self.version >= (1, 1) and b"chunked" in (name.strip() for name in named)

    @property
    def length(self) -> int | None:
        """The body's announced length in bytes, None if it is unknown; several lengths are an `ImageError`."""
        if self.is_chunked:
            return None
        values = (value.strip() for value in b",".join(self.all("content-length")).split(b","))
        lengths = {int(value) for value in values if value.isdigit() and len(value) < 19}
        if len(lengths) > 1:
            raise ImageError(f"the server announces several lengths: {sorted(lengths)[:3]}")
        return lengths.pop() if lengths else None


def read_head(stream: BufferedIOBase) -> Head:
    """Read an answer up to its body; informational answers (1xx) before it are skipped.

    Raises:
        ImageError: it is not HTTP.
        httpcore.RemoteProtocolError: it is truncated.
    """
    room = MAX_HEAD_BYTES
    while True:
        lines: list[bytes] = []
        while True:
            line = stream.readline(room + 1)
            room -= len(line)
            if room < 0:
                raise ImageError(f"the head of the server's answer is longer than {MAX_HEAD_BYTES:,} bytes")
            if not line.endswith(b"\n"):
                if len(start := b"".join([*lines, line])) >= 8 and b"HTTP" not in start[:8].upper():
                    raise ImageError(f"the server does not answer in HTTP, but with {start[:16]!r}...")
                raise httpcore.RemoteProtocolError("the server closed the connection before it had answered")
            line = line.rstrip(b"\r\n")
            if not line and lines:
                break
            if line:
                lines.append(line)
        head = _parsed(lines)
        if not 100 <= head.status < 200:
            return head


def _parsed(lines: list[bytes]) -> Head:
    match = _STATUS.match(lines[0])
    if match is None and len(lines) > 1 and len(lines[0]) <= 3:
        match = _STATUS.match(lines.pop(0) + lines[0])
    if match is None:
        raise ImageError(f"the server does not answer in HTTP, but with {lines[0][:16]!r}...")
    if any(b"\0" in line for line in lines):
        raise ImageError("the head of the server's answer holds a zero byte, which no browser takes")
    fields: list[tuple[str, bytes]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t") and fields:  # continues the previous line, RFC 7230
            fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip())
        elif colon and name.strip():
            fields.append((name.strip().decode("latin-1").lower(), value.strip()))
    version = (int(match[1] or 1), int(match[2] or 0))
    return Head(int(match[3]), version, tuple(fields))


def read_body(head: Head, stream: BufferedIOBase) -> Iterator[bytes]:
    """Yield an answer's body in pieces, without the lines of chunks.

    Raises:
        ImageError: the chunks are invalid.
        httpcore.RemoteProtocolError: the body is shorter than announced.
    """
    if head.status in _WITHOUT_BODY:
        return iter(())
    if head.is_chunked:
        return _chunks(stream)
    return _exactly(head.length, stream)


def _exactly(length: int | None, stream: BufferedIOBase) -> Iterator[bytes]:
    while length is None or length > 0:
        piece = stream.read1(PIECE_BYTES if length is None else min(length, PIECE_BYTES))
        if not piece:
            if length is None:
                return
            raise httpcore.RemoteProtocolError(f"the server closed the connection {length:,} bytes too early")
        length = None if length is None else length - len(piece)
        yield piece


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    framing_bytes, content_bytes = 0, 0
    while True:
        line = stream.readline(_LONGEST_CHUNK_LINE)
        if not line.endswith(b"\n") and len(line) < _LONGEST_CHUNK_LINE:
            raise httpcore.RemoteProtocolError("the server closed the connection before the last chunk")
        match = _CHUNK.fullmatch(line.rstrip(b"\r\n"))
        if match is None:
            raise ImageError(f"expected the size of a chunk in the server's answer, got {line[:20]!r}")
        size = int(match[1], 16)
        if not size:
            return
        framing_bytes, content_bytes = framing_bytes + len(line) + 2, content_bytes + size
        if framing_bytes > FREE_FRAMING_BYTES + content_bytes:
            raise ImageError("the server sends the image in chunks of a few bytes, with more around them than in them")
        yield from _exactly(size, stream)
        if stream.readline(2).strip(b"\r\n"):
            raise ImageError("a chunk in the server's answer is longer than it was announced")
