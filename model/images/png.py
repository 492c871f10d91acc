"""Parses a PNG, and decodes its rows a few at a time.

Browsers ignore damaged, huge and unknown ancillary chunks, so only the header, the palette, transparency, the colour
profile and EXIF are read, each if its checksum is right. The rows are inflated as they are needed and are never in
memory together; a file that lacks some is truncated, whatever follows them.

Pillow decodes PNG's filters: it gets a few rows and the one above them as a small PNG.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.errors import CostError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 200_000
MAX_PROFILE_BYTES = 8 << 20
_MOST_CHUNKS_BEHIND = 100
"""Behind the pixels, chunks that are looked at."""

_MAX_SIDE = 1 << 31
_STEP = 1 << 20
_FED_AT_ONCE = 1 << 16  # unconsumed input is copied each time
_ZLIB_HEADER_BYTES = 2

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MODES = {
    (1, 0): ("1", "1"), (2, 0): ("L", "L;2"), (4, 0): ("L", "L;4"), (8, 0): ("L", "L"), (8, 2): ("RGB", "RGB"),
    (1, 3): ("P", "P;1"), (2, 3): ("P", "P;2"), (4, 3): ("P", "P;4"), (8, 3): ("P", "P"), (8, 4): ("LA", "LA"),
    (8, 6): ("RGBA", "RGBA"), (16, 0): ("I;16", "I;16B"),
}  # fmt: skip
_COLOUR_OF_BYTES = {1: 0, 2: 4, 3: 2, 4: 6}  # the 8-bit colour type whose pixels take so many bytes
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First pixel (x, y) of each pass of an interlaced image, and the distance of its pixels."""


