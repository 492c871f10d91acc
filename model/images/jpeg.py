"""Extracts the parts of a JPEG that its pixels depend on: tables, frame and scans.

Browsers ignore damaged metadata, garbage after the image and a missing end marker. So metadata is removed before the
file is decoded, except the colour profile and the segments that say how colours are stored, and an end marker is put
after the last scan. The scans are counted first: each costs a pass over the image, however few bytes it has.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.errors import CostError

MAX_SCANS = 100
"""Largest number of scans, more than any encoder writes; a progressive photo has about 10."""

MAX_SCANNED_PIXELS = 1_500_000_000
"""Of all scans together: 15 of a picture of 100 megapixels. libjpeg goes through 250 million a second."""

MAX_SEGMENTS = 10_000

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_BARE = frozenset((_SOI, _EOI, 0x01))
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD))
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not in a scan's data: no stuffing, fill or restart
_EXIF_HEAD_BYTES = 6
_COEFFICIENT_BYTES = 64 * 2
_LEAST_PADDING = 16
_ZEROS_OF_SCAN = 4  # a scan of an even picture ends in few zeros, and each 0xff is followed by one


@dataclass(frozen=True)
class Jpeg:
    """A JPEG whose segments were parsed.

    Attributes:
        size_wh: its (width, height).
        parts: the file without metadata, up to the end of the last scan, without an end marker.
        exif: a TIFF block, empty where the file has none.
        is_ended: whether the file itself has the end marker.
        is_complete: whether its scans have all the data that the frame declares.
        coefficients_bytes: memory in which a decoder collects the whole image before it returns rows; 0 for one scan.
    """

    size_wh: tuple[int, int]
    parts: tuple[bytes | memoryview, ...] = field(repr=False)
    exif: bytes
    is_ended: bool
    is_complete: bool
    coefficients_bytes: int

    def file(self, tail: bytes = b"") -> bytes:
        """Return a JPEG file with an end marker, and ``tail`` before that."""
        return b"".join((*self.parts, tail, b"\xff\xd9"))


@dataclass
class _Frame:
    size_wh: tuple[int, int]
    is_progressive: bool
    blocks: dict[int, int]  # of each component
    unknown: dict[tuple[int, int], int] = field(default_factory=dict)  # bits by component and coefficient
    scans: int = 0


def read(data: bytes) -> Jpeg:
    """Return the parts of a JPEG.

    Raises:
        ValueError: it has no frame or no scan.
        CostError: it has more scans or segments than any encoder writes.
    """
    kept: list[bytes | memoryview] = [data[:2]]
    view, exif, frame = memoryview(data), b"", None
    begin, is_ended, end = None, False, len(data)
    for marker, start, body in _segments(view, data):
        if marker == _EOI or (marker == _SOI and begin is not None):  # a second SOI begins another image
            end, is_ended = start, marker == _EOI
            break
        if marker in _FRAMES:
            if frame is not None:  # a decoder would allocate memory for the last, and read the first
                raise ValueError("it has two frames")
            frame = _read_frame(marker, bytes(body))
        if marker == _SOS:
            if frame is None:
                raise ValueError("it has a scan before any frame")
            begin = start if begin is None else begin
            _note_scan(frame, bytes(body))
        elif begin is None:
            if marker == 0xE1 and not exif and body[:5].tobytes() == b"Exif\0":
                exif = bytes(body[_EXIF_HEAD_BYTES:])
            if _matters(marker, body):
                kept.append(view[start : start + 4 + len(body)])
    if frame is None or begin is None:
        raise ValueError("it is cut short: it has no frame" if frame is None else "it is cut short: it has no scan")
    kept.append(view[begin:end] if is_ended else _without_padding(data[begin:end]))
    buffered = frame.is_progressive or frame.scans > 1
    coefficients = _COEFFICIENT_BYTES * sum(frame.blocks.values()) if buffered else 0
    return Jpeg(frame.size_wh, tuple(kept), exif, is_ended, not any(frame.unknown.values()), coefficients)


def _segments(view: memoryview, data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Yield each marker after the first, its position and its segment's body; scans are skipped.

    Raises:
        CostError: there are more than any encoder writes.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            return
        marker, at = data[match.start() + 1], match.end()
        if marker in _BARE:
            yield marker, match.start(), view[at:at]
        elif at + 2 > len(data):
            return
        else:
            length = max(2, struct.unpack_from(">H", data, at)[0])
            yield marker, match.start(), view[at + 2 : at + length]
            at += length
    raise CostError(f"expected at most {MAX_SEGMENTS:,} segments in a JPEG, got more")


def _without_padding(scans: bytes) -> bytes:
    """Return scans without the bytes after them where the end marker is missing: half a marker, or padding."""
    filled = scans.rstrip(b"\0")
    if len(scans) - len(filled) < _LEAST_PADDING:
        return scans[:-1] if scans.endswith(b"\xff") else scans
    return scans[: len(filled) + _ZEROS_OF_SCAN]


def _matters(marker: int, body: memoryview) -> bool:
    """Whether the pixels depend on a segment before the first scan."""
    if marker in _TABLES or marker in _FRAMES:
        return True
    head = body[:12].tobytes()
    return (
        (marker == 0xE0 and head.startswith(b"JFIF\0") and len(body) >= 14)
        or (marker == 0xEE and head.startswith(b"Adobe") and len(body) >= 12)
        or (marker == 0xE2 and head == b"ICC_PROFILE\0" and len(body) > 14)
    )


def _read_frame(marker: int, body: bytes) -> _Frame:
    if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise ValueError("its frame is damaged")
    height, width = struct.unpack_from(">HH", body, 1)
    factors = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
    across, down = (max(factor[i] for factor in factors.values()) for i in (0, 1))
    if min(min(factor) for factor in factors.values()) < 1:
        raise ValueError("its frame is damaged")
    mcus = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = {name: mcus * horizontal * vertical for name, (horizontal, vertical) in factors.items()}
    unknown = {(name, index): 16 for name in factors for index in range(64)}
    return _Frame((width, height), marker in _PROGRESSIVE, blocks, unknown)


def _note_scan(frame: _Frame, body: bytes) -> None:
    """Count a scan, and record the data that it has of each component.

    Raises:
        CostError: there are too many scans.
    """
    frame.scans += 1
    width, height = frame.size_wh
    most = min(MAX_SCANS, max(1, MAX_SCANNED_PIXELS // max(1, width * height)))
    if frame.scans > most:
        raise CostError(f"expected at most {most} scans in a JPEG of {width} × {height}, got more")
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, approximation = body[1 + 2 * count : 4 + 2 * count]
    low = approximation & 15 if frame.is_progressive else 0
    indexes = range(first, min(last, 63) + 1) if frame.is_progressive else range(64)
    for name in body[1 : 1 + 2 * count : 2]:
        for index in indexes:
            if (name, index) in frame.unknown:
                frame.unknown[name, index] = low
