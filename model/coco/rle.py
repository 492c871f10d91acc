"""Encodes and decodes COCO's run-length code of masks, as pycocotools does: as plain counts or as text.

Pixels are counted column by column, runs off and on the object in turn, beginning with those off it. The text form
holds, per count, the difference to the count before the last, in groups of five bits: low groups first, each a
character from ``0`` on, its sixth bit set where more follow (``rleToString`` in COCO's ``maskApi.c``). Label Studio's
own code is another one, see ``backend.protocol.rle``.

>>> from model.types import Mask
>>> code = encode(Mask.from_array(np.array([[False, True], [False, True]])))
>>> code.counts.tolist(), code.size, code.bbox
([2, 2], (2, 2), (1, 0, 1, 2))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypedDict, TypeGuard

import cv2
import numpy as np
import numpy.typing as npt

from model.types import Mask

Counts: TypeAlias = npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]

_BITS = 5
_MORE = 1 << _BITS
_SIGN = 1 << (_BITS - 1)
_FIRST = ord("0")
_LONGEST_GROUPS = 7  # 35 bits: any difference of two 32-bit counts


class RleObject(TypedDict):
    """The code as COCO's files hold it: ``size`` is height and width, ``counts`` a list or the text."""

    size: list[int]
    counts: list[int] | str


@dataclass(frozen=True, eq=False)
class Rle:
    """A mask of a photo as run lengths.

    Attributes:
        counts: (n,) uint32, runs off and on the object in turn, column by column.
        size: (H, W) of the photo.

    Raises:
        ValueError: the counts are not as many pixels as the photo has.
    """

    counts: Counts
    size: tuple[int, int]

    def __post_init__(self) -> None:
        counts = np.array(self.counts, dtype=np.uint32)
        total = int(counts.sum(dtype=np.int64))
        if counts.ndim != 1 or len(self.size) != 2 or min(self.size) < 0 or total != self.size[0] * self.size[1]:
            raise ValueError(
                f"counts: expected runs of {' × '.join(map(str, self.size))} pixels, got {counts.shape} of {total}"
            )
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    @cached_property
    def area(self) -> int:
        """Pixels on the object."""
        return int(self.counts[1::2].sum(dtype=np.int64))

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """The tight box x1, y1, x2, y2 around the object in pixels (x2, y2 exclusive), None when empty."""
        starts, ends = _runs(self)
        if not len(starts):
            return None
        height = self.size[0]
        first, last = starts // height, (ends - 1) // height
        if (first != last).any():  # a run into the next column passes the bottom and the top
            top, bottom = 0, height
        else:
            top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
        return int(first[0]), top, int(last[-1]) + 1, bottom

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """COCO's box: x, y, width and height in pixels; zeros when empty."""
        x1, y1, x2, y2 = self.box or (0, 0, 0, 0)
        return x1, y1, x2 - x1, y2 - y1

    def to_uncompressed(self) -> RleObject:
        """Return the code with its counts as a list."""
        return {"size": list(self.size), "counts": self.counts.tolist()}

    def to_compressed(self) -> RleObject:
        """Return the code with its counts as text, as ``pycocotools.mask.encode`` does (there as bytes)."""
        return {"size": list(self.size), "counts": _to_text(self.counts)}


def encode(mask: Mask) -> Rle:
    """Return the code of a mask. The cost grows with the mask's crop and its number of runs, not with the photo."""
    height, width = mask.original_size
    if not mask.crop.size:
        return Rle(np.array([height * width]), mask.original_size)
    below = cv2.copyMakeBorder(mask.crop.view(np.uint8), 0, 1, 0, 0, cv2.BORDER_CONSTANT, value=0)
    columns = cv2.transpose(below).ravel()  # each column of the crop, and a pixel off the object below it
    changes = np.flatnonzero(columns[1:] != columns[:-1]).astype(np.int64) + 1
    if columns[0]:
        changes = np.concatenate([np.zeros(1, dtype=np.int64), changes])
    x, y = mask.offset
    column, row = np.divmod(changes, mask.crop.shape[0] + 1)
    bounds = (column + x) * height + row + y
    if mask.crop.shape[0] == height:  # only then can a run continue in the next column
        apart = np.ones(len(bounds), dtype=np.bool_)
        joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2])
        apart[2 * joined + 1] = apart[2 * joined + 2] = False
        bounds = bounds[apart]
    counts = np.diff(bounds, prepend=0, append=height * width)
    return Rle(counts if counts[-1] or len(counts) == 1 else counts[:-1], mask.original_size)


