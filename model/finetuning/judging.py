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
    def target(self) -> TrainingObject:
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
        for judgement in judgements:
            labels.setdefault(judgement.target.label, []).append(judgement)
        by_label = {label: _means(labelled) for label, labelled in sorted(labels.items())}
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
            target = image.objects[index].rle
            masks = _masks(decoder, embedding, target)
            yield Judgement(image, index, {kind: coco_rle.iou(mask, target) for kind, mask in masks.items()}, masks)


def _means(judgements: Sequence[Judgement]) -> dict[str, float]:
    return {kind: float(np.mean([judgement.ious[kind] for judgement in judgements])) for kind in judgements[0].ious}


def _masks(decoder: Decoder, embedding: Embedding, target: Rle) -> dict[str, Rle]:
    """Return the masks by kind of prompt, of those that the weights can take."""
    truth, masks = coco_rle.decode(target), {}
    if "points" in decoder.capabilities:
        x, y, _ = innermost(truth.crop)
        clicks: list[Click] = [(x + truth.offset[0], y + truth.offset[1], 1)]
        mask, logits = _decode(decoder, embedding, clicks, None)
        masks[CLICK] = coco_rle.encode(mask)
        for _ in range(CORRECTIONS if "negative_points" in decoder.capabilities else 0):
            if (click := _correction(mask, truth)) is None:
                break
            clicks.append(click)
            mask, logits = _decode(decoder, embedding, clicks, logits)
        masks[CORRECTED] = coco_rle.encode(mask)
    if "boxes" in decoder.capabilities:
        answer = decoder.decode(embedding, Prompt(box=np.array(target.box, np.float32)))
        masks[BOX] = coco_rle.encode(answer.masks[0][0])
    return {kind: masks[kind] for kind in KINDS if kind in masks}


def _decode(
    decoder: Decoder, embedding: Embedding, clicks: Sequence[Click], logits: FloatArray | None
) -> tuple[Mask, FloatArray]:
    points = np.array([click[:2] for click in clicks], np.float32)
    labels = np.array([click[2] for click in clicks], np.int32)
    previous = logits if "mask_input" in decoder.capabilities else None
    answer = decoder.decode(embedding, Prompt(points, labels, mask_input=previous))
    return answer.masks[0][0], answer.low_res_masks[0][0]


def _correction(predicted: Mask, truth: Mask) -> Click | None:
    """Return a click in the middle of the largest error; None where nothing is wrong."""
    spans = np.array([(*mask.offset, *mask.crop.shape) for mask in (predicted, truth) if mask.crop.size])
    left, top = spans[:, :2].min(axis=0).tolist()
    right, bottom = (spans[:, :2] + spans[:, :1:-1]).max(axis=0).tolist()
    true, drawn = (_part(mask, left, top, right, bottom) for mask in (truth, predicted))
    missing, excess = innermost(true & ~drawn), innermost(drawn & ~true)
    if max(missing[2], excess[2]) <= 0:
        return None
    x, y, _ = max(missing, excess, key=lambda click: click[2])
    return x + left, y + top, int(missing[2] >= excess[2])


def _part(mask: Mask, left: int, top: int, right: int, bottom: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the pixels of a mask in a box that holds all of it."""
    part = np.zeros((bottom - top, right - left), np.bool_)
    (x, y), (height, width) = mask.offset, mask.crop.shape
    if mask.crop.size:
        part[y - top : y - top + height, x - left : x - left + width] = mask.crop
    return part
