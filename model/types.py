"""The values that pass through the model: prompts in, an embedding between, masks out. Numpy only, immutable, checked.

Frames: *original pixels* are those of the photo the caller holds, (x, y) with the pixel (0, 0) covering [0, 1) × [0,
1); *model input* is the square the network sees; *low-res* is the square grid of its output logits. Sizes are
(height, width).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MAIN_MAP = "image_embedding"
"""The one of an embedding's maps that every network has."""


def _frozen(array: npt.NDArray[np.generic]) -> None:
    array.flags.writeable = False


def _is_finite(array: npt.NDArray[np.floating]) -> bool:
    """Whether all numbers are; float16 by its bits, where numpy's own look takes ten times as long."""
    if array.dtype != np.float16 or not array.size:
        return bool(np.isfinite(array).all())
    bits = np.ascontiguousarray(array)
    # Infinity and NaN are the largest bits of either sign: as signed numbers positive ones come last, else negative.
    return int(bits.view(np.int16).max()) < 0x7C00 and int(bits.view(np.uint16).max()) < 0xFC00


def _floats(name: str, value: npt.ArrayLike, shape: str, ndim: int, last: int | None = None) -> FloatArray:
    """Return ``value`` as a read-only float32 copy, or say what was expected and what came."""
    try:
        array = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers of shape {shape}, got {value!r:.80}") from error
    if array.ndim != ndim or (last is not None and array.shape[-1] != last):
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    _frozen(array)
    return array


@dataclass(frozen=True, eq=False)
class Prompt:
    """What marks one object: points, a box, a mask, or several of them together.

    Attributes:
        point_coords: (N, 2) float32, (x, y) in original pixels, or None.
        point_labels: (N,) int32, 1 on the object, 0 off it; as many as points.
        box: (4,) float32, x1, y1, x2, y2 in original pixels, or None.
        mask_input: (low_res_size, low_res_size) float32 logits in the model's frame, as ``Masks.low_res_masks`` gives
            them back, or None.
        rough_mask: (h, w), a drawing of roughly where the object is, in pixels of the photo or of a smaller copy: bool,
            or uint8 with the share of each pixel that the object covers, 255 for all of it. The decoder turns it into
            a mask input. Not together with ``mask_input``.

    Raises:
        ValueError: nothing is given, or a field has the wrong shape, a NaN, or a label other than 0 and 1.
    """

    point_coords: FloatArray | None = None
    point_labels: npt.NDArray[np.int32] | None = None
    box: FloatArray | None = None
    mask_input: FloatArray | None = None
    rough_mask: npt.NDArray[np.bool_ | np.uint8] | None = None

    def __post_init__(self) -> None:
        if (self.point_coords is None) != (self.point_labels is None):
            raise ValueError("point_coords and point_labels: expected both or neither, got one of them")
        if self.point_coords is not None and self.point_labels is not None:
            self._check_points(self.point_coords, self.point_labels)
        if self.box is not None:
            box = _floats("box", self.box, "(4,)", 1, 4)
            if box[2] < box[0] or box[3] < box[1]:
                raise ValueError(f"box: expected x1 <= x2 and y1 <= y2, got {box.tolist()}")
            object.__setattr__(self, "box", box)
        if self.mask_input is not None:
            if self.rough_mask is not None:
                raise ValueError("mask_input and rough_mask: expected at most one of them, got both")
            object.__setattr__(self, "mask_input", _floats("mask_input", self.mask_input, "(h, w)", 2))
        if self.rough_mask is not None:
            rough = np.array(self.rough_mask)
            if rough.ndim != 2 or rough.dtype not in (np.bool_, np.uint8):
                raise ValueError(f"rough_mask: expected bool of shape (H, W), got {rough.dtype} {rough.shape}")
            _frozen(rough)
            object.__setattr__(self, "rough_mask", rough)
        if self.point_coords is None and self.box is None and self.mask_input is None and self.rough_mask is None:
            raise ValueError("prompt: expected points, a box or a mask, got none of them")

    def _check_points(self, coords: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        points = _floats("point_coords", coords, "(N, 2)", 2, 2)
        if len(points) == 0:
            raise ValueError("point_coords: expected at least one point, got none")
        marks = np.array(labels)
        if marks.shape != (len(points),):
            raise ValueError(f"point_labels: expected shape ({len(points)},), got {marks.shape}")
        if not {0, 1}.issuperset(marks.tolist()):
            raise ValueError(f"point_labels: expected 0 (off the object) or 1 (on it), got {marks.tolist()}")
        marks = marks.astype(np.int32)
        _frozen(marks)
        object.__setattr__(self, "point_coords", points)
        object.__setattr__(self, "point_labels", marks)

    @property
    def is_single_point(self) -> bool:
        """Whether this is one positive point and nothing else, the case in which SAM's three masks help."""
        return (
            self.point_labels is not None
            and self.point_labels.tolist() == [1]
            and self.box is None
            and self.mask_input is None
            and self.rough_mask is None
        )

    @property
    def needs(self) -> frozenset[str]:
        """The capabilities of the weights (see `model.weights.Checkpoint`) without which it has no answer."""
        labels = () if self.point_labels is None else self.point_labels.tolist()
        wanted = {
            "points": 1 in labels,
            "negative_points": 0 in labels,
            "boxes": self.box is not None,
            "mask_input": self.mask_input is not None or self.rough_mask is not None,
        }
        return frozenset(capability for capability, is_needed in wanted.items() if is_needed)


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A photo resized for a network, before its colours are normalised; `model.transforms.preprocess` makes it.

    Attributes:
        pixels: (h, w, 3) uint8, RGB, the photo inside the square input; about 3 MB for a square of 1024.
        original_size: (H, W) of the photo in pixels.
        other_orientation: see `Embedding`.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]
    other_orientation: int = 1


