"""Encodes and decodes Label Studio's bitmasks: data URLs of an all-black RGBA PNG whose alpha is the mask."""

import base64
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from model.images import png
from model.types import Mask

PREFIX = "data:image/png;base64,"
CHANNELS = 4
MOST_BITS = 8  # of a channel; a PNG of 16 bits is no mask
MOST_SIDE = 1 << 20  # pixels; rows are decoded one by one, and a whole one is in memory several times
MOST_INTERLACED = 1 << 24  # pixels; those rows are in memory together, which no editor asks for
ALPHA = {4: 1, 6: 3}  # the channel, by the PNG's colour type
PIXELS_AT_ONCE = 1 << 18
DEFLATE = 1, zlib.DEFLATED, -zlib.MAX_WBITS  # the fastest level; blocks without zlib's header
ROW_ABOVE = 2  # PNG's filter that stores each byte's difference from the one above; 0 stores bytes as they are
ZEROS = 1 << 16
ADLER_MODULUS = 65521


def encode(mask: Mask) -> str:
    """Return a mask as a data URL: alpha 255 on the object, 0 elsewhere.

    Only the rows that the object covers are compressed; the empty rows around it are copies of one compressed block.

    >>> import numpy as np
    >>> mask = Mask.from_array(np.array([[False, True], [False, False]]))
    >>> url = encode(mask)
    >>> url[:22]
    'data:image/png;base64,'
    >>> decode(url, (2, 2)).to_array().tolist()
    [[False, True], [False, False]]
    """
    height, width = mask.original_size
    row_bytes = 1 + CHANNELS * width
    above = mask.offset[1] * row_bytes
    below = height * row_bytes - above - len(mask.crop) * row_bytes
    packer, adler = zlib.compressobj(*DEFLATE), _adler_after_zeros(1, above)
    middle: list[bytes] = []
    for rows in _rows(mask):
        middle.append(packer.compress(rows))
        adler = zlib.adler32(rows, adler)
    stream = b"".join(
        (
            b"\x78\x01",  # zlib's header: deflate, 32 KB window, fastest
            _deflated_zeros(above),
            *middle,
            packer.flush(zlib.Z_FULL_FLUSH),
            _deflated_zeros(below),
            b"\x03\x00",  # an empty last block
            struct.pack(">I", _adler_after_zeros(adler, below)),
        )
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    return PREFIX + base64.b64encode(png.SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)).decode("ascii")


def decode(data_url: str, size: tuple[int, int]) -> Mask:
    """Return the mask of an image of ``size`` (height, width): true where the PNG's alpha is not 0.

    Of a PNG without alpha its gray or red counts.

    Raises:
        ValueError: it is not the data URL of a PNG, the PNG is damaged, or it has another size.
    """
    head, _, payload = data_url.partition(",")
    data = base64.b64decode(payload, validate=True) if head.endswith(";base64") else b""
    if not data.startswith(png.SIGNATURE):
        raise ValueError(f"bitmask: expected a PNG as a data URL, got {head[:40]!r}")
    try:
        file = png.read(data)
        _check(file, size)  # before anything is unpacked
        painted, top = np.empty(size, dtype=np.bool_), 0
        for rows in _masking(file):
            np.not_equal(rows, 0, out=painted[top : top + len(rows)])
            top += len(rows)
    except (OSError, ValueError) as error:
        raise ValueError(f"bitmask: {error}") from error
    return Mask.from_array(painted)


def _check(file: png.Png, size: tuple[int, int]) -> None:
    width, height = file.size_wh
    if file.depth > MOST_BITS:
        raise ValueError(f"expected at most {MOST_BITS} bits a channel, got {file.depth}")
    if (height, width) != size:
        raise ValueError(f"expected size {size}, got {(height, width)}")
    if max(size) > MOST_SIDE:
        raise ValueError(f"expected sides of at most {MOST_SIDE:,} pixels, got {width} × {height}")
    if file.is_interlaced and height * width > MOST_INTERLACED:
        raise ValueError(f"expected at most {MOST_INTERLACED:,} interlaced pixels, got {width} × {height}")


def _masking(file: png.Png) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a few rows at a time of what masks: the alpha of a PNG that has one, else its gray or red."""
    rows = max(1, PIXELS_AT_ONCE // file.size_wh[0])
    if not (file.is_interlaced or file.depth < MOST_BITS or file.palette or file.transparency):
        yield from file.channel(ALPHA.get(file.colour, 0), rows)
        return
    for part in file.bands(rows) if file.has_bands else (file.whole(),):
        has_alpha = part.has_transparency_data
        yield np.asarray(part.convert("RGBA").getchannel("A") if has_alpha else part.convert("RGB").getchannel("R"))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(mask: Mask) -> Iterator[memoryview]:
    """Yield the filtered rows of the object, a few at a time; the row after them is stored unfiltered."""
    width, x, (height, crop_width) = mask.original_size[1], mask.offset[0], mask.crop.shape
    step = max(1, PIXELS_AT_ONCE // width)
    rows = np.zeros((min(step, height), 1 + CHANNELS * width), dtype=np.uint8)
    rows[:, 0] = ROW_ABOVE
    first = CHANNELS * (x + 1)  # a filter byte, then red, green, blue before the first alpha
    columns = slice(first, first + CHANNELS * crop_width, CHANNELS)
    above: npt.NDArray[np.uint8] = np.zeros((1, crop_width), dtype=np.uint8)
    for top in range(0, height, step):
        alpha = mask.crop[top : top + step].view(np.uint8) * np.uint8(255)
        rows[: len(alpha), columns] = np.diff(alpha, axis=0, prepend=above)
        above = alpha[-1:]
        yield rows[: len(alpha)].data


def _deflated(data: bytes) -> bytes:
    """Return compressed blocks that end on a byte and refer to no earlier data, so that they can be joined."""
    packer = zlib.compressobj(*DEFLATE)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _deflated_zeros(count: int) -> bytes:
    whole, rest = divmod(count, ZEROS)
    return (_deflated(bytes(ZEROS)) * whole if whole else b"") + (_deflated(bytes(rest)) if rest else b"")


def _adler_after_zeros(adler: int, count: int) -> int:
    """Return zlib's checksum after ``count`` more zero bytes: the low half stays, the high one grows by it for each."""
    low, high = adler & 0xFFFF, adler >> 16
    return (high + count * low) % ADLER_MODULUS << 16 | low
