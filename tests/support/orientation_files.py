"""Pictures with orientations in many places of their metadata, and how Chromium turns each.

Every picture shows four quarters, red, green / blue, white as stored, so that each of the eight orientations looks
different. The same table is held against our decoder and, in the browser suite, against Chromium itself.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZE_WH = (48, 32)

SHORT, LONG = 3, 4
_BYTES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_ORIENTATION = 0x0112

# What the EXIF standard says of each orientation, by quarters: where the corners of the stored picture are shown.
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@dataclass(frozen=True)
class Case:
    """One way of saying an orientation.

    Attributes:
        name: of the way.
        make: returns the file, given the orientation.
        is_turned: whether Chromium obeys.
    """

    name: str
    make: Callable[[int], bytes]
    is_turned: bool


def corners(width: int = SIZE_WH[0], height: int = SIZE_WH[1]) -> Image.Image:
    """A picture whose four quarters differ, so that every turn shows: red, green / blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def entry(value: int, kind: int = SHORT, order: str = "<", count: int = 1, tag: int = _ORIENTATION) -> bytes:
    """One entry of a TIFF directory whose values fit into it."""
    values = struct.pack(f"{order}{count}{_BYTES[kind]}", *[value] * count)
    return struct.pack(f"{order}HHI", tag, kind, count) + values.ljust(4, b"\0")[:4]


def directory(entries: list[bytes], order: str = "<", following: int | None = 0, claimed: int | None = None) -> bytes:
    """A TIFF directory."""
    end = b"" if following is None else struct.pack(f"{order}I", following)
    return struct.pack(f"{order}H", len(entries) if claimed is None else claimed) + b"".join(entries) + end


def tiff(body: bytes, order: str = "<", offset: int = 8) -> bytes:
    """A TIFF block, as EXIF is, whose directory begins at ``offset``."""
    mark = b"II" if order == "<" else b"MM"
    return (mark + struct.pack(f"{order}HI", 42, offset)).ljust(offset, b"\0") + body


def plain(orientation: int, kind: int = SHORT, order: str = "<", count: int = 1) -> bytes:
    """EXIF with the orientation alone."""
    return tiff(directory([entry(orientation, kind, order, count)], order), order)


def _second_directory(orientation: int) -> bytes:
    """EXIF with the orientation in IFD1, the thumbnail's."""
    first = directory([entry(1, tag=0x0128)], following=8 + 2 + 12 + 4)
    return tiff(first + directory([entry(orientation)]))


def _below(orientation: int) -> bytes:
    """EXIF with the orientation in the directory that is meant for the camera's settings."""
    first = directory([entry(8 + 2 + 12 + 4, LONG, tag=0x8769)])
    return tiff(first + directory([entry(orientation)]))


def _below_first(orientation: int) -> bytes:
    """EXIF with two orientations; the pointer to the camera's directory comes before the other one."""
    at = 8 + 2 + 24 + 4
    first = directory([entry(at, LONG, tag=0x8769), entry(1)])
    return tiff(first + directory([entry(orientation)]))


def _two_below(orientation: int) -> bytes:
    """EXIF with the orientation in a directory below the camera's."""
    at = 8 + 2 + 12 + 4
    first = directory([entry(at, LONG, tag=0x8769)])
    second = directory([entry(at + 2 + 12 + 4, LONG, tag=0x8769)])
    return tiff(first + second + directory([entry(orientation)]))