class Prepared:
    """Arrays that a decoder made of an embedding alone, kept beside it for the next prompt; empty before the first."""

    def __init__(self) -> None:
        self._kept: tuple[str, tuple[FloatArray, ...]] = "", ()

    def get(self, version: str) -> tuple[FloatArray, ...] | None:
        """Return what was kept of a `Decoder.prepared_version`, None if nothing was, or another's since."""
        owner, arrays = self._kept
        return arrays if owner == version else None

    def keep(self, version: str, arrays: tuple[FloatArray, ...]) -> None:
        """Keep arrays instead of those of another version."""
        self._kept = version, arrays

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers take."""
        return sum(array.nbytes for array in self._kept[1])


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the encoder knows of one image: all that a decoder needs to answer any prompt about it.

    Attributes:
        image_embedding: (C, h, w) float32 or float16, the encoder's output for the square input.
        further_maps: maps of other resolutions by their names, each (C', h', w') of the same dtype; empty for SAM.
        family: the kind of network that made it, ``SamConfig.family``: another kind's decoder has no use for it.
        original_size: (H, W) of the photo in pixels.
        input_size: (H, W) of the photo inside the square input, before padding.
        model_version: name and digest of the weights that made it, e.g. ``SAM-H_box@1a2b3c4d``.
        other_orientation: what takes the photo to the one that a browser shows which obeys another orientation than
            this was made with, as EXIF numbers them (5 to 8); 1 where there is none.
        prepared: what a decoder keeps here for the next prompt.

    Raises:
        ValueError: a wrong shape, dtype or size, or a value that is not finite.
    """

    image_embedding: npt.NDArray[np.floating]
    further_maps: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict, kw_only=True)
    family: str = field(default="sam", kw_only=True)
    prepared: Prepared = field(default_factory=Prepared, init=False, repr=False)
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    model_version: str
    other_orientation: int = 1

    def __post_init__(self) -> None:
        if MAIN_MAP in self.further_maps:
            raise ValueError(f"further_maps: expected other names than {MAIN_MAP}, got it")
        dtype = self.image_embedding.dtype
        maps = {name: _map(name, array, dtype) for name, array in self.maps.items()}
        for name in ("original_size", "input_size"):
            size = getattr(self, name)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"{name}: expected (height, width) of at least 1, got {size}")
        if self.other_orientation not in (1, 5, 6, 7, 8):
            raise ValueError(f"other_orientation: expected 1 or 5 to 8, got {self.other_orientation}")
        object.__setattr__(self, "image_embedding", maps.pop(MAIN_MAP))
        object.__setattr__(self, "further_maps", MappingProxyType(maps))

    def at_size(self, original_size: tuple[int, int]) -> "Embedding":
        """Return the embedding of a copy of the photo, (H, W) in pixels, with what is prepared in common."""
        copy = replace(self, original_size=original_size)
        object.__setattr__(copy, "prepared", self.prepared)
        return copy

    @property
    def maps(self) -> dict[str, npt.NDArray[np.floating]]:
        """All maps by their names, ``image_embedding`` first."""
        return {MAIN_MAP: self.image_embedding, **self.further_maps}

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers of all maps take, and what a decoder has prepared of them."""
        return sum(array.nbytes for array in self.maps.values()) + self.prepared.nbytes


def _map(name: str, array: npt.NDArray[np.floating], dtype: np.dtype[np.floating]) -> npt.NDArray[np.floating]:
    """Return a read-only view of one of an embedding's maps, checked; ``dtype`` is that of the first one."""
    if array.ndim != 3 or array.dtype not in (np.float32, np.float16):
        raise ValueError(f"{name}: expected float32 or float16 of shape (C, h, w), got {array.dtype} {array.shape}")
    if array.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype} as {MAIN_MAP}, got {array.dtype}")
    if not _is_finite(array):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    array = array.view()
    _frozen(array)
    return array


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask of a photo, stored as the part of it that can hold the object.

    Attributes:
        crop: (h, w) bool, true on the object; (0, 0) for an empty mask.
        offset: (x, y) in original pixels of the crop's top left corner.
        original_size: (H, W) of the photo; outside the crop the mask is false.
    """

    crop: BoolArray
    offset: tuple[int, int]
    original_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.crop.ndim != 2 or self.crop.dtype != np.bool_:
            raise ValueError(f"crop: expected bool of shape (h, w), got {self.crop.dtype} {self.crop.shape}")
        (x, y), (height, width), (crop_height, crop_width) = self.offset, self.original_size, self.crop.shape
        if x < 0 or y < 0 or x + crop_width > width or y + crop_height > height:
            raise ValueError(
                f"crop: expected to lie inside {self.original_size}, got {self.crop.shape} at (x, y) {self.offset}"
            )
        _frozen(self.crop)

    @classmethod
    def from_array(cls, array: BoolArray) -> "Mask":
        """Return the mask held in a full (H, W) bool array, cut to its object."""
        height, width = array.shape
        rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
        if not len(rows):
            return cls(np.zeros((0, 0), dtype=np.bool_), (0, 0), (height, width))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return cls(array[top:bottom, left:right].copy(), (int(left), int(top)), (height, width))

    def to_array(self) -> BoolArray:
        """Return the whole mask, (H, W) bool in original pixels."""
        full = np.zeros(self.original_size, dtype=np.bool_)
        (x, y), (height, width) = self.offset, self.crop.shape
        full[y : y + height, x : x + width] = self.crop
        return full

    @cached_property
    def area(self) -> int:
        """Pixels on the object."""
        return int(np.count_nonzero(self.crop))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The tight box x1, y1, x2, y2 around the object in original pixels (x2, y2 exclusive), None when empty."""
        rows, columns = np.flatnonzero(self.crop.any(axis=1)), np.flatnonzero(self.crop.any(axis=0))
        if not len(rows):
            return None
        x, y = self.offset
        return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Masks:
    """What the decoder answers to a batch of prompts, one entry per prompt, in their order.

    Attributes:
        masks: per prompt a tuple of masks: one, or all three where the caller wants them.
        iou_predictions: per prompt as many predicted IoUs as masks, each in [0, 1]; None where the weights hold no
            score head (a pruned export).
        low_res_masks: per prompt (M, low_res_size, low_res_size) float32 logits; fit for ``Prompt.mask_input``.
    """

    masks: tuple[tuple[Mask, ...], ...]
    iou_predictions: tuple[tuple[float, ...], ...] | None
    low_res_masks: tuple[FloatArray, ...]

    def __post_init__(self) -> None:
        counts = [len(row) for row in self.masks]
        scores = counts if self.iou_predictions is None else [len(row) for row in self.iou_predictions]
        if scores != counts or [len(row) for row in self.low_res_masks] != counts:
            raise ValueError(f"masks, iou_predictions, low_res_masks: expected equal counts, got {counts} and {scores}")

    def __len__(self) -> int:
        return len(self.masks)


def as_prompts(prompts: Prompt | Iterable[Prompt]) -> Sequence[Prompt]:
    """Return ``prompts`` as a sequence of at least one.

    Raises:
        ValueError: the sequence is empty.
    """
    listed = (prompts,) if isinstance(prompts, Prompt) else tuple(prompts)
    if not listed:
        raise ValueError("prompts: expected at least one, got none")
    return listed
