"""Files with something wrong in them: read where a browser shows all of the picture, refused where some is missing."""

import functools
import io
import random
import struct
import time
import zlib

import pytest
from PIL import Image

from backend.errors import ImageError, Reason
from backend.images import decode as images_decode
from backend.images.decode import PixelLimits, check, decode
from model.images import jpeg as files_jpeg
from model.images import png as files_png
from tests.support.damaged_files import Case, cases
from tests.support.orientation_files import UPRIGHT, chunk, corners, encoded, jpeg, png, quarters, segment

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns about what it finds in damaged files
LIMITS = PixelLimits()


@functools.cache
def by_name() -> dict[str, Case]:
    return {case.name: case for case in cases()}


@pytest.mark.parametrize("name", sorted(name for name, case in by_name().items() if case.is_shown))
def test_what_a_browser_shows_is_read_unless_it_is_cut_short(name):
    case = by_name()[name]
    check(case.data, LIMITS)
    if not case.is_cut_short:
        assert quarters(decode(case.data, LIMITS).pixels) == UPRIGHT[1]


@pytest.mark.parametrize("name", sorted(name for name, case in by_name().items() if case.is_cut_short))
def test_what_is_cut_short_is_refused_and_the_message_names_the_format(name):
    kind = name.removeprefix("progressive ").removeprefix("larger ").removeprefix("lossless ").split(":")[0].upper()
    with pytest.raises(ImageError, match=f"a damaged {kind}: .") as caught:
        decode(by_name()[name].data, LIMITS)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def test_a_format_that_is_known_is_never_called_none():
    nameless = {"JPEG: a byte before the beginning", "JPEG: zeros before a marker", "GIF: another version"}
    for case in by_name().values():
        try:
            decode(case.data, LIMITS)
        except ImageError as error:
            message = str(error)
        else:
            message = ""
        assert "got none of them" not in message or case.name in nameless, case.name


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["corners", "white", "noise"])
def test_a_jpeg_cut_anywhere_is_refused_unless_only_its_end_marker_is_gone(kind, progressive, optimize):
    image = {
        "corners": corners(160, 96),
        "white": Image.new("RGB", (160, 96), (255, 255, 255)),
        "noise": Image.effect_noise((160, 96), 60).convert("RGB"),
    }[kind]
    data = encoded(image, "JPEG", quality=90, progressive=progressive, optimize=optimize)
    whole = decode(data, LIMITS).pixels
    assert (decode(data[:-2], LIMITS).pixels == whole).all()
    for cut in random.Random(0).sample(range(30, len(data) - 2), 25):
        try:
            pixels = decode(data[:cut], LIMITS).pixels
        except ImageError:
            continue
        assert (pixels == whole).all(), cut  # what is gone were bits that nothing depends on


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_read_a_few_rows_at_a_time_has_the_pixels_that_pillow_reads(mode, interlace):
    image = Image.effect_noise((37, 41), 90)
    image = Image.merge("RGBA", (image, image.rotate(90, expand=False), image.rotate(180), image))
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)
    data = _interlaced(image) if interlace else encoded(image)
    read = files_png.read(data)
    rows = [read.whole()] if not read.has_bands else list(read.bands(7))
    assert len(rows) == (1 if interlace else 6)
    assert b"".join(row.tobytes() for row in rows) == image.tobytes()


def _interlaced(image: Image.Image) -> bytes:
    """A PNG in seven passes, which Pillow does not write."""
    plain = encoded(image)
    depth, colour = plain[24], plain[25]
    step = {"1": 0, "L": 1, "LA": 2, "P": 1, "RGB": 3, "RGBA": 4, "I;16": 2}[image.mode]
    rows = b""
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for row in range(y, image.height, down):
            part = [image.getpixel((column, row)) for column in range(x, image.width, across)]
            if not part:
                continue
            rows += b"\0"
            if step == 0:
                bits = "".join("1" if value else "0" for value in part)
                rows += int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")
            elif image.mode == "I;16":
                rows += b"".join(struct.pack(">H", value) for value in part)
            else:
                rows += b"".join(bytes(value) if isinstance(value, tuple) else bytes((value,)) for value in part)
    header = plain[16:24] + bytes((depth, colour, 0, 0, 1))
    palette = b""
    if image.mode == "P":
        at = plain.index(b"PLTE") - 4
        palette = plain[at : at + 12 + struct.unpack(">I", plain[at : at + 4])[0]]
    return plain[:8] + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_transparency_of_shallow_gray_pngs_means_the_stored_value(depth):
    """Two pixels, black and as white as the depth allows, of which the white one is transparent, thus white anyway."""
    most = (1 << depth) - 1
    header = struct.pack(">IIBBBBB", 2, 1, depth, 0, 0, 0, 0)
    for transparent, expected in ((0, [255, 255]), (most, [0, 255])):
        row = bytes((0, (most << (8 - 2 * depth)) & 0xFF))
        data = (
            files_png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
            + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
        )  # fmt: skip
        assert decode(data, LIMITS).pixels[0, :, 0].tolist() == expected


def test_text_that_would_unpack_to_gigabytes_is_never_unpacked():
    bomb = zlib.compress(bytes(20_000_000))
    data = png(chunk(b"zTXt", b"a\0\0" + bomb) * 200 + chunk(b"iCCP", b"a\0\0" + bomb))
    read = files_png.read(data)
    assert not read.profile
    assert quarters(decode(data, LIMITS).pixels) == UPRIGHT[1]


def refused(data):
    with pytest.raises(ImageError) as caught:
        check(data, LIMITS)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    return str(caught.value)