EXIF: tuple[tuple[str, Callable[[int], bytes]], ...] = (
    ("SHORT", plain),
    ("SHORT, big-endian", lambda o: plain(o, order=">")),
    ("LONG", lambda o: plain(o, LONG)),
    ("LONG, big-endian", lambda o: plain(o, LONG, ">")),
    ("BYTE", lambda o: plain(o, 1)),
    ("SBYTE", lambda o: plain(o, 6)),
    ("SSHORT", lambda o: plain(o, 8)),
    ("SLONG", lambda o: plain(o, 9)),
    ("two values", lambda o: plain(o, count=2)),
    ("no value", lambda o: plain(o, count=1).replace(struct.pack("<HI", 3, 1), struct.pack("<HI", 3, 0))),
    ("after another tag", lambda o: tiff(directory([entry(72, tag=0x011A), entry(o)]))),
    ("before another tag", lambda o: tiff(directory([entry(o), entry(2, tag=0x0128)]))),
    ("tags not sorted", lambda o: tiff(directory([entry(2, tag=0x0128), entry(o)]))),
    ("first of two tags", lambda o: tiff(directory([entry(o), entry(1)]))),
    ("last of two tags", lambda o: tiff(directory([entry(1), entry(o)]))),
    ("directory further on", lambda o: tiff(directory([entry(o)]), offset=40)),
    ("directory at an odd place", lambda o: tiff(directory([entry(o)]), offset=41)),
    ("no pointer to a next directory", lambda o: tiff(directory([entry(o)], following=None))),
    ("more tags claimed than there are", lambda o: tiff(directory([entry(o)], claimed=9))),
    ("next directory nowhere", lambda o: tiff(directory([entry(o)], following=0xFFFFFFF0))),
    ("second directory", _second_directory),
    ("camera's directory", _below),
    ("camera's directory first", _below_first),
    ("two levels below", _two_below),
    ("after a LONG", lambda o: tiff(directory([entry(1, LONG), entry(o)]))),
    ("after one of 0", lambda o: tiff(directory([entry(0), entry(o)]))),
    ("a wrong magic number", lambda o: plain(o)[:2] + b"\x2b\0" + plain(o)[4:]),
    ("directory outside", lambda o: plain(o)[:4] + struct.pack("<I", 5000) + plain(o)[8:]),
)


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def app1(exif: bytes, head: bytes = b"Exif\0\0") -> bytes:
    """The segment that holds EXIF."""
    return segment(0xE1, head + exif)


def jpeg(extra: bytes, before: bytes = b"\xff\xe0") -> bytes:
    """A JPEG with segments put in before the first marker of a kind."""
    data = encoded(corners(), "JPEG", quality=95)
    at = data.index(before)
    return data[:at] + extra + data[at:]


def xmp(orientation: int) -> bytes:
    """The orientation as XMP."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/></rdf:RDF>'
        "</x:xmpmeta>"
    ).encode()


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG."""
    check = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)


def png(extra: bytes, before: bytes = b"IDAT") -> bytes:
    """A PNG with chunks put in before the first one of a kind."""
    data = encoded(corners())
    at = data.index(before) - 4
    return data[:at] + extra + data[at:]


def _as_text(orientation: int) -> bytes:
    """EXIF in a text chunk, as ImageMagick once wrote it."""
    block = b"Exif\0\0" + plain(orientation)
    return b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())


def riff(*chunks: tuple[bytes, bytes], form: bytes = b"WEBP") -> bytes:
    """A RIFF file."""
    body = form + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp(exif: bytes, *, flag: bool = True, first: bool = False) -> bytes:
    """A WebP with EXIF."""
    image = encoded(corners(), "WEBP", lossless=True)[12:]
    length = struct.unpack("<I", image[4:8])[0]
    picture = (image[:4], image[8 : 8 + length])
    width, height = SIZE_WH
    head = struct.pack("<I", 8 if flag else 0) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    rest = [(b"EXIF", exif), picture] if first else [picture, (b"EXIF", exif)]
    return riff((b"VP8X", head), *rest)


def with_exif(kind: str, exif: bytes) -> bytes:
    """A picture with EXIF where files of its kind have it as a rule."""
    match kind:
        case "JPEG":
            return jpeg(app1(exif))
        case "PNG":
            return png(chunk(b"eXIf", exif))
    return webp(exif)


