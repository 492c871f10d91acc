"""Bitmasks are read from PNGs of every kind that programs write, a few rows at a time."""

import base64
import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.protocol import bitmask
from model.types import Mask
from tests.support.costs import memory_of_at_most
from tests.support.hostile_bodies import LARGE_WH, png_url

PAINTED = np.random.default_rng(0).random((501, 703)) > 0.6  # more than is read at once


def url(data: bytes) -> str:
    return bitmask.PREFIX + base64.b64encode(data).decode()


def saved(image: Image.Image, **options) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return url(file.getvalue())


def in_alpha() -> np.ndarray:
    """An RGBA image of noise whose alpha is the mask, in several strengths."""
    pixels = np.random.default_rng(1).integers(0, 256, (*PAINTED.shape, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(PAINTED, np.maximum(pixels[..., 3], 1), 0)
    return pixels


def in_colours(*palette: int) -> Image.Image:
    """An image of two colours, the second where the mask is."""
    image = Image.fromarray(PAINTED.astype(np.uint8), "P")
    image.putpalette(palette)
    return image


@pytest.mark.parametrize("name", ["NONE", "SUB", "UP", "AVG", "PAETH"])
def test_alpha_is_read_whatever_the_filter_of_the_rows(name):
    options = [cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{name}")]
    _, file = cv2.imencode(".png", in_alpha(), options)
    assert np.array_equal(bitmask.decode(url(file.tobytes()), PAINTED.shape).to_array(), PAINTED)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "RGBA", "P with alpha", "RGB with alpha"])
def test_a_png_of_any_kind_masks_by_its_alpha_or_its_gray_or_red(mode):
    image, options = Image.fromarray(in_alpha()), {}
    alpha = image.getchannel("A")
    mask = Image.fromarray(PAINTED.astype(np.uint8) * 255)
    match mode:
        case "1" | "L":
            image = mask.convert(mode)
        case "RGB":
            image = Image.merge("RGB", (mask, alpha, alpha.point(lambda value: 255 - value)))
        case "LA":
            image = image.convert("LA")
        case "P":
            image = in_colours(0, 9, 9, 9, 0, 0)
        case "P with alpha":
            image, options = in_colours(9, 9, 9, 9, 9, 9), {"transparency": b"\0\7"}
        case "RGB with alpha":
            image = Image.merge("RGB", (mask, mask, mask))
            options = {"transparency": (0, 0, 0)}
    assert np.array_equal(bitmask.decode(saved(image, **options), PAINTED.shape).to_array(), PAINTED)


def test_a_large_bitmask_takes_little_more_memory_than_its_mask():
    large = png_url(LARGE_WH, 8, 6, 4)
    with memory_of_at_most(75):  # twice its 33 MB: read, and cut to the object
        assert bitmask.decode(large, LARGE_WH[::-1]).area == LARGE_WH[0] * LARGE_WH[1]


def test_a_large_mask_is_written_a_few_rows_at_a_time():
    mask = Mask.from_array(np.ones(LARGE_WH[::-1], np.bool_))
    with memory_of_at_most(20):
        written = bitmask.encode(mask)
    assert bitmask.decode(written, LARGE_WH[::-1]).area == mask.area


@pytest.mark.parametrize("rows", [0, 1, 300, 501])
def test_a_mask_of_any_height_is_written_exactly(rows):
    mask = Mask(PAINTED[:rows], (0, 501 - rows), (501, 703)) if rows else Mask.from_array(np.zeros_like(PAINTED))
    file = base64.b64decode(bitmask.encode(mask).partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(pixels[..., 3], mask.to_array() * np.uint8(255))
    assert not pixels[..., :3].any()
    with Image.open(io.BytesIO(file)) as image:
        image.load()  # checks the sum of all rows


def test_a_large_interlaced_png_is_refused_before_it_is_unpacked():
    data = bytearray(base64.b64decode(png_url(LARGE_WH, 8, 6, 4).partition(",")[2]))
    data[28] = 1  # in the header, whose checksum follows
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="expected at most 16,777,216 interlaced pixels, got 6600 × 4950"):
        bitmask.decode(url(bytes(data)), LARGE_WH[::-1])


@pytest.mark.parametrize("size_wh", [(20_000_000, 1), (1, 20_000_000)])
def test_a_png_with_a_side_of_millions_is_refused_before_it_is_unpacked(size_wh):
    width, height = size_wh
    with pytest.raises(ValueError, match=f"expected sides of at most 1,048,576 pixels, got {width} × {height}"):
        bitmask.decode(png_url(size_wh), (height, width))


@pytest.mark.parametrize("size_wh", [(0, 4), (4, 0), (0, 0)])
def test_a_png_without_pixels_is_damaged(size_wh):
    width, height = size_wh
    with pytest.raises(ValueError, match=f"bitmask: expected at least 1 × 1 pixels, got {width} × {height}"):
        bitmask.decode(png_url(size_wh), (height, width))


def test_transparency_before_the_palette_does_not_count_as_in_chromium():
    whole = saved(in_colours(9, 9, 9, 9, 9, 9), transparency=b"\0\7")
    data = base64.b64decode(whole.partition(",")[2])
    start, end = data.index(b"PLTE") - 4, data.index(b"tRNS") - 4
    after = end + 12 + int.from_bytes(data[end : end + 4], "big")
    swapped = data[:start] + data[end:after] + data[start:end] + data[after:]
    assert np.array_equal(bitmask.decode(whole, PAINTED.shape).to_array(), PAINTED)
    assert bitmask.decode(url(swapped), PAINTED.shape).to_array().all()


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_png_that_is_cut_short_is_damaged(kept):
    _, file = cv2.imencode(".png", in_alpha())
    with pytest.raises(ValueError, match="bitmask: it is cut short: rows are missing"):
        bitmask.decode(url(file.tobytes()[: int(len(file) * kept)]), PAINTED.shape)
