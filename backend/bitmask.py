"""Label Studio's bitmasks, both ways: the data URL of an RGBA PNG, black everywhere, whose alpha is the mask."""

import base64
import struct
import zlib

import cv2
import numpy as np

from model.types import Mask

PREFIX = "data:image/png;base64,"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = 4
ROW_ABOVE = 2  # PNG's filter that stores each byte's difference from the one above


def encode(mask: Mask) -> str:
    """Return a mask as a data URL: alpha 255 on the object, 0 off it."""
    height, width = mask.original_size
    (x, y), (crop_height, crop_width) = mask.offset, mask.crop.shape
    rows = np.zeros((height, 1 + CHANNELS * width), dtype=np.uint8)
    rows[:, 0] = ROW_ABOVE
    if crop_height:
        alpha = mask.crop.view(np.uint8) * np.uint8(255)
        first = CHANNELS * (x + 1)  # a filter byte, then red, green, blue before the first alpha
        columns = slice(first, first + CHANNELS * crop_width, CHANNELS)
        rows[y, columns] = alpha[0]
        rows[y + 1 : y + crop_height, columns] = alpha[1:] - alpha[:-1]
        if y + crop_height < height:
            rows[y + crop_height, columns] = np.uint8(0) - alpha[-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    return PREFIX + base64.b64encode(SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)).decode("ascii")


def decode(data_url: str, size: tuple[int, int]) -> Mask:
    """Return the mask of a photo of ``size`` (height, width): true where a PNG's last channel is not 0.

    Raises:
        ValueError: it is not the data URL of a PNG, the PNG is damaged, or it has another size.
    """
    head, _, payload = data_url.partition(",")
    data = base64.b64decode(payload, validate=True) if head.endswith(";base64") else b""
    if not data.startswith(SIGNATURE) or len(data) < 24:
        raise ValueError(f"bitmask: expected a PNG as a data URL, got {head[:40]!r}")
    width, height = struct.unpack(">II", data[16:24])
    if (height, width) != size:  # known before anything is unpacked
        raise ValueError(f"bitmask: expected size {size}, got {(height, width)}")
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != size:
        raise ValueError("bitmask: expected a PNG, got a damaged one")
    return Mask.from_array((pixels if pixels.ndim == 2 else pixels[:, :, -1]) > 0)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
