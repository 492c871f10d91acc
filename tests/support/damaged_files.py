"""Pictures with something wrong or something huge in them, and whether Chromium shows them whole."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.orientation_files import chunk, corners, encoded, jpeg, png, riff, segment

ANCILLARY = (
    "iCCP sRGB gAMA cHRM cICP sBIT bKGD hIST pHYs sPLT tIME tEXt zTXt iTXt eXIf acTL mDCV cLLI abCd".split()  # noqa: SIM905
)


_ANY_KIND = (
    "longer than the file", "before IHDR", "header with a wrong checksum", "two headers", "where none is needed",
    "chunk that matters", "needed palette with a wrong checksum", "two beginnings", "zeros before a marker",
    "before the beginning", "without a frame", "another version", "cut by a byte", "cut by 20 bytes", "of its own",
    "EXIF cut short", "without VP8X", "two pictures", "animation that has none", "canvas of another size",
)  # fmt: skip
_IN_PART = (
    "half of the rows", "does not exist", "between the chunks", "no palette", "nonsense between the blocks",
    "progressive JPEG: another JPEG instead of the end",
)  # fmt: skip
_SMALL_IN_PART = ("no end", "half of the end", "without its last 40 bytes", "without its last third")
_CUT_SHORT = ("without its last", "one row too few", "half of the rows", "half of it", "cut by", "EXIF cut short")


@dataclass(frozen=True)
class Case:
    """A file with something wrong in it."""

    name: str
    data: bytes

    @property
    def is_shown(self) -> bool:
        """Whether Chromium shows all four quarters; it may show a file that is cut short as far as it goes."""
        if self.name in {f"JPEG: {part}" for part in _SMALL_IN_PART} | {"larger JPEG: without its last third"}:
            return False
        if self.name.startswith("PNG: pixels with") or self.name.endswith("of an odd length where none is needed"):
            return True
        return not any(part in self.name for part in (*_ANY_KIND, *_IN_PART))

    @property
    def is_cut_short(self) -> bool:
        """Whether some of the picture is missing."""
        return any(part in self.name for part in _CUT_SHORT) and not self.name.endswith(", ended")


def _png_chunks() -> Iterator[Case]:
    for name in map(str.encode, ANCILLARY):
        text = name.decode()
        yield Case(f"PNG: {text} with a wrong checksum", png(chunk(name, b"\0" * 9, 7)))
        yield Case(f"PNG: {text} with nonsense", png(chunk(name, b"nonsense" * 5)))
        yield Case(f"PNG: {text} empty", png(chunk(name, b"")))
        yield Case(f"PNG: {text} after the pixels, with a wrong checksum", png(chunk(name, b"\0" * 9, 7), b"IEND"))
        yield Case(f"PNG: {text} of 1.2 MB", png(chunk(name, b"a\0\0" + bytes(range(250)) * 5000)))
        yield Case(f"PNG: {text} before IHDR", png(chunk(name, b"\0" * 9), b"IHDR"))
        yield Case(f"PNG: {text} longer than the file", png(struct.pack(">I", 5000) + name))


def _png_rest() -> Iterator[Case]:
    whole = encoded(corners())
    at = whole.index(b"IDAT")
    length = struct.unpack(">I", whole[at - 4 : at])[0]
    stream, rest = whole[at + 4 : at + 4 + length], whole[at + 8 + length :]
    raw = zlib.decompress(stream)

    def with_stream(stream: bytes, crc: int | None = None) -> bytes:
        return whole[: at - 4] + chunk(b"IDAT", stream, crc) + rest

    bomb = zlib.compress(bytes(100_000_000))
    halves = chunk(b"IDAT", stream[:50]), chunk(b"IDAT", stream[50:])
    yield Case("PNG: text that unpacks to 100 MB", png(chunk(b"zTXt", b"a\0\0" + bomb)))
    yield Case("PNG: international text that unpacks to 100 MB", png(chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)))
    yield Case("PNG: profile that unpacks to 100 MB", png(chunk(b"iCCP", b"a\0\0" + bomb)))
    yield Case("PNG: 3000 text chunks", png(chunk(b"tEXt", b"a\0" + b"x" * 1000) * 3000))
    yield Case("PNG: bytes after the end", whole + b"garbage" * 100)
    yield Case("PNG: another PNG after the end", whole + whole)
    yield Case("PNG: no end", whole[:-12])
    yield Case("PNG: cut in the end", whole[:-5])
    yield Case("PNG: end with a wrong checksum", whole[:-1] + b"x")
    yield Case("PNG: cut in the checksum of the pixels", whole[:-14])
    yield Case("PNG: pixels with a wrong checksum", with_stream(stream, 7))
    yield Case("PNG: pixels with a wrong sum of their own", with_stream(stream[:-1] + b"x"))
    yield Case("PNG: pixels without a sum of their own", with_stream(stream[:-4]))
    yield Case("PNG: bytes after the pixels", with_stream(stream + b"garbage"))
    yield Case("PNG: more rows than the header says", with_stream(zlib.compress(raw + raw)))
    yield Case("PNG: one row too few", with_stream(zlib.compress(raw[: -len(raw) // 32])))
    yield Case("PNG: half of the rows", with_stream(zlib.compress(raw[: len(raw) // 2])))
    yield Case("PNG: a filter that does not exist", with_stream(zlib.compress(b"\x09" + raw[1:])))
    yield Case("PNG: in two chunks", whole[: at - 4] + b"".join(halves) + rest)
    yield Case("PNG: text between the chunks", whole[: at - 4] + chunk(b"tEXt", b"a\0b").join(halves) + rest)
    yield Case("PNG: an empty chunk first", whole[: at - 4] + chunk(b"IDAT", b"") + chunk(b"IDAT", stream) + rest)
    yield Case("PNG: pixels, text, then other pixels", with_stream(stream)[:-12] + chunk(b"tEXt", b"a\0b") + halves[0])
    yield Case("PNG: header with a wrong checksum", whole[:29] + b"\0\0\0\0" + whole[33:])
    yield Case("PNG: two headers", png(whole[8:33]))
    yield Case("PNG: palette with a wrong checksum where none is needed", png(chunk(b"PLTE", b"\0" * 9, 7)))
    yield Case("PNG: palette of an odd length where none is needed", png(chunk(b"PLTE", b"\0" * 8)))
    yield Case("PNG: unknown chunk that matters", png(chunk(b"ABCD", b"nonsense")))
    yield Case("PNG: transparency with a wrong checksum", png(chunk(b"tRNS", b"\0\xff\0\0\0\0", 7)))
    yield Case("PNG: transparency that is too short", png(chunk(b"tRNS", b"\0")))
    yield Case("PNG: name of a chunk that is none", png(chunk(b"a\0b!", b"")))
    indexed = encoded(corners().quantize(4))
    yield Case("PNG: no palette", _without(indexed, b"PLTE"))
    end = indexed.index(b"PLTE") + 4 + 12
    yield Case("PNG: needed palette with a wrong checksum", indexed[:end] + b"\0\0\0\0" + indexed[end + 4 :])


def _without(data: bytes, name: bytes) -> bytes:
    at = data.index(name) - 4
    return data[:at] + data[at + 12 + struct.unpack(">I", data[at : at + 4])[0] :]


def _jpegs() -> Iterator[Case]:
    whole = encoded(corners(), "JPEG", quality=95)
    progressive = encoded(corners(), "JPEG", quality=95, progressive=True)
    large = encoded(corners(480, 320), "JPEG", quality=95)
    for name, data in (("JPEG", whole), ("progressive JPEG", progressive), ("larger JPEG", large)):
        yield Case(f"{name}: no end", data[:-2])
        yield Case(f"{name}: half of the end", data[:-1])
        yield Case(f"{name}: bytes after the end", data + b"garbage" * 100)
        yield Case(f"{name}: zeros after the end", data + bytes(5000))
        yield Case(f"{name}: zeros instead of the end", data[:-2] + bytes(5000))
        yield Case(f"{name}: another JPEG after the end", data + data)
        yield Case(f"{name}: another JPEG instead of the end", data[:-2] + data)
        yield Case(f"{name}: without its last 40 bytes", data[:-42])
        yield Case(f"{name}: without its last third", data[: len(data) * 2 // 3])
    last = progressive.rindex(b"\xff\xda")
    yield Case("progressive JPEG: without its last scan", progressive[:last])
    yield Case("progressive JPEG: without its last scan, ended", progressive[:last] + b"\xff\xd9")
    for number in range(16):
        body = {0: b"JFIF\0", 1: b"Exif\0\0", 2: b"ICC_PROFILE\0\1\2", 14: b"Adobe\0"}.get(number, b"nonsense")
        yield Case(f"JPEG: APP{number} cut short", jpeg(segment(0xE0 + number, body)))
        yield Case(f"JPEG: APP{number} with nonsense", jpeg(segment(0xE0 + number, body + b"nonsense" * 8)))
        yield Case(f"JPEG: APP{number} empty", jpeg(segment(0xE0 + number, b"")))
    yield Case("JPEG: MPF with nonsense", jpeg(segment(0xE2, b"MPF\0nonsense")))
    yield Case("JPEG: Photoshop's data with nonsense", jpeg(segment(0xED, b"Photoshop 3.0\x008BIMnonsense")))
    yield Case("JPEG: a large damaged profile", jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 5))
    yield Case("JPEG: 500 comments", jpeg(segment(0xFE, bytes(60_000)) * 500))
    yield Case("JPEG: segment shorter than it is", jpeg(segment(0xE5, b"abc") + b"more of it"))
    yield Case("JPEG: segment longer than the file", jpeg(b"\xff\xe5\xff\xff"))
    yield Case("JPEG: segment of length 0", jpeg(b"\xff\xe5\0\0"))
    yield Case("JPEG: fill bytes before a marker", jpeg(b"\xff" * 50))
    yield Case("JPEG: zeros before a marker", jpeg(bytes(50)))
    yield Case("JPEG: two beginnings", whole[:2] + whole)
    yield Case("JPEG: a byte before the beginning", b"\n" + whole)
    yield Case("JPEG: without a frame", whole[: whole.index(b"\xff\xc0")] + whole[whole.index(b"\xff\xc4") :])


def _gifs() -> Iterator[Case]:
    whole = encoded(corners().quantize(4), "GIF")
    at = whole.index(b",", 13 + 12)
    yield Case("GIF: no end", whole[:-1])
    yield Case("GIF: no end of the pixels", whole[:-2])
    yield Case("GIF: bytes after the end", whole + b"garbage")
    yield Case("GIF: nonsense instead of the end", whole[:-1] + b"garbage")
    yield Case("GIF: half of it", whole[: len(whole) - 30])
    yield Case(
        "GIF: 100 large comments", whole[:at] + (b"!\xfe" + (b"\xff" + b"x" * 255) * 400 + b"\0") * 100 + whole[at:]
    )
    yield Case("GIF: application data with nonsense", whole[:at] + b"!\xff\x03abc\x02de\0" + whole[at:])
    yield Case("GIF: unknown extension", whole[:at] + b"!\x77\x03abc\0" + whole[at:])
    yield Case("GIF: another version", b"GIF00a" + whole[6:])
    yield Case("GIF: nonsense between the blocks", whole[:at] + b"zz" + whole[at:])


def _webps() -> Iterator[Case]:
    for name, options in (("WebP", {"quality": 95}), ("lossless WebP", {"lossless": True})):
        whole = encoded(corners(), "WEBP", **options)
        length = struct.unpack("<I", whole[16:20])[0]
        picture = whole[12:16], whole[20 : 20 + length]
        sides = struct.pack("<I", 47)[:3] + struct.pack("<I", 31)[:3]

        def extended(flags: int, *chunks: tuple[bytes, bytes], sides: bytes = sides) -> bytes:
            return riff((b"VP8X", struct.pack("<I", flags) + sides), *chunks)

        yield Case(f"{name}: bytes after the end", whole + b"garbage" * 50)
        yield Case(f"{name}: cut by a byte", whole[:-1])
        yield Case(f"{name}: cut by 20 bytes", whole[:-20])
        yield Case(f"{name}: a size of its own that is too small", whole[:4] + struct.pack("<I", 20) + whole[8:])
        yield Case(f"{name}: a size of its own that is too large", whole[:4] + struct.pack("<I", 90_000) + whole[8:])
        yield Case(f"{name}: a size of its own that is odd", whole[:4] + struct.pack("<I", len(whole) - 9) + whole[8:])
        yield Case(f"{name}: profile with nonsense", extended(0x20, (b"ICCP", b"nonsense"), picture))
        yield Case(f"{name}: profile that is missing", extended(0x20, picture))
        yield Case(f"{name}: profile after the picture", extended(0x20, picture, (b"ICCP", b"nonsense")))
        yield Case(f"{name}: EXIF with nonsense", extended(0x08, picture, (b"EXIF", b"nonsense")))
        yield Case(f"{name}: EXIF of 3 MB", extended(0x08, picture, (b"EXIF", bytes(3_000_000))))
        yield Case(f"{name}: EXIF cut short", extended(0x08, picture, (b"EXIF", bytes(3000)))[:-1000])
        yield Case(f"{name}: XMP that is missing", extended(0x04, picture))
        yield Case(f"{name}: unknown chunk first", extended(0, (b"ABCD", b"nonsense"), picture))
        yield Case(f"{name}: unknown chunk last", extended(0, picture, (b"ABCD", b"nonsense")))
        yield Case(f"{name}: unknown chunk without VP8X", riff((b"ABCD", b"nonsense"), picture))
        yield Case(f"{name}: two pictures", extended(0, picture, picture))
        yield Case(f"{name}: flag of transparency without any", extended(0x10, picture))
        yield Case(f"{name}: animation that has none", extended(0x02, picture))
        yield Case(f"{name}: a canvas of another size", extended(0, picture, sides=b"\x50\0\0\x50\0\0"))


def _others() -> Iterator[Case]:
    whole = encoded(corners(), "BMP")
    yield Case("BMP: bytes after the end", whole + b"garbage")
    yield Case("BMP: size of the file wrong", whole[:2] + b"\x10\0\0\0" + whole[6:])
    yield Case("BMP: cut by a row", whole[:-144])
    yield Case("BMP: size of the pixels wrong", whole[:34] + b"\x10\0\0\0" + whole[38:])
    yield Case("BMP: negative resolution", whole[:38] + b"\xff" * 8 + whole[46:])


def cases() -> list[Case]:
    """All of them."""
    return [*_png_chunks(), *_png_rest(), *_jpegs(), *_gifs(), *_webps(), *_others()]
