"""Segments everything in an image: decodes a grid of points, filters the masks and removes duplicates."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from model.automatic.boxes import non_maximum_suppression
from model.automatic.candidates import Candidate, CandidateFilter
from model.automatic.grids import Box, Crop, crops
from model.automatic.masks import AutomaticMask
from model.automatic.settings import AutomaticSettings, OutputMode
from model.automatic.small_regions import without_small_regions
from model.coco import rle as coco_rle
from model.errors import CapabilityError
from model.types import Embedding, FloatArray, Mask, Prompt

R = TypeVar("R")
Advance = Callable[[int, int], None]
"""Called with the number of points decoded so far, and of all points."""


class Encodes(Protocol):
    """The part of `model.encoder.Encoder` that is used here."""

    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Return what the network sees in (H, W, 3) uint8 RGB."""


class Decodes(Protocol):
    """The part of `model.decoder.Decoder` that is used here."""

    @property
    def model_version(self) -> str:
        """Name and digest of the weights."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What the weights can do."""

    def decode_each(
        self,
        embedding: Embedding,
        prompts: Iterable[Prompt],
        multimask_output: bool | None,
        finish: Callable[[int, FloatArray, FloatArray], R],
        /,
    ) -> list[R]:
        """Return what ``finish`` makes of each prompt's logits and predicted IoUs."""

    def mask_and_areas(
        self, logits: FloatArray, embedding: Embedding, levels: Sequence[float], /
    ) -> tuple[Mask, tuple[int, ...]]:
        """Return the mask of logits, and the number of pixels above each of the other levels."""


class AutomaticMaskGenerator:
    """Finds everything in a picture: segment-anything's ``SamAutomaticMaskGenerator``, without state.

    Any number of threads may use one at once. With the same weights and settings it gives the same masks. The cost is
    an encode per crop and a decode per point of the grid. In memory at a time are the logits of the prompts that
    the decoder works on, one mask for each of its threads, and the run lengths of what passed the filters.

    Attributes:
        settings: the parameters of the masks.
    """

    def __init__(
        self, decoder: Decodes, encoder: Encodes | None = None, settings: AutomaticSettings | None = None
    ) -> None:
        """Use the two halves of a model; without the encoder, only `generate_from_embedding` works.

        Raises:
            CapabilityError: the weights take no points.
        """
        if "points" not in decoder.capabilities:
            able = ", ".join(sorted(decoder.capabilities - {"score"})).replace("_", " ")
            raise CapabilityError(f"{decoder.model_version}: expected weights that take points, got {able}")
        self.settings = settings or AutomaticSettings()
        self._decoder, self._encoder = decoder, encoder

    def generate(self, image: npt.NDArray[np.uint8], advance: Advance | None = None) -> list[AutomaticMask]:
        """Return the masks of a picture, by falling predicted IoU; with crops, those of smaller crops first.

        Args:
            image: (H, W, 3) uint8 RGB, as a person sees it.
            advance: called with the number of points decoded so far, and of all points.

        Raises:
            ValueError: ``image`` has another shape or dtype, or there is no encoder.
        """
        if self._encoder is None:
            raise ValueError("generate: expected a generator with an encoder; one without has generate_from_embedding")
        if image.ndim != 3 or 0 in image.shape:
            raise ValueError(f"image: expected uint8 RGB of shape (H, W, 3), got {image.dtype} {image.shape}")
        size, settings = (image.shape[0], image.shape[1]), self.settings
        candidates: list[Candidate] = []
        all_crops = crops(size, settings.crop_n_layers, settings.crop_overlap_ratio)
        decoded, total = 0, sum(len(settings.points(crop.layer)) for crop in all_crops)

        def note(count: int) -> None:
            nonlocal decoded
            decoded += count
            if advance is not None:
                advance(decoded, total)

        note(0)
        for crop in all_crops:
            x1, y1, x2, y2 = crop.box
            embedding = self._encoder.encode(np.ascontiguousarray(image[y1:y2, x1:x2]))
            candidates += self._of_crop(embedding, crop, size, note)
        if settings.crop_n_layers:
            sizes = [1 / (candidate.crop.size[0] * candidate.crop.size[1]) for candidate in candidates]
            candidates = _apart(candidates, sizes, settings.crop_nms_thresh)
        return self._finished(candidates, size)

    def generate_from_embedding(self, embedding: Embedding) -> list[AutomaticMask]:
        """Return the masks of a picture that was encoded before, by falling predicted IoU.

        Args:
            embedding: of the whole picture.

        Raises:
            ValueError: the embedding is of another model, or the settings ask for crops, which need the picture.
        """
        if self.settings.crop_n_layers:
            raise ValueError(
                f"crop_n_layers: expected 0 where there is an embedding alone, got {self.settings.crop_n_layers}"
            )
        height, width = embedding.original_size
        crop = Crop((0, 0, width, height), 0)
        return self._finished(self._of_crop(embedding, crop, embedding.original_size), embedding.original_size)

    def _of_crop(
        self,
        embedding: Embedding,
        crop: Crop,
        original_size: tuple[int, int],
        note: Callable[[int], None] = lambda count: None,
    ) -> list[Candidate]:
        """Decode every point of a crop's grid; return the masks that pass the filters, without duplicates."""
        decoder, settings = self._decoder, self.settings

        def interpolate(logits: FloatArray, levels: Sequence[float]) -> tuple[Mask, tuple[int, ...]]:
            return decoder.mask_and_areas(logits, embedding, levels)

        sieve = CandidateFilter(settings, crop, original_size, "score" in decoder.capabilities, interpolate)
        points = settings.points(crop.layer) * crop.size[::-1]  # (N, 2), (x, y) in pixels of the crop
        candidates: list[Candidate] = []
        for start in range(0, len(points), settings.points_per_batch):
            batch = points[start : start + settings.points_per_batch]
            placed = batch + crop.box[:2]  # in original pixels
            prompts = [Prompt(point[np.newaxis].astype(np.float32), np.ones(1, dtype=np.int32)) for point in batch]

            def finish(
                index: int, logits: FloatArray, scores: FloatArray, placed: npt.NDArray[np.float64] = placed
            ) -> list[Candidate]:
                x, y = placed[index].tolist()
                return sieve.keep(logits, scores, (x, y))

            for kept in decoder.decode_each(embedding, prompts, True, finish):
                candidates += kept
            note(len(batch))
        return _apart(candidates, [candidate.rank for candidate in candidates], settings.box_nms_thresh)

    def _finished(self, candidates: list[Candidate], original_size: tuple[int, int]) -> list[AutomaticMask]:
        """Clean masks up, and take no more than are wanted; their order stays."""
        settings = self.settings
        if settings.min_mask_region_area:
            candidates = [
                candidate
                for candidate in _cleaned(candidates, settings)
                if settings.fits(candidate.rle.area, original_size)
            ]
        if settings.mask_nms_thresh < 1:
            candidates = _distinct(candidates, settings.mask_nms_thresh)
        if settings.max_masks is not None:
            best = _by_rank(candidates)[: settings.max_masks]
            candidates = [candidates[index] for index in sorted(best)]
        return [_result(candidate, settings.output_mode) for candidate in candidates]