def decode(rle: Rle) -> Mask:
    """Return the mask of a code, cropped to its object."""
    box, height = rle.box, rle.size[0]
    if box is None:
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), rle.size)
    x1, y1, x2, y2 = box
    starts, ends = _runs(rle)
    lengths = np.diff(np.stack([starts, ends], axis=1).ravel() - x1 * height, prepend=0, append=(x2 - x1) * height)
    is_on = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(is_on, lengths).reshape(x2 - x1, height)[:, y1:y2]
    crop = cv2.transpose(np.ascontiguousarray(columns).view(np.uint8)).view(np.bool_)
    return Mask(crop, (x1, y1), rle.size)


def iou(rle: Rle, other: Rle) -> float:
    """Return the intersection over union of two masks of a photo, from their runs alone; 0 where both are empty.

    Raises:
        ValueError: they are of photos of different sizes.
    """
    if rle.size != other.size:
        raise ValueError(f"iou: expected masks of one size, got {rle.size} and {other.size}")
    bounds = np.concatenate([np.zeros(1), np.cumsum(other.counts, dtype=np.float64)])
    is_on = np.arange(len(other.counts)) % 2 == 1
    before = np.concatenate([np.zeros(1), np.cumsum(np.where(is_on, other.counts, 0), dtype=np.float64)])
    starts, ends = _runs(rle)
    # How many pixels of the other lie before a pixel grows evenly within each run: these are exact.
    common = float((np.interp(ends, bounds, before) - np.interp(starts, bounds, before)).sum())
    return common / max(rle.area + other.area - common, 1)


def parse(value: object) -> Rle:
    """Return the code that a COCO file holds, in either form.

    Args:
        value: a mapping with ``size`` (height, width) and ``counts``: a list, text, or pycocotools' bytes.

    Raises:
        ValueError: it is not a run-length code, or is damaged.
    """
    size = value.get("size") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not _are_whole(size) or len(size) != 2:
        raise ValueError(f"segmentation: expected size and counts of a run-length code, got {value!r:.80}")
    counts, shape = value.get("counts"), (size[0], size[1])
    if isinstance(counts, (str, bytes)):
        return Rle(_from_text(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts), shape)
    if not _are_whole(counts):
        raise ValueError(f"counts: expected whole numbers or text, got {counts!r:.80}")
    return Rle(np.array(counts, dtype=np.uint32), shape)


def _are_whole(value: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and all(isinstance(number, int) and 0 <= number < 1 << 32 for number in value)
    )


def _runs(rle: Rle) -> tuple[Ints, Ints]:
    """Return where the runs on the object start and where they end, in pixels counted column by column."""
    ends = np.cumsum(rle.counts, dtype=np.int64)
    starts = ends - rle.counts
    filled = rle.counts[1::2] > 0
    return starts[1::2][filled], ends[1::2][filled]


def _to_text(counts: Counts) -> str:
    """Return the counts as COCO's text, all counts a group of bits at a time."""
    left = counts.astype(np.int64)
    left[3:] -= counts[1:-2].astype(np.int64)
    table = np.zeros((len(counts), _LONGEST_GROUPS), dtype=np.uint8)
    goes_on = np.ones(len(counts), dtype=np.bool_)
    for group in range(_LONGEST_GROUPS):
        if not goes_on.any():
            break
        bits = left & (_MORE - 1)
        left >>= _BITS
        ends = np.where(bits & _SIGN, left == -1, left == 0)
        table[goes_on, group] = (bits + np.where(ends, 0, _MORE) + _FIRST)[goes_on]
        goes_on &= ~ends
    return table[table > 0].tobytes().decode("ascii")


def _from_text(text: bytes) -> Counts:
    """Return the counts in COCO's text.

    Raises:
        ValueError: a character is none of the code's, the last count has no end, or a count is negative or too large.
    """
    symbols = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - _FIRST
    ends = np.flatnonzero(symbols & _MORE == 0)
    is_valid = ((symbols >= 0) & (symbols < 2 * _MORE)).all() and (len(symbols) == 0 or symbols[-1] & _MORE == 0)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])[: len(ends)]
    groups = ends - starts + 1
    if not is_valid or (groups > _LONGEST_GROUPS).any():
        raise ValueError(f"counts: expected COCO's run-length text, got {text!r:.80}")
    shifts = _BITS * (np.arange(len(symbols)) - np.repeat(starts, groups))
    parts = (symbols & (_MORE - 1)) << shifts
    values = np.add.reduceat(parts, starts) if len(starts) else parts
    values -= np.where(symbols[ends] & _SIGN, np.int64(1) << (_BITS * groups), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if ((values < 0) | (values >= 1 << 32)).any():
        raise ValueError(f"counts: expected COCO's run-length text, got {text!r:.80}")
    return np.asarray(values, dtype=np.uint32)
