"""How good a decoder is on annotated images: the mean IoU of a click, a box, and a click with two corrections.

A click goes to the middle of the object, a correction to the middle of the largest error, as an annotator would put
them; the box is the mask's. Masks are compared in original pixels, as the service draws them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.coco import rle as coco_rle
from model.coco.rle import Rle
from model.decoder import Decoder
from model.finetuning.examples import TrainingImage, TrainingObject
from model.finetuning.prompting import Click, innermost
from model.types import Embedding, FloatArray, Mask, Prompt

CLICK, BOX, CORRECTED = "click", "box", "corrected"
KINDS = (CLICK, BOX, CORRECTED)
CORRECTIONS = 2


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a decoder made of one object.

    Attributes:
        image: its image.
        index: its place among the image's objects.
        ious: IoU by kind of prompt.
        masks: the masks by kind of prompt.
    """

    image: TrainingImage
    index: int
    ious: Mapping[str, float]
    masks: Mapping[str, Rle]

    @property
    def wanted(self) -> TrainingObject:
        """The object."""
        return self.image.objects[self.index]


@dataclass(frozen=True)
class Scores:
    """Mean IoUs.

    Attributes:
        ious: by kind of prompt, of all objects.
        by_label: the same by label.
        counts: objects by label.
    """

    ious: Mapping[str, float]
    by_label: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean over the kinds of prompt."""
        return float(np.mean(list(self.ious.values())))

    @staticmethod
    def of(judgements: Sequence[Judgement]) -> "Scores":
        """Return the scores of what was judged, at least one object."""
        labels: dict[str, list[Judgement]] = {}
        for one in judgements:
            labels.setdefault(one.wanted.label, []).append(one)
        by_label = {label: _means(found) for label, found in sorted(labels.items())}
        return Scores(_means(judgements), by_label, {label: len(labels[label]) for label in by_label})


def judge(
    decoder: Decoder,
    images: Iterable[TrainingImage],
    load: Callable[[TrainingImage], Embedding],
    most: int | None = None,
) -> Iterator[Judgement]:
    """Yield what a decoder makes of the objects of images.

    Args:
        decoder: the decoder.
        images: in this order.
        load: returns the embedding of an image.
        most: look at so many objects of each image, spread evenly; None for all.
    """
    for image in images:
        embedding = load(image)
        count = len(image.objects)
        indexes = (
            range(count) if most is None or count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
        )
        for index in indexes:
            masks = _answers(decoder, embedding, image.objects[index])
            wanted = image.objects[index].rle
            yield Judgement(image, index, {kind: coco_rle.iou(mask, wanted) for kind, mask in masks.items()}, masks)


def _means(judgements: Sequence[Judgement]) -> dict[str, float]:
    return {kind: float(np.mean([one.ious[kind] for one in judgements])) for kind in judgements[0].ious}


def _answers(decoder: Decoder, embedding: Embedding, wanted: TrainingObject) -> dict[str, Rle]:
    """Return the masks by kind of prompt, of those that the weights can take."""
    mask, found = coco_rle.decode(wanted.rle), {}
    if "points" in decoder.capabilities:
        x, y, _ = innermost(mask.crop)
        clicks: list[Click] = [(x + mask.offset[0], y + mask.offset[1], 1)]
        answer, logits = _decode(decoder, embedding, clicks, None)
        found[CLICK] = coco_rle.encode(answer)
        for _ in range(CORRECTIONS if "negative_points" in decoder.capabilities else 0):
            if (click := _correction(answer, mask)) is None:
                break
            clicks.append(click)
            answer, logits = _decode(decoder, embedding, clicks, logits)
        found[CORRECTED] = coco_rle.encode(answer)
    if "boxes" in decoder.capabilities:
        masks = decoder.decode(embedding, Prompt(box=np.array(wanted.rle.box, np.float32)))
        found[BOX] = coco_rle.encode(masks.masks[0][0])
    return {kind: found[kind] for kind in KINDS if kind in found}


def _decode(
    decoder: Decoder, embedding: Embedding, clicks: Sequence[Click], logits: FloatArray | None
) -> tuple[Mask, FloatArray]:
    points = np.array([click[:2] for click in clicks], np.float32)
    labels = np.array([click[2] for click in clicks], np.int32)
    previous = logits if "mask_input" in decoder.capabilities else None
    masks = decoder.decode(embedding, Prompt(points, labels, mask_input=previous))
    return masks.masks[0][0], masks.low_res_masks[0][0]


def _correction(found: Mask, wanted: Mask) -> Click | None:
    """Return a click in the middle of the largest error; None where nothing is wrong."""
    spans = np.array([(*one.offset, *one.crop.shape) for one in (found, wanted) if one.crop.size])
    left, top = spans[:, :2].min(axis=0).tolist()
    right, bottom = (spans[:, :2] + spans[:, :1:-1]).max(axis=0).tolist()
    there, here = (_part(mask, left, top, right, bottom) for mask in (wanted, found))
    missing, excess = innermost(there & ~here), innermost(here & ~there)
    if max(missing[2], excess[2]) <= 0:
        return None
    x, y, _ = max(missing, excess, key=lambda one: one[2])
    return x + left, y + top, int(missing[2] >= excess[2])


def _part(mask: Mask, left: int, top: int, right: int, bottom: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the pixels of a mask in a box that holds all of it."""
    part = np.zeros((bottom - top, right - left), np.bool_)
    (x, y), (height, width) = mask.offset, mask.crop.shape
    if mask.crop.size:
        part[y - top : y - top + height, x - left : x - left + width] = mask.crop
    return part