def _apart(candidates: list[Candidate], ranks: Sequence[float], threshold: float) -> list[Candidate]:
    """Return by falling rank those whose boxes are not too much like one of a higher rank."""
    return [
        candidates[index]
        for index in non_maximum_suppression([candidate.box for candidate in candidates], ranks, threshold)
    ]


def _by_rank(candidates: list[Candidate]) -> list[int]:
    return sorted(range(len(candidates)), key=lambda index: -candidates[index].rank)


def _distinct(candidates: list[Candidate], threshold: float) -> list[Candidate]:
    """Return those whose masks are not too much like one of a higher rank."""
    kept: list[int] = []
    for index in _by_rank(candidates):
        rle = candidates[index].rle
        alike = (candidates[other].rle for other in kept)
        # The IoU of two masks is at most the ratio of their areas, which costs nothing to compare.
        alike = (other for other in alike if min(rle.area, other.area) > threshold * max(rle.area, other.area))
        if not any(coco_rle.iou(rle, other) > threshold for other in alike):
            kept.append(index)
    return [candidates[index] for index in sorted(kept)]


def _cleaned(candidates: list[Candidate], settings: AutomaticSettings) -> list[Candidate]:
    """Return masks without small regions, each once; those that had none win, and come first."""
    cleaned, ranks = [], []
    for candidate in candidates:
        mask, changed = without_small_regions(coco_rle.decode(candidate.rle), settings.min_mask_region_area)
        box = mask.box
        assert box is not None  # the largest island stays
        inclusive = (box[0], box[1], box[2] - 1, box[3] - 1)
        cleaned.append(replace(candidate, rle=coco_rle.encode(mask), box=inclusive) if changed else candidate)
        ranks.append(float(not changed))
    return _apart(cleaned, ranks, max(settings.box_nms_thresh, settings.crop_nms_thresh))


def _result(candidate: Candidate, output_mode: OutputMode) -> AutomaticMask:
    return AutomaticMask(
        rle=candidate.rle,
        bbox=_xywh(candidate.box),
        predicted_iou=candidate.predicted_iou,
        point_coords=(candidate.point,),
        stability_score=candidate.stability_score,
        crop_box=_xywh(candidate.crop.box),
        output_mode=output_mode,
    )


def _xywh(box: Box) -> Box:
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1
