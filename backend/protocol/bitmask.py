"""Encodes and decodes Label Studio's bitmasks: data URLs of an all-black RGBA PNG whose alpha is the mask."""

import base64
import struct
import zlib

import cv2
import numpy as np

from model.types import Mask

PREFIX = "data:image/png;base64,"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = 4
MOST_BITS = 8  # of a channel; a PNG of 16 bits is no mask and takes twice the memory
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
    y = mask.offset[1]
    row_bytes = 1 + CHANNELS * width
    middle = _rows(mask)
    above, below = y * row_bytes, height * row_bytes - y * row_bytes - len(middle)
    stream = b"".join(
        (
            b"\x78\x01",  # zlib's header: deflate, 32 KB window, fastest
            _deflated_zeros(above),
            _deflated(middle),
            _deflated_zeros(below),
            b"\x03\x00",  # an empty last block
            struct.pack(">I", _adler_after_zeros(zlib.adler32(middle, _adler_after_zeros(1, above)), below)),
        )
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    return PREFIX + base64.b64encode(SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)).decode("ascii")


def decode(data_url: str, size: tuple[int, int]) -> Mask:
    """Return the mask of an image of ``size`` (height, width): true where the PNG's last channel is not 0.

    Raises:
        ValueError: it is not the data URL of a PNG, the PNG is damaged, or it has another size.
    """
    head, _, payload = data_url.partition(",")
    data = base64.b64decode(payload, validate=True) if head.endswith(";base64") else b""
    if not data.startswith(SIGNATURE) or len(data) < 25:
        raise ValueError(f"bitmask: expected a PNG as a data URL, got {head[:40]!r}")
    width, height, bits = struct.unpack(">IIB", data[16:25])
    if bits > MOST_BITS:
        raise ValueError(f"bitmask: expected at most {MOST_BITS} bits a channel, got {bits}")
    if (height, width) != size:  # checked before anything is unpacked
        raise ValueError(f"bitmask: expected size {size}, got {(height, width)}")
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != size:
        raise ValueError("bitmask: expected a PNG, got a damaged one")
    painted = (pixels if pixels.ndim == 2 else pixels[:, :, -1]) > 0
    del pixels  # four times as large as the mask, which is copied next
    return Mask.from_array(painted)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(mask: Mask) -> bytes:
    """Return the filtered rows of the object; the row after them is stored unfiltered."""
    width, x, (height, crop_width) = mask.original_size[1], mask.offset[0], mask.crop.shape
    if not height:
        return b""
    rows = np.zeros((height, 1 + CHANNELS * width), dtype=np.uint8)
    rows[:, 0] = ROW_ABOVE
    alpha = mask.crop.view(np.uint8) * np.uint8(255)
    first = CHANNELS * (x + 1)  # a filter byte, then red, green, blue before the first alpha
    columns = slice(first, first + CHANNELS * crop_width, CHANNELS)
    rows[0, columns] = alpha[0]
    rows[1:, columns] = alpha[1:] - alpha[:-1]
    return rows.tobytes()


def _deflated(data: bytes) -> bytes:
    """Return compressed blocks that end on a byte and refer to no earlier data, so that they can be joined."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _deflated_zeros(count: int) -> bytes:
    whole, rest = divmod(count, ZEROS)
    return (_deflated(bytes(ZEROS)) * whole if whole else b"") + (_deflated(bytes(rest)) if rest else b"")


def _adler_after_zeros(adler: int, count: int) -> int:
    """Return zlib's checksum after ``count`` more zero bytes: the low half stays, the high one grows by it for each."""
    low, high = adler & 0xFFFF, adler >> 16
    return (high + count * low) % ADLER_MODULUS << 16 | low