def scans(count):
    """A progressive JPEG with its last scan many times."""
    data = encoded(corners(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_refused_before_it_is_decoded():
    assert "at most 100 scans" in refused(scans(8000))
    own = encoded(corners(), "JPEG", progressive=True).count(b"\xff\xda")
    assert "at most 100 scans" in refused(scans(files_jpeg.MAX_SCANS - own + 1))
    check(scans(files_jpeg.MAX_SCANS - own), LIMITS)


def test_a_header_that_lies_about_the_size_to_another_reader_takes_no_memory_for_such_a_picture():
    data = jpeg(segment(0xC0, struct.pack(">BHHB", 8, 65_500, 65_500, 1) + b"\1\x11\0"), b"\xff\xda")
    with pytest.raises(ImageError, match="a damaged JPEG: it has two frames"):
        check(data, LIMITS)
    picture = encoded(corners(), "WEBP", lossless=True)[12:]
    canvas = b"VP8X\x0a\0\0\0\2\0\0\0" + struct.pack("<I", 9_999)[:3] * 2
    assert "MB to decode" in refused(riff_of(canvas + picture))
    assert decode(riff_of(picture + canvas), LIMITS).original_size == (32, 48)


def riff_of(chunks):
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def test_the_scans_of_jpegs_in_a_tiff_are_counted_too():
    data = bytearray(encoded(corners(), "TIFF", compression="jpeg"))
    check(bytes(data), LIMITS)
    assert "scans" in refused(bytes(data) + b"\xff\xda" * 200)


def test_other_things_of_which_millions_fit_into_a_file_are_counted_too():
    assert "segments" in refused(jpeg(segment(0xFE, b"") * (files_jpeg.MAX_SEGMENTS + 1)))
    assert "chunks" in refused(png(chunk(b"abCd", b"") * (files_png.MAX_CHUNKS + 1)))
    tiff = bytearray(encoded(corners(), "TIFF"))
    at = tiff.index(struct.pack("<HHI", 273, 4, 1))
    tiff[at + 4 : at + 8] = struct.pack("<I", 1_000_000)
    assert "strips" in refused(bytes(tiff))


def test_a_run_length_bmp_is_bounded_by_its_pixels():
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 100, 0, 0, 54 + 1024, 40, 10_000, 5000, 1, 8, 1, 0, 0, 0, 256, 0)
    assert "run-length" in refused(header + bytes(1024) + b"\0\1")


def webp_header(width, height):
    """A lossless WebP of 46 bytes and any size."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(21)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def interlaced_header(width, height, depth=8, colour=2, interlaced=1):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return files_png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def progressive_header(width, height, factor):
    data = bytearray(encoded(corners(), "JPEG", progressive=True, subsampling=0 if factor == 1 else 2))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "fits", "too_large"),
    [
        (webp_header, (6000, 6000), (12_000, 12_000)),
        (interlaced_header, (8000, 8000), (10_000, 10_000)),
        (functools.partial(interlaced_header, depth=16, interlaced=0), (8000, 8000), (10_000, 10_000)),
        (functools.partial(progressive_header, factor=1), (6700, 6700), (8000, 8000)),
        (functools.partial(progressive_header, factor=2), (9700, 9700), (10_500, 10_500)),
    ],
    ids=["lossless WebP", "interlaced PNG", "PNG of 16 bits", "progressive JPEG 4:4:4", "progressive JPEG 4:2:0"],
)
def test_what_would_take_more_memory_than_its_kind_of_picture_may_is_refused_from_its_header(make, fits, too_large):
    check(make(*fits), LIMITS)
    message = refused(make(*too_large))
    assert "MB to decode" in message
    assert "save it" in message


def test_a_picture_is_no_larger_than_the_model_wants_it_and_has_the_pixels_of_one_resized_as_a_whole():
    image = Image.effect_noise((750, 550), 80).convert("RGB")
    expected = image.resize((150, 110), Image.Resampling.BILINEAR)
    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        options = {"lossless": True, "method": 0, "quality": 0} if kind == "WEBP" else {}
        picture = decode(encoded(image, kind, **options), PixelLimits(model_side=150))
        assert picture.original_size == (550, 750)
        assert Image.fromarray(picture.pixels).tobytes() == expected.tobytes(), kind


def test_a_webp_has_the_pixels_that_pillow_reads():
    for options in ({"quality": 80}, {"lossless": True}):
        data = encoded(corners(333, 222), "WEBP", **options)
        with Image.open(io.BytesIO(data)) as image:
            assert decode(data, LIMITS).pixels.tobytes() == image.convert("RGB").tobytes()


@pytest.mark.slow
def test_the_most_scans_that_are_allowed_take_seconds():
    data = encoded(corners(6000, 6000), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    more = files_jpeg.MAX_SCANNED_PIXELS // 6000**2 - data.count(b"\xff\xda")
    assert "scans" in refused(data[:-2] + last * (more + 1) + b"\xff\xd9")
    data = data[:-2] + last * more + b"\xff\xd9"
    start = time.thread_time()
    decode(data, LIMITS)
    assert time.thread_time() - start < 20


@pytest.mark.parametrize(("width", "height"), [(images_decode.MAX_SIDE + 1, 1), (1, images_decode.MAX_SIDE + 1)])
def test_a_side_that_no_browser_shows_is_refused(width, height):
    assert "sides of at most" in refused(interlaced_header(width, height, interlaced=0))


@pytest.mark.parametrize("size_wh", [(images_decode.MAX_SIDE, 1), (1, images_decode.MAX_SIDE), (300_000, 7)])
def test_the_longest_sides_are_read(size_wh):
    picture = decode(encoded(Image.new("RGB", size_wh, (9, 8, 7))), LIMITS)
    assert picture.original_size == size_wh[::-1]
    assert picture.pixels.reshape(-1, 3).tolist() == [[9, 8, 7]] * 1024
