"""Everything that may be called an image, to the pixels a person sees."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.paddlex.inputs import InputError, decode, find
from model.types import Embedding
from tests.support.orientation_files import UPRIGHT, cases, chunk, corners, encoded, quarters


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def colours():
    """(2, 3, 3) RGB: red, green, blue over white, gray, black."""
    return np.array(
        [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (128, 128, 128), (0, 0, 0)]], dtype=np.uint8
    )


@pytest.fixture
def photo(tmp_path, colours):
    path = tmp_path / "photo.png"
    Image.fromarray(colours).save(path)
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(tmp_path):
    """The address under which a loopback server gives the files of ``tmp_path``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_array_is_bgr_as_opencv_reads_it(colours):
    (source,) = find(np.ascontiguousarray(colours[..., ::-1]))
    picture = source.open()
    np.testing.assert_array_equal(picture.content, colours)
    assert (picture.path, picture.name, picture.original_size) == (None, None, (2, 3))


def test_a_gray_array_has_three_equal_channels():
    gray = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    for array in (gray, gray[..., None]):
        np.testing.assert_array_equal(find(array)[0].open().content, np.stack([gray] * 3, axis=-1))


def test_the_transparent_part_of_an_array_is_white():
    bgra = np.array([[(255, 0, 0, 255), (1, 2, 3, 0)]], dtype=np.uint8)
    assert find(bgra)[0].open().content.tolist() == [[[0, 0, 255], [255, 255, 255]]]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_rgb_and_its_name(photo, colours, kind):
    picture = find(kind(photo))[0].open()
    np.testing.assert_array_equal(picture.content, colours)
    assert (picture.path, picture.name) == (str(photo), "photo.png")


def test_an_address_is_downloaded_and_named_after_its_path(photo, colours, address):
    picture = find(f"{address}/photo.png?width=3")[0].open()
    np.testing.assert_array_equal(picture.content, colours)
    assert picture.name == "photo.png"


def test_an_address_that_gives_nothing_is_refused_with_its_status(address):
    with pytest.raises(InputError, match=r"nothing\.png: expected a picture, got status 404"):
        find(f"{address}/nothing.png")[0].open()


def test_an_address_that_does_not_answer_is_refused():
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/a\.png: expected a picture, got: "):
        find("http://127.0.0.1:9/a.png")[0].open()


def test_a_directory_gives_its_pictures_sorted_with_those_below_and_nothing_hidden(tmp_path, photo):
    for name in ("b.JPG", "sub/a.png", ".hidden.png", ".thumbs/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photo.read_bytes())
    paths = [Path(source.path).relative_to(tmp_path).as_posix() for source in find(str(tmp_path))]
    assert paths == ["b.JPG", "photo.png", "sub/a.png"]


def test_a_list_may_mix_everything(photo, colours):
    embedding = Embedding(np.zeros((4, 2, 2), np.float32), (10, 20), (64, 128), "m@1")
    sources = find([str(photo), colours, photo.parent, embedding])
    assert [source.path for source in sources] == [str(photo), None, str(photo), None]
    assert sources[3].open().content is embedding
    assert sources[3].open().original_size == (10, 20)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "expected at least one picture"),
        (None, "expected an array, path, address or directory, got NoneType"),
        ([3], "got int"),
        ("nowhere.png", "nowhere.png: expected a picture or a directory of pictures, got no such file"),
        (
            np.zeros((4, 4, 3), np.float32),
            r"a uint8 array of shape \(H, W, 3\) in BGR, got float32 \(4, 4, 3\)",
        ),
        (np.zeros((4, 4, 2), np.uint8), r"got uint8 \(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_read(value, sentence):
    with pytest.raises(InputError, match=sentence):
        find(value)


def test_a_directory_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected pictures in this directory, got none"):
        find(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png: expected a (readable )?picture, got"):
        find(path)[0].open()


def test_half_a_photo_is_refused():
    stream = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(stream, "JPEG")
    with pytest.raises(InputError, match="cut short"):
        decode(stream.getvalue()[: len(stream.getvalue()) // 2], "half.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(colours, orientation):
    turned = np.rot90(colours, 2)
    stored = {
        1: colours, 2: colours[:, ::-1], 3: turned, 4: colours[::-1],
        5: colours.transpose(1, 0, 2), 6: np.rot90(colours), 7: turned.transpose(1, 0, 2), 8: np.rot90(colours, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(stream.getvalue(), "turned.png"), colours)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some of the EXIF
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_file_is_turned_where_browsers_turn_it(case):
    for orientation in (1, 3, 6):
        expected = UPRIGHT[orientation if case.is_turned else 1]
        assert quarters(decode(case.make(orientation), "a")) == expected, orientation


def test_a_photo_without_its_end_marker_is_read_as_browsers_read_it():
    whole = encoded(corners(), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(whole[:-2], "a.jpg"), decode(whole, "a.jpg"))


def test_a_small_file_of_billions_of_pixels_is_refused_before_they_take_memory():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(InputError, match="pixels, got 60000 × 60000"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels, "bomb.png")


def test_reading_pictures_leaves_pillows_own_limit_as_it_is():
    code = "from PIL import Image; limit = Image.MAX_IMAGE_PIXELS; import model.paddlex.inputs; "
    completed = subprocess.run([sys.executable, "-c", code + "assert limit == Image.MAX_IMAGE_PIXELS"], check=False)
    assert completed.returncode == 0


def test_a_format_that_no_browser_shows_is_read_by_pillow():
    assert decode(encoded(corners(), "PPM"), "a.ppm").shape == (32, 48, 3)


def test_transparency_lies_on_white():
    rgba = np.array([[(10, 20, 30, 255), (9, 9, 9, 0), (0, 0, 0, 128)]], dtype=np.uint8)
    pixels = decode(png(Image.fromarray(rgba)), "a.png")
    assert pixels[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert abs(int(pixels[0, 2, 0]) - 127) <= 1


def test_a_deep_gray_scan_uses_the_whole_range():
    ramp = np.linspace(1000, 1400, 400).astype(np.uint16).reshape(20, 20)  # 12-bit scanners store so little
    pixels = decode(png(Image.fromarray(ramp)), "scan.png")
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (np.diff(pixels[..., 0].ravel().astype(int)) >= 0).all()


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert decode(stream.getvalue(), "a.gif")[0, 0].tolist() == [255, 0, 0]
