"""Image files to pixels: what a browser would show, or a reason."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import model.paddlex.inputs
from backend.errors import ImageError, Reason
from backend.images.decode import PixelLimits, check, decode, digest
from model import transforms
from model.images import files
from model.transforms import normalize, preprocess
from tests.support.checkpoints import tiny
from tests.support.orientation_files import (
    BLUE,
    GREEN,
    RED,
    UPRIGHT,
    WHITE,
    corners,
    encoded,
    exif_bytes,
    photo,
    quarters,
)
from tests.support.sam2_files import tiny_sam2

LIMITS = PixelLimits()


def test_the_recorded_exif_6_photo_is_taller_than_wide():
    data = (Path(__file__).parents[2] / "golden/label_studio/exif6_stored800x600.jpg").read_bytes()
    assert decode(data, LIMITS).original_size == (800, 600)


def test_an_orientation_in_xmp_alone_is_ignored_as_browsers_do():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(encoded(corners(), "JPEG", xmp=xmp), LIMITS).original_size == (32, 48)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow mentions it
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif_bytes(0), exif_bytes(99)])
def test_exif_that_makes_no_sense_leaves_the_photo_as_it_is(exif):
    assert quarters(decode(encoded(corners(), "JPEG", exif=exif), LIMITS).pixels) == UPRIGHT[1]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_opaque_kind_of_colour_becomes_rgb(mode):
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF"}.get(mode, "PNG")
    plain = Image.new("RGB", (20, 10), WHITE)
    if mode == "LAB":
        plain = ImageCms.profileToProfile(
            plain, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode == "HSV":
        plain = plain.convert("HSV").convert("RGB")
    else:
        plain = plain.convert(mode)
    pixels = decode(encoded(plain, kind), LIMITS).pixels
    assert pixels.shape == (10, 20, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 250


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    pixels = decode(encoded(image.convert(mode)), LIMITS).pixels
    assert pixels[5, 2].tolist() == [0, 0, 0]
    assert pixels[5, 17].tolist() == [255, 255, 255]


def test_a_png_with_one_transparent_colour_shows_white_there():
    image = Image.new("RGB", (20, 10), RED)
    image.paste(BLUE, (0, 0, 10, 10))
    pixels = decode(encoded(image, transparency=RED), LIMITS).pixels
    assert pixels[5, 2].tolist() == list(BLUE)
    assert pixels[5, 17].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]
)
def test_deep_gray_values_are_stretched_to_the_whole_range(dtype, kind):
    ramp = np.linspace(1000, 1400, 200).astype(dtype)[None].repeat(50, axis=0)
    row = decode(encoded(Image.fromarray(ramp), kind), LIMITS).pixels[0, :, 0].astype(int)
    assert row[0] == 0
    assert row[-1] == 255
    assert (np.diff(row) >= 0).all()
    assert len(set(row)) > 150


def test_float_values_that_are_not_numbers_are_black_and_spoil_nothing():
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), LIMITS).pixels[..., 0]
    assert pixels[0, :3].tolist() == [0, 255, 0]
    assert pixels[-1, -1] == 255


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_an_even_deep_gray_image_is_black(value):
    assert not decode(encoded(Image.fromarray(np.full((5, 6), value, np.uint16))), LIMITS).pixels.any()


def exchanging_profile():
    """A profile with red and blue exchanged, so that obeying it cannot be mistaken for ignoring it."""
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * struct.unpack(">I", swapped[128:132])[0], 12):
        name = bytes(swapped[at : at + 4])
        swapped[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(swapped).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))


def test_a_wide_gamut_profile_is_converted_to_srgb():
    pixels = decode(encoded(Image.new("RGB", (8, 8), RED), icc_profile=exchanging_profile()), LIMITS).pixels
    assert pixels[4, 4, 2] > 200
    assert pixels[4, 4, 0] < 50


@pytest.mark.parametrize("data", [
    encoded(photo(40, 30), icc_profile=exchanging_profile()),
    encoded(photo(40, 30).convert("CMYK"), "TIFF"),
    encoded(photo(40, 30).convert("P")),
    encoded(photo(40, 30).convert("LA")),
    encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40))),
    encoded(Image.fromarray(np.full((30, 40), 7, np.float32)), "TIFF"),
], ids=["wide gamut", "CMYK", "palette", "gray with alpha", "16 bit", "even floats"])  # fmt: skip
def test_the_model_on_its_own_sees_the_same_colours_as_the_service(data):
    assert np.array_equal(model.paddlex.inputs.decode(data, "it"), decode(data, LIMITS).pixels)


@pytest.mark.parametrize("profile", [b"nonsense", b""])
def test_a_broken_profile_is_ignored(profile):
    pixels = decode(encoded(Image.new("RGB", (8, 8), RED), icc_profile=profile), LIMITS).pixels
    assert pixels[4, 4].tolist() == [255, 0, 0]


def test_a_profile_for_another_colour_space_is_ignored():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(Image.new("L", (8, 8), 77), icc_profile=srgb), LIMITS).pixels[4, 4].tolist() == [77] * 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_multi_page_files_give_their_first_frame(kind):
    frames = [Image.new("RGB", (16, 12), colour) for colour in (RED, BLUE, GREEN)]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert decode(data, LIMITS).pixels[6, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 5000), (10000, 20), (2, 1)])
def test_extreme_shapes_are_read(size_wh):
    picture = decode(encoded(Image.new("RGB", size_wh, RED)), LIMITS)
    assert picture.original_size == (size_wh[1], size_wh[0])
    preprocess(picture.pixels, tiny(1024))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0 ftypisom\0\0\2\0", "video"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    ],
)
def test_kinds_that_are_not_read_are_named(data, kind):
    with pytest.raises(ImageError, match=kind) as caught:
        decode(data, LIMITS)
    assert caught.value.reason is Reason.UNSUPPORTED_IMAGE_FORMAT


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_unreadable(data):
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_an_error_and_never_half_an_image(kind, part):
    data = encoded(photo(300, 200), kind)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * part)], LIMITS)
    assert caught.value.reason is Reason.IMAGE_UNREADABLE


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("ask", [decode, check])
def test_a_picture_of_30000_by_30000_is_refused_from_its_header(ask):
    data = png_header(30_000, 30_000) + struct.pack(">I", 1 << 20) + b"IDAT"
    with pytest.raises(ImageError, match="30000 × 30000") as caught:
        ask(data, LIMITS)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_the_pixel_limit_counts_exactly():
    data = encoded(Image.new("L", (10, 10)))
    assert decode(data, PixelLimits(max_pixels=100)).original_size == (10, 10)
    with pytest.raises(ImageError):
        decode(data, PixelLimits(max_pixels=99))


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_huge_jpeg_is_decoded_smaller_and_keeps_its_original_size(orientation):
    data = encoded(photo(1600, 1200), "JPEG", exif=exif_bytes(orientation), quality=95)
    picture = decode(data, PixelLimits(reduce_above_pixels=1_000_000, model_side=256))
    turned = orientation > 4
    assert picture.original_size == ((1600, 1200) if turned else (1200, 1600))
    assert picture.pixels.shape == ((256, 192, 3) if turned else (192, 256, 3))


def test_a_jpeg_decoded_smaller_gives_the_model_almost_the_same_input():
    data = encoded(photo(1600, 1200), "JPEG", quality=95)
    whole = decode(data, PixelLimits(reduce_above_pixels=None)).pixels
    small = decode(data, PixelLimits(reduce_above_pixels=1_000_000, model_side=256)).pixels
    first, second = (preprocess(pixels, tiny(256)).pixels for pixels in (whole, small))
    assert first.shape == second.shape
    difference = normalize(first, tiny(256)) - normalize(second, tiny(256))
    assert np.abs(difference).mean() * 58 < 1  # of 255 gray levels; one standard deviation of the model is 58


@given(width=st.integers(600, 1400), height=st.integers(300, 900))
@settings(max_examples=30, deadline=None)
def test_reducing_never_changes_the_size_of_the_models_input(width, height):
    data = encoded(Image.new("RGB", (width, height)), "JPEG")
    picture = decode(data, PixelLimits(reduce_above_pixels=1, model_side=128))
    assert picture.original_size == (height, width)
    whole = preprocess(np.zeros((height, width, 3), np.uint8), tiny(128)).pixels
    assert preprocess(picture.pixels, tiny(128)).pixels.shape == whole.shape


def stretched(pixels, side):
    """(side, side, 3) of the whole image, without rounding."""
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(c.resize((side, side), Image.Resampling.BILINEAR)) for c in channels], axis=-1)


@pytest.mark.parametrize("size_wh", [(1, 1), (500, 4), (3, 900), (400, 300), (60, 700), (129, 40)])
@pytest.mark.parametrize("turn", [1, 6])
def test_an_image_for_a_model_that_stretches_is_resized_once_on_each_axis(size_wh, turn):
    data = encoded(photo(*size_wh), "PNG", exif=exif_bytes(turn))
    whole = decode(data, PixelLimits(model_side=10_000)).pixels
    picture = decode(data, PixelLimits(model_side=128, keeps_shape=False))
    assert picture.original_size == whole.shape[:2]
    assert picture.pixels.shape[:2] == tuple(min(128, side) for side in whole.shape[:2])
    assert np.abs(preprocess(picture.pixels, tiny_sam2(128)).pixels - stretched(whole, 128)).max() <= 1 + 1e-3


def test_columns_that_would_take_much_memory_are_resized_band_by_band_to_the_same_image(monkeypatch):
    data = encoded(photo(300, 2000), "PNG")
    limits = PixelLimits(model_side=128, keeps_shape=False)
    expected = decode(data, limits).pixels.astype(int)
    monkeypatch.setattr(files, "BAND_PIXELS", 10_000)
    monkeypatch.setattr(transforms, "NARROW_BYTES", 100_000)
    assert np.abs(decode(data, limits).pixels - expected).max() <= 1


def test_a_jpeg_for_a_model_that_stretches_keeps_detail_on_its_short_side():
    data = encoded(photo(3000, 500), "JPEG", quality=95)
    limits = PixelLimits(reduce_above_pixels=1, model_side=256, keeps_shape=False)
    whole = decode(data, replace(limits, reduce_above_pixels=None)).pixels
    assert np.array_equal(decode(data, limits).pixels, whole)


def test_a_long_jpeg_that_would_take_too_much_memory_whole_is_read_smaller():
    data = encoded(Image.new("RGB", (60_000, 1300)), "JPEG")
    picture = decode(data, PixelLimits(keeps_shape=False))
    assert (picture.original_size, picture.pixels.shape) == ((1300, 60_000), (1024, 1024, 3))


def test_the_digest_is_that_of_the_file():
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


VALID = [encoded(photo(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
VALID.append(encoded(photo(40, 30), "JPEG", exif=exif_bytes(6)))
VALID.append(encoded(photo(40, 30).convert("P"), "TIFF", compression="tiff_lzw"))


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it finds in damaged files
@pytest.mark.parametrize("valid", VALID[:6], ids=["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_of_a_file_that_is_cut_short_the_message_says_what_is_wrong_and_names_no_object_in_memory(valid):
    for length in range(16, 60, 4):
        with pytest.raises(ImageError) as caught:
            decode(valid[:length], LIMITS)
        assert " object at 0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it finds in damaged files
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_give_an_image_or_a_reason_and_nothing_else(data):
    content = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode(bytes(content), PixelLimits(max_pixels=1_000_000, model_side=1_000_000))
    except ImageError:
        return
    assert picture.pixels.shape[:2] == picture.original_size
