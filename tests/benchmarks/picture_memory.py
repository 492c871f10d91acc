"""Makes a large picture, or decodes one in a fresh process and prints what that took.

Usage: ``python -m tests.benchmarks.picture_memory make KIND WIDTH HEIGHT PATH``, and ``... decode PATH``, which prints
the most memory beside the file, what of it is kept afterwards (both in bytes), and the seconds.
"""

import gc
import subprocess
import sys
import time
from pathlib import Path

KINDS = {
    "JPEG": 10_000, "progressive JPEG": 9600, "progressive JPEG 4:4:4": 6700, "CMYK JPEG": 10_000, "PNG": 10_000,
    "PNG with alpha": 10_000, "PNG of 16 bits": 10_000, "interlaced PNG": 6200, "WebP": 7000, "lossless WebP": 6100,
    "WebP with alpha": 6100, "GIF": 10_000, "BMP": 10_000, "TIFF": 7900, "TIFF in one strip": 6100,
    "TIFF of 16 bits": 10_000,
}  # fmt: skip
"""The largest square of each, in steps of a few hundred pixels, that is read; 10,000 where more are."""


def make(kind: str, width: int, height: int, path: Path) -> None:
    """Write a picture of soft colours."""
    import numpy as np
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    small = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
    if "alpha" in kind:
        image.putalpha(Image.linear_gradient("L").resize((width, height)))
    elif "16 bits" in kind:
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    elif kind.startswith("CMYK"):
        image = image.convert("CMYK")
    elif kind == "GIF":
        image = image.quantize(64)
    options: dict[str, object] = {}
    if "JPEG" in kind:
        options = {"progressive": "progressive" in kind, "subsampling": 0 if "4:4:4" in kind else 2}
    elif "WebP" in kind:
        options = {"lossless": "lossless" in kind, "method": 0, "quality": 0 if "lossless" in kind else 80}
    elif kind == "TIFF in one strip":
        options = {"compression": "tiff_lzw", "tiffinfo": {278: height}}
    elif kind.startswith("TIFF"):
        options = {"compression": "tiff_lzw"}
    elif "PNG" in kind:
        options = {"compress_level": 1}
    name = next(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF") if name in kind.upper())
    if kind == "interlaced PNG":
        _write_interlaced(image, path)
    else:
        image.save(path, name, **options)


def _write_interlaced(image: "Image.Image", path: Path) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Write what Pillow does not: seven passes, unfiltered."""
    import struct
    import zlib

    import numpy as np

    from tests.support.orientation_files import chunk

    pixels = np.asarray(image)
    packer, parts = zlib.compressobj(1), []
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        parts += [packer.compress(b"\0" + row[x::across].tobytes()) for row in pixels[y::down]]
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    rows = chunk(b"IDAT", b"".join(parts))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))


def decode(path: Path) -> None:
    """Decode a picture and print what it took."""
    import cv2

    from backend.images import decode as images_decode
    from tests.benchmarks.peak_memory import own_peak
    from tests.support.orientation_files import corners, encoded

    cv2.setNumThreads(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        images_decode.decode(
            encoded(corners(), kind), images_decode.PixelLimits()
        )  # whatever is loaded at the first use
    data = path.read_bytes()
    before, start = own_memory(), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    picture = images_decode.decode(data, images_decode.PixelLimits())
    took, peak = time.perf_counter() - start, own_peak() - before
    del picture
    gc.collect()
    print(peak, own_memory() - before, took)


def own_memory() -> int:
    """The resident memory of this program, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def run(*arguments: str | Path) -> str:
    """Run this module in a fresh process and return what it prints."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.picture_memory", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        decode(Path(sys.argv[2]))