PLACES: tuple[tuple[str, Callable[[int], bytes]], ...] = (
    ("JPEG: after APP0", lambda o: jpeg(app1(plain(o)), b"\xff\xdb")),
    ("JPEG: before the frame", lambda o: jpeg(app1(plain(o)), b"\xff\xc0")),
    ("JPEG: after the frame", lambda o: jpeg(app1(plain(o)), b"\xff\xc4")),
    ("JPEG: before the scan", lambda o: jpeg(app1(plain(o)), b"\xff\xda")),
    ("JPEG: after the picture", lambda o: jpeg(app1(plain(o)), b"\xff\xd9")),
    ("JPEG: after a large profile", lambda o: jpeg(segment(0xE2, b"x" * 60_000) + app1(plain(o)))),
    ("JPEG: after XMP", lambda o: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(1)) + app1(plain(o)))),
    ("JPEG: first of two", lambda o: jpeg(app1(plain(o)) + app1(plain(1)))),
    ("JPEG: last of two", lambda o: jpeg(app1(plain(1)) + app1(plain(o)))),
    ("JPEG: after one without it", lambda o: jpeg(app1(tiff(directory([]))) + app1(plain(o)))),
    ("JPEG: after an empty one", lambda o: jpeg(app1(b"") + app1(plain(o)))),
    ("JPEG: after another's head", lambda o: jpeg(segment(0xE1, b"Exif") + app1(plain(o)))),
    ("JPEG: after a damaged one", lambda o: jpeg(app1(b"garbage") + app1(plain(o)))),
    ("JPEG: head with another end", lambda o: jpeg(app1(plain(o), b"Exif\0\xff"))),
    ("JPEG: head in small letters", lambda o: jpeg(app1(plain(o), b"exif\0\0"))),
    ("JPEG: no head", lambda o: jpeg(app1(plain(o), b""))),
    ("JPEG: in APP3", lambda o: jpeg(segment(0xE3, b"Exif\0\0" + plain(o)))),
    ("JPEG: XMP alone", lambda o: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(o)))),
    ("PNG: before the palette", lambda o: _palette_png(plain(o))),
    ("PNG: after the pixels", lambda o: png(chunk(b"eXIf", plain(o)), b"IEND")),
    ("PNG: first of two", lambda o: png(chunk(b"eXIf", plain(o)) + chunk(b"eXIf", plain(1)))),
    ("PNG: last of two", lambda o: png(chunk(b"eXIf", plain(1)) + chunk(b"eXIf", plain(o)))),
    ("PNG: with the head of a JPEG's", lambda o: png(chunk(b"eXIf", b"Exif\0\0" + plain(o)))),
    ("PNG: wrong checksum", lambda o: png(chunk(b"eXIf", plain(o), 1))),
    ("PNG: as text", lambda o: png(chunk(b"tEXt", _as_text(o)))),
    ("PNG: as compressed text", lambda o: png(chunk(b"zTXt", _compressed(_as_text(o))))),
    ("PNG: as text after the pixels", lambda o: png(chunk(b"tEXt", _as_text(o)), b"IEND")),
    ("PNG: XMP alone", lambda o: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o)))),
    ("WebP: no flag", lambda o: webp(plain(o), flag=False)),
    ("WebP: before the picture", lambda o: webp(plain(o), first=True)),
    ("WebP: with the head of a JPEG's", lambda o: webp(b"Exif\0\0" + plain(o))),
)


def _compressed(text: bytes) -> bytes:
    name, _, rest = text.partition(b"\0")
    return name + b"\0\0" + zlib.compress(rest)


def _palette_png(exif: bytes) -> bytes:
    data = encoded(corners().quantize(4))
    at = data.index(b"PLTE") - 4
    return data[:at] + chunk(b"eXIf", exif) + data[at:]


_TURNED_BY = frozenset((
    "SHORT", "SHORT, big-endian", "after another tag", "before another tag", "tags not sorted", "first of two tags",
    "directory further on", "directory at an odd place", "no pointer to a next directory",
    "more tags claimed than there are", "next directory nowhere", "camera's directory", "camera's directory first",
    "after a LONG", "after one of 0",
))  # fmt: skip
_TURNED_AT = frozenset((
    "JPEG: after APP0", "JPEG: before the frame", "JPEG: after the frame", "JPEG: before the scan",
    "JPEG: after a large profile", "JPEG: after XMP", "JPEG: first of two", "JPEG: head with another end",
    "JPEG: after another's head", "JPEG: after an empty one", "PNG: before the palette", "PNG: first of two",
))  # fmt: skip


def cases() -> tuple[Case, ...]:
    """Every way, with what Chromium does: it turns JPEG and PNG by one SHORT, and never WebP."""

    def in_exif(kind: str, way: Callable[[int], bytes]) -> Callable[[int], bytes]:
        return lambda orientation: with_exif(kind, way(orientation))

    ways = [
        Case(f"{kind}: {name}", in_exif(kind, way), kind != "WebP" and name in _TURNED_BY)
        for kind in ("JPEG", "PNG", "WebP")
        for name, way in EXIF
    ]
    return (*ways, *(Case(name, make, name in _TURNED_AT) for name, make in PLACES))


def photo(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def quarters(pixels):
    """The colours at the middles of the four quarters, row by row."""
    height, width = pixels.shape[:2]
    spots = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    spots.append((3 * height // 4, 3 * width // 4))
    return [tuple(int(c > 127) * 255 for c in pixels[y, x]) for y, x in spots]


def exif_bytes(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()
