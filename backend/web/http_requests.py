"""Parses the requests of a connection with waitress' parser, and refuses what that parser accepts wrongly."""

from collections.abc import Callable

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.utilities import BadRequest

from backend.web.bodies import Bodies, Body

DROP_AT_MOST = 8
"""How many times the largest body size is received and dropped, so that the caller gets the reason for the refusal."""

PIECE_BYTES = 4096  # bytes that are searched for chunks at a time; waitress copies the rest at each chunk
FRAMING_BYTES = 16_384
"""How many bytes of sizes and line ends a chunked body may hold in addition to an eighth of its content."""

MOST_SPACES = 64  # in a row in a head: waitress tries every way to divide spaces, which took 14 s for 60,000 of them
TRAILER_BYTES = 8192
VERSIONS = ("1.0", "1.1")


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Receives one request, with its body in `Bodies` if there is one.

    If it ``is_cut_off``, the body is too long to be received to its end, even to be dropped.
    """

    version = "1.1"  # of the answer to a malformed request
    completed: bool
    error: BadRequest | None
    body_rcv: FixedStreamReceiver | ChunkedReceiver | None

    def __init__(
        self, adjustments: Adjustments, bodies: Bodies, admits: Callable[[str], bool], keep: Callable[[bytes], None]
    ) -> None:
        """Keep the bodies of callers that ``admits`` by ``Authorization``; ``keep`` gets what follows the request."""
        super().__init__(adjustments)
        self._bodies, self._admits, self._keep = bodies, admits, keep
        self.body: Body | None = None
        self.is_cut_off = False

    def received(self, data: bytes) -> int:
        """Parse received bytes, and return how many of them were taken: all, once the request is complete."""
        consumed = int(super().received(data))
        if self.body is not None and not self.completed and self._is_endless(self.body):
            self.is_cut_off = self.completed = True
            self.expect_continue = False
            self.body.refuse()
        if self.error is not None:
            self.version, self.expect_continue = "1.1", False
        if not self.completed:
            return consumed
        if self.body is not None:
            self.body.complete()
        self._keep(data[consumed:])
        return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head; `ParsingError` if it is malformed, or its body's end is ambiguous."""
        if b" " * MOST_SPACES in header_plus.replace(b"\t", b" ").replace(
            b"\r\n ", b" "
        ):  # lines that go on are joined
            raise ParsingError(f"expected fewer than {MOST_SPACES} spaces in a row")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # an address such as http://[, or a length of thousands of digits
            raise ParsingError(str(error)) from error
        if self.version not in VERSIONS:
            raise ParsingError("expected HTTP/1.0 or HTTP/1.1")
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("expected a length or chunks, not both, and chunks in HTTP/1.1 only")
        if self.body_rcv is None:
            self.expect_continue = False  # waitress would wait for a body
        else:
            self.body = self._bodies.begin()
            self.body_rcv = _Chunks(self.body) if self.chunked else FixedStreamReceiver(self.content_length, self.body)
            if not self._admits(self.headers.get("AUTHORIZATION", "")):
                self.body.refuse()

    def close(self) -> None:
        """Drop the body."""
        if self.body is not None:
            self.body.close()

    def _is_endless(self, body: Body) -> bool:
        announced = self.body_rcv.chunk_remainder if isinstance(self.body_rcv, _Chunks) else self.content_length
        return bool(max(announced, body.received_bytes) > DROP_AT_MOST * self._bodies.max_bytes)


class _Chunks(ChunkedReceiver):  # type: ignore[misc]  # waitress counts as untyped, see pyproject
    """Receives a chunked body, and refuses one that holds more framing than content."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._body, self._consumed_bytes = body, 0

    error: BadRequest | None

    def received(self, data: bytes) -> int:
        consumed = 0
        while consumed < len(data) and not self.completed and self.error is None:
            consumed += super().received(data[consumed : consumed + PIECE_BYTES])
            framing = self._consumed_bytes + consumed - self._body.received_bytes
            if framing > FRAMING_BYTES + self._body.received_bytes // 8 or len(self.trailer) > TRAILER_BYTES:
                self.error = BadRequest("expected chunks that are mostly content")
        self._consumed_bytes += consumed
        return consumed