@dataclass(frozen=True)
class Png:
    """A PNG whose chunks were parsed.

    Attributes:
        size_wh: its (width, height).
        depth: bits of a channel.
        colour: the standard's colour type.
        is_interlaced: whether its rows come in seven passes.
        pixels: the compressed rows, as they lie in the file.
        palette: as the file holds it, empty where it has none.
        transparency: likewise.
        exif: a TIFF block, empty where none counts.
        late_exif: one behind the pixels, which Chromium does not read.
        profile: an ICC profile, empty where none counts.
    """

    size_wh: tuple[int, int]
    depth: int
    colour: int
    is_interlaced: bool
    pixels: tuple[memoryview, ...] = field(repr=False)
    palette: bytes = b""
    transparency: bytes = b""
    exif: bytes = b""
    late_exif: bytes = b""
    profile: bytes = b""

    @property
    def has_bands(self) -> bool:
        """Whether `bands` can decode it; if not, use `whole`."""
        return not self.is_interlaced and (self.depth, self.colour) in _MODES

    def bands(self, rows: int) -> Iterator[Image.Image]:
        """Yield the image from top to bottom, ``rows`` at a time.

        Raises:
            ValueError, OSError: it is damaged or cut short.
        """
        width = self.size_wh[0]
        stride, step = self._stride, max(1, self.depth * _CHANNELS[self.colour] // 8)
        above = bytes(stride)
        for count, filtered in self._filtered(rows):
            raw = _unfiltered(b"\0" + above + filtered, stride // step, count + 1, step)
            above = raw[-stride:]
            mode, raw_mode = _MODES[self.depth, self.colour]
            yield self._dressed(Image.frombytes(mode, (width, count), memoryview(raw)[stride:], "raw", raw_mode))

    def channel(self, index: int, rows: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield one channel of an image of 8 bits a channel, (h, W) from top to bottom, ``rows`` at a time.

        PNG's filters work on each channel alone, so the others are not decoded: of RGBA that is a fifth of the time.

        Raises:
            ValueError, OSError: it is damaged or cut short.
        """
        width, channels = self.size_wh[0], _CHANNELS[self.colour]
        above = np.zeros((1, 1 + width), np.uint8)
        for count, filtered in self._filtered(rows):
            lines = np.frombuffer(filtered, np.uint8).reshape(count, -1)
            own = np.concatenate([above, np.concatenate([lines[:, :1], lines[:, 1 + index :: channels]], axis=1)])
            decoded = np.frombuffer(_unfiltered(own.tobytes(), width, count + 1, 1), np.uint8).reshape(count + 1, width)
            above[0, 1:] = decoded[-1]
            yield decoded[1:]

    def _filtered(self, rows: int) -> Iterator[tuple[int, bytes]]:
        """Yield counts of rows and those rows inflated, each with the number of its filter before it."""
        height, stride = self.size_wh[1], self._stride
        unpacked, buffer = _inflated(self.pixels), bytearray()
        for top in range(0, height, rows):
            count = min(rows, height - top)
            wanted = count * (stride + 1)
            while len(buffer) < wanted:
                buffer += _next(unpacked)
            filtered = bytes(buffer[:wanted])
            del buffer[:wanted]
            yield count, filtered

    @property
    def _stride(self) -> int:
        """Bytes of a row without the number of its filter."""
        return (self.size_wh[0] * self.depth * _CHANNELS[self.colour] + 7) // 8

    def whole(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            ValueError, OSError: it is damaged or cut short.
        """
        missing = self._raw_bytes()
        unpacked = _inflated(self.pixels)
        while missing > 0:
            missing -= len(_next(unpacked))
        parts: list[bytes | memoryview] = [
            SIGNATURE,
            _header(self.size_wh, self.depth, self.colour, self.is_interlaced),
        ]
        parts += [_chunk(b"PLTE", self.palette)] if self.colour == 3 else []
        parts += [_chunk(b"tRNS", self.transparency)] if self.transparency else []
        for part in self.pixels:
            parts += [struct.pack(">I", len(part)), b"IDAT", part, bytes(4)]  # Pillow does not check their checksum
        image: Image.Image = Image.open(io.BytesIO(b"".join((*parts, _chunk(b"IEND")))), formats=("PNG",))
        image.load()
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def _dressed(self, image: Image.Image) -> Image.Image:
        """Return rows with the palette, transparency and profile of the file."""
        if self.colour == 3:
            image.putpalette(self.palette)
        if self.transparency:
            image.info["transparency"] = self._transparent()
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def _transparent(self) -> bytes | int | tuple[int, ...]:
        if self.colour == 3:
            return self.transparency
        scale = max(1, 255 // ((1 << self.depth) - 1))  # Pillow's pixels reach to 255 whatever the depth
        values = tuple(
            (value & ((1 << self.depth) - 1)) * scale for (value,) in struct.iter_unpack(">H", self.transparency)
        )
        return values if self.colour == 2 else values[0]

    def _raw_bytes(self) -> int:
        """Return the size in bytes of the inflated rows."""
        width, height = self.size_wh
        bits = self.depth * _CHANNELS[self.colour]
        grids = _PASSES if self.is_interlaced else ((0, 0, 1, 1),)
        total = 0
        for x, y, across, down in grids:
            columns, rows = -(-(width - x) // across), -(-(height - y) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


def read(data: bytes) -> Png:
    """Return the parts of a PNG.

    Raises:
        ValueError: the header or the palette is damaged, or there are no rows; the message says which.
        CostError: it has more chunks than any encoder writes.
    """
    view, size_wh = memoryview(data), (0, 0)
    depth, colour, is_interlaced = 0, 0, False
    kept: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    late_exif = b""
    chunks = _chunks(view)
    for name, body, is_sound in chunks:
        if name == b"IDAT":
            pixels.append(body)
        elif pixels:  # rows lie together; nothing behind them counts for the picture
            behind = chain([(name, body, is_sound)], islice(chunks, _MOST_CHUNKS_BEHIND))
            late_exif = next((bytes(body) for name, body, is_sound in behind if name == b"eXIf" and is_sound), b"")
            break
        elif name == b"IHDR":
            if not is_sound:
                raise ValueError("the header's checksum is wrong")
            size_wh, depth, colour, is_interlaced = _read_header(bytes(body))
        elif name == b"tRNS" and colour == 3 and b"PLTE" not in kept:
            continue  # Chromium ignores it
        elif name in (b"PLTE", b"tRNS", b"eXIf", b"iCCP") and is_sound:
            kept.setdefault(name, bytes(body))
    if not depth:
        raise ValueError("it has no header")
    if not pixels:
        raise ValueError("it is cut short: it has no rows")
    if colour == 3 and (not kept.get(b"PLTE") or len(kept[b"PLTE"]) % 3 or len(kept[b"PLTE"]) > 768):
        raise ValueError("it has no palette, or a damaged one")
    return Png(
        size_wh,
        depth,
        colour,
        is_interlaced,
        tuple(pixels),
        kept.get(b"PLTE", b""),
        _usable_transparency(kept.get(b"tRNS", b""), colour),
        kept.get(b"eXIf", b""),
        late_exif,
        _profile(kept.get(b"iCCP", b"")),
    )


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield each chunk's name and body, and whether its checksum is right (not checked for rows); the last may be cut.

    Raises:
        CostError: there are more than any encoder writes.
    """
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(view):
            return
        length, name = struct.unpack_from(">I4s", view, at)
        body = view[at + 8 : at + 8 + length]
        if name == b"IEND":
            return
        end = at + 8 + length
        is_sound = name == b"IDAT"
        if not is_sound and name in (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP") and end + 4 <= len(view):
            is_sound = zlib.crc32(body, zlib.crc32(name)) == struct.unpack_from(">I", view, end)[0]
        yield name, body, is_sound
        at = end + 4
    raise CostError(f"expected at most {MAX_CHUNKS:,} chunks in a PNG, got more")


def _read_header(body: bytes) -> tuple[tuple[int, int], int, int, bool]:
    if len(body) != 13:
        raise ValueError("the header has not its 13 bytes")
    width, height, depth, colour, compression, filtering, interlacing = struct.unpack(">IIBBBBB", body)
    if not min(width, height):
        raise ValueError(f"expected at least 1 × 1 pixels, got {width} × {height}")
    if max(width, height) >= _MAX_SIDE or compression or filtering or interlacing > 1:
        raise ValueError("the header makes no sense")
    if depth not in _DEPTHS.get(colour, ()):
        raise ValueError(f"colour type {colour} with {depth} bits does not exist")
    return (width, height), depth, colour, interlacing == 1


def _usable_transparency(body: bytes, colour: int) -> bytes:
    """Return a tRNS chunk that fits the colour type; empty where it does not."""
    if colour == 3:
        return body[:256]
    wanted = {0: 2, 2: 6}.get(colour, 0)
    return body[:wanted] if wanted and len(body) >= wanted else b""


def _profile(body: bytes) -> bytes:
    """Return the profile of an iCCP chunk; empty where it is damaged or too large."""
    name, _, rest = body.partition(b"\0")
    if not 1 <= len(name) <= 79 or rest[:1] != b"\0":
        return b""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""


def _inflated(parts: tuple[memoryview, ...]) -> Iterator[bytes]:
    """Yield the inflated bytes, a bounded number at a time; the stream's checksum is not verified.

    Raises:
        ValueError: the stream is damaged.
    """
    unpacker, to_skip = zlib.decompressobj(-zlib.MAX_WBITS), _ZLIB_HEADER_BYTES
    for part in parts:
        for start in range(0, len(part), _FED_AT_ONCE):
            skipped = min(to_skip, len(part))
            waiting: bytes | memoryview = part[start + skipped : start + _FED_AT_ONCE]
            to_skip -= skipped
            while True:
                try:
                    output = unpacker.decompress(waiting, _STEP)
                except zlib.error as error:
                    raise ValueError(f"its rows cannot be unpacked: {error}") from error
                if output:
                    yield output
                waiting = unpacker.unconsumed_tail
                if unpacker.eof or (not waiting and len(output) < _STEP):
                    break
            if unpacker.eof:
                return


def _next(unpacked: Iterator[bytes]) -> bytes:
    output = next(unpacked, b"")
    if not output:
        raise ValueError("it is cut short: rows are missing")
    return output


def _unfiltered(rows: bytes, width: int, height: int, pixel_bytes: int) -> bytes:
    """Return rows of 8-bit pixels without PNG's filters."""
    header = _header((width, height), 8, _COLOUR_OF_BYTES[pixel_bytes])
    data = SIGNATURE + header + _chunk(b"IDAT", zlib.compress(rows, 0)) + _chunk(b"IEND")
    image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG",))
    return image.tobytes()


def _header(size_wh: tuple[int, int], depth: int, colour: int, is_interlaced: bool = False) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", *size_wh, depth, colour, 0, 0, is_interlaced))


def _chunk(name: bytes, body: bytes | memoryview = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
