"""What a caller of `predict` may call an image, to pixels: arrays, files, addresses, directories, lists of these.

An image is read as a browser shows it: rotated as `model.images.orientation` says, in the colours of `model.colours`,
and of an animation or a multi-page file the first frame. Files are read when they are needed.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from model.colours import bands_to_rgb, to_rgb
from model.images import files
from model.images.orientation import TRANSPOSED
from model.quiet import unlogged_requests
from model.transforms import resize_bands
from model.types import Embedding

RgbImage = npt.NDArray[np.uint8]
Input = str | os.PathLike[str] | npt.NDArray[np.uint8] | Embedding | Mapping[str, object]
IMAGE_KEY = "img"
"""What PaddleX calls the picture in an input that is a dict."""

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "bmp dib gif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905 - read as a list
)
"""What a file in a directory must end in to be taken for a picture; a file named by itself may have any name."""

MAX_PIXELS = 178_956_970
"""Of one image: what Pillow opens by default."""

DOWNLOAD_LIMIT_BYTES = 256 << 20
DOWNLOAD_TIMEOUT_S = 60.0


class InputError(ValueError):
    """An input is not a picture, or not to be had; the message names it and what was expected."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, read.

    Attributes:
        content: the pixels (H, W, 3) uint8 RGB, or the embedding where the caller gave one.
        path: file or address as the caller wrote it (or found in the caller's directory); None for an array.
        name: the file name that results are named after; None for an array.
    """

    content: RgbImage | Embedding
    path: str | None = None
    name: str | None = None

    @property
    def original_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        if isinstance(self.content, Embedding):
            return self.content.original_size
        return self.content.shape[0], self.content.shape[1]


@dataclass(frozen=True, eq=False)
class Source:
    """One requested picture, which is read when it is opened.

    Attributes:
        path: as `Picture` has it.
        content: the same, where the caller gave an array or an embedding; otherwise None.
        is_listed: whether the caller named the directory it is in, and not the picture.
    """

    path: str | None
    content: RgbImage | Embedding | None = None
    is_listed: bool = False

    @property
    def name(self) -> str | None:
        """As `Picture` has it."""
        if self.path is None:
            return None
        return PurePosixPath(unquote(urlsplit(self.path).path)).name if _is_address(self.path) else Path(self.path).name

    def open(self) -> Picture:
        """Return the picture, read.

        Raises:
            InputError: the file or address cannot be read, or is not a picture.
        """
        if self.content is not None:
            return Picture(self.content)
        assert self.path is not None  # one of the two is there
        data = _download(self.path) if _is_address(self.path) else _read_file(self.path)
        return Picture(decode(data, self.path), self.path, self.name)


def find(given: Input | Sequence[Input]) -> tuple[Source, ...]:
    """Return every requested picture; directories give the pictures below them, sorted by path.

    Args:
        given: (H, W, 3) uint8 array in BGR as OpenCV reads it (gray and BGRA too), path, http(s) address, directory,
            `Embedding`, a dict ``{"img": ...}`` of one of these, or a list of these.

    Raises:
        InputError: a path does not exist, a directory holds no picture, or the value is of another kind.
    """
    items = given if isinstance(given, (list, tuple)) else [given]
    sources = tuple(source for item in items for source in _sources(item))
    if not sources:
        raise InputError("input: expected at least one picture, got an empty list")
    return sources


def decode(data: bytes, name: str) -> RgbImage:
    """Return the pixels of an image file, (H, W, 3) uint8 RGB, as a browser shows it.

    Args:
        data: the file.
        name: what to call it in errors.

    Raises:
        InputError: the bytes are no image that Pillow reads, or end before it does.
    """
    kind = files.kind_of(data)
    try:
        return np.array(_as_browsers_show_it(data, kind) if kind else _as_pillow_reads_it(data))
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: expected a picture, got a file that begins with {data[:12]!r}") from error
    except files.DECODER_ERRORS as error:
        raise InputError(f"{name}: expected a readable picture, got: {error or type(error).__name__}") from error


def _as_browsers_show_it(data: bytes, kind: str) -> Image.Image:
    file = files.open_file(data, kind, side=files.MAX_SIDE, reduce_above_pixels=None)
    width, height = file.size_wh
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"expected 1 to {MAX_PIXELS:,} pixels, got {width} × {height}")
    size_wh, bands = file.load()
    image = resize_bands(bands_to_rgb(bands, size_wh), size_wh[1], size_wh)
    return image if file.turn == 1 else image.transpose(TRANSPOSED[file.turn])


def _as_pillow_reads_it(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return to_rgb(image)


def _sources(item: object) -> Iterator[Source]:
    if isinstance(item, Embedding):
        yield Source(None, item)
    elif isinstance(item, np.ndarray):
        yield Source(None, _from_bgr(item))
    elif isinstance(item, str) and _is_address(item):
        yield Source(item)
    elif isinstance(item, (str, os.PathLike)):
        yield from _on_disk(Path(item))
    elif isinstance(item, Mapping):
        keys = [key for key in item if key != IMAGE_KEY]
        if keys or isinstance(item.get(IMAGE_KEY), (Mapping, type(None))):
            got = f"the key {keys[0]!r:.60}" if keys else "no picture in it"
            raise InputError(f"input: expected a dict like {{'{IMAGE_KEY}': 'photo.jpg'}}, got {got}")
        yield from _sources(item[IMAGE_KEY])
    else:
        raise InputError(f"input: expected an array, path, address or directory, got {type(item).__name__}")


def _on_disk(path: Path) -> Iterator[Source]:
    if path.is_file():
        yield Source(str(path))
        return
    if not path.is_dir():
        raise InputError(f"{path}: expected a picture or a directory of pictures, got no such file")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and _is_shown(file, path))
    if not files:
        raise InputError(f"{path}: expected pictures in this directory, got none")
    yield from (Source(str(file), is_listed=True) for file in files)


def _is_shown(file: Path, root: Path) -> bool:
    """Whether neither the file nor a directory on the way to it is hidden (thumbnails, trash, macOS's ``._`` twins)."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _is_address(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable picture, got: {error.strerror}") from error


def _download(address: str) -> bytes:
    import httpx  # here: 0.1 s that only addresses need

    from model import tls

    data = bytearray()
    try:
        with (
            unlogged_requests(),
            httpx.stream(
                "GET", address, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT_S, verify=tls.client_context()
            ) as response,
        ):
            response.raise_for_status()
            for block in response.iter_bytes():
                data += block
                if len(data) > DOWNLOAD_LIMIT_BYTES:
                    raise InputError(f"{address}: expected at most {DOWNLOAD_LIMIT_BYTES >> 20} MB, got more")
    except httpx.HTTPStatusError as error:
        raise InputError(f"{address}: expected a picture, got status {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        cause = tls.refusal(error) or error or type(error).__name__
        raise InputError(f"{address}: expected a picture, got: {cause}") from error
    except tls.CertificatesError as error:
        raise InputError(str(error)) from error
    return bytes(data)


def _from_bgr(array: npt.NDArray[np.generic]) -> RgbImage:
    """Return an OpenCV-style array as RGB."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise InputError(f"input: expected a uint8 array of shape (H, W, 3) in BGR, got {array.dtype} {array.shape}")
    import cv2  # here: only arrays need it; numpy takes nine times as long

    pixels = np.ascontiguousarray(array, dtype=np.uint8)
    if channels == 4:
        return np.array(to_rgb(Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if channels == 1 else cv2.COLOR_BGR2RGB), dtype=np.uint8)
