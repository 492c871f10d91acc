"""Words to labelled masks: a detector finds the boxes of what they name, and SAM the mask in each box."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model.automatic.boxes import non_maximum_suppression
from model.detection.detector import Detector
from model.detection.types import Detection
from model.detection.word_list import check_words
from model.paddlex import inputs
from model.paddlex.detection import DetectionModel, pixels_of
from model.paddlex.inputs import Input, InputError, Picture
from model.paddlex.model import SamModel
from model.types import Embedding, Mask, Prompt

SAME_OBJECT_IOU = 0.9
"""Of two boxes of one label that overlap by more than this, the one with the lower score is left out."""


@dataclass(frozen=True, eq=False)
class LabelledMask:
    """One object that was found by its name.

    Attributes:
        label: the word, as the caller wrote it.
        score: the detector's, 0 to 1.
        box: x1, y1, x2, y2 in original pixels, inside the picture.
        mask: the object.
        predicted_iou: SAM's own estimate of the mask, 0 to 1; None where the weights have no score head.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: Mask
    predicted_iou: float | None


def segment_words(
    image: Input,
    words: Iterable[str],
    *,
    model: SamModel,
    detector: DetectionModel,
    threshold: float | None = None,
    limit: int | None = None,
    embedding: Embedding | None = None,
) -> list[LabelledMask]:
    """Return a labelled mask for each object in a picture that the words name, the detector's highest score first.

    The picture is encoded once, unless its embedding is given, and all its masks are decoded in one batch; none of both
    where nothing is found.

    Args:
        image: array (BGR, as OpenCV reads), path or http(s) address.
        words: what to look for, such as ``["cat", "walking man"]``.
        model: finds the masks: `create_model` of any of SAM's names; it has to take boxes.
        detector: finds the boxes: ``create_model("GroundingDINO-T")``.
        threshold: the least score of a box, 0 to 1; None for the detector's own.
        limit: the most masks; None for all.
        embedding: of this picture, from ``model.encode(image)``; None encodes it.

    Example::

        from model import create_model, segment_words

        model, detector = create_model("mobile_sam"), create_model("GroundingDINO-T")
        for found in segment_words("photo.jpg", ["cat", "dog"], model=model, detector=detector):
            print(found.label, found.score, found.mask.area)

    Raises:
        WordsError: there is no word, or the detector cannot look for one.
        InputError: the image is not one picture, or cannot be read.
        CapabilityError: the model takes no boxes.
        ValueError: the embedding is of other weights.
    """
    given = check_words(words)
    detector.detector.check(given)
    sources = inputs.find(image)
    if len(sources) != 1:
        raise InputError(f"segment_words: expected one picture, got {len(sources)}")
    return segment_picture(sources[0].open(), given, model, detector.detector, threshold, limit, embedding)


def segment_picture(
    picture: Picture,
    words: tuple[str, ...],
    model: SamModel,
    detector: Detector,
    threshold: float | None = None,
    limit: int | None = None,
    embedding: Embedding | None = None,
) -> list[LabelledMask]:
    """Return the labelled masks of a picture that is read; see `segment_words`."""
    detections = select(detector.detect(pixels_of(picture), words, threshold), picture.original_size, limit)
    if not detections:
        return []
    prompts = [Prompt(box=np.array(detection.box, dtype=np.float32)) for detection in detections]
    masks = model.decode(picture if embedding is None else Picture(embedding), prompts)
    scores = [None] * len(detections) if masks.iou_predictions is None else [row[0] for row in masks.iou_predictions]
    return [
        LabelledMask(detection.label, detection.score, detection.box, row[0], score)
        for detection, row, score in zip(detections, masks.masks, scores, strict=True)
    ]


def select(
    detections: Sequence[Detection], original_size: tuple[int, int], limit: int | None = None
) -> list[Detection]:
    """Return the detections to segment, the highest score first.

    Boxes are cut off at the picture's edges, and those without a pixel inside left out. Of boxes of one label that
    overlap by more than `SAME_OBJECT_IOU` the best stays.

    Args:
        detections: a detector's.
        original_size: (H, W) of the picture.
        limit: the most that stay; None for all.
    """
    height, width = original_size
    inside = []
    for detection in detections:
        x1, x2 = (min(max(x, 0.0), float(width)) for x in detection.box[::2])
        y1, y2 = (min(max(y, 0.0), float(height)) for y in detection.box[1::2])
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            inside.append(Detection(detection.label, detection.score, (x1, y1, x2, y2)))
    kept = []
    for label in dict.fromkeys(detection.label for detection in inside):
        same = [detection for detection in inside if detection.label == label]
        boxes, scores = [detection.box for detection in same], [detection.score for detection in same]
        kept += [same[index] for index in non_maximum_suppression(boxes, scores, SAME_OBJECT_IOU)]
    return sorted(kept, key=lambda detection: -detection.score)[:limit]
