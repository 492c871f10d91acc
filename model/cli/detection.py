"""The options that say which detector finds what words name, and what ``segment`` does with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # at run time they would make ``--help`` wait for numpy
    from model.cli.choice import Choice
    from model.cli.progress import Progress
    from model.cli.writing import Segmented
    from model.detection.detector import Detector
    from model.paddlex.inputs import Picture
    from model.paddlex.model import SamModel

Command = Callable[..., None]

_OPTIONS = (
    click.option(
        "--detector",
        metavar="NAME|DIR",
        help="What finds the words: GroundingDINO-T or YOLO-Worldv2-L, downloaded if necessary, or PaddleX's inference "
        "directory of a detector. Its program is executed.  [default: none]",
    ),
    click.option(
        "--min-score",
        type=click.FloatRange(0, 1),
        metavar="X",
        help="The least score of a box.  [default: the detector's own]",
    ),
    click.option(
        "--max-objects", type=click.IntRange(1), metavar="N", help="The most masks of one picture.  [default: all]"
    ),
)


@dataclass(frozen=True)
class DetectorChoice:
    """What the options say.

    Attributes:
        name: of a detector, or the path of its directory.
        min_score: the least score of a box; None for the detector's own.
        max_objects: the most masks of one picture; None for all.
    """

    name: str | None = None
    min_score: float | None = None
    max_objects: int | None = None

    def load(self, words: tuple[str, ...], choice: "Choice") -> "Detector":
        """Load the detector, downloaded first where it is named and not here, and check the words.

        Args:
            words: what it shall look for.
            choice: where downloads are kept, and the device.

        Raises:
            WeightsError: there is no such detector, or its program does more than compute.
            WordsError: it cannot look for a word.
            DeviceError: the device is not available here.
        """
        from model.paddlex.detection import open_detector

        assert self.name is not None  # it was checked with the other options
        detector = open_detector(self.name, choice.weights_dir, choice.mirror, choice.device)
        detector.check(words)
        return detector


def detector_options(function: Command) -> Command:
    """Add the options, and hand them to ``function`` as its argument ``detection``."""

    @wraps(function)
    def take(detector: str | None, min_score: float | None, max_objects: int | None, **given: Any) -> None:  # noqa: ANN401 - click's options are of many types
        function(detection=DetectorChoice(detector, min_score, max_objects), **given)

    command: Command = take
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def named(
    model: "SamModel", detector: "Detector", words: tuple[str, ...], choice: DetectorChoice
) -> "Callable[[Picture, Progress], Segmented]":
    """Return what finds, in any picture, the objects that the words name.

    Raises:
        CapabilityError: the weights take no boxes.
    """
    import numpy as np

    from model.cli.writing import Segmented
    from model.coco import rle as coco
    from model.paddlex.prompts import of_boxes_and_points
    from model.paddlex.word_segmentation import segment_picture
    from model.types import Prompt

    model.check(of_boxes_and_points([[0, 0, 1, 1]], []))

    def find(picture: "Picture", _: "Progress") -> Segmented:
        objects = segment_picture(picture, words, model, detector, choice.min_score, choice.max_objects)
        return Segmented(
            picture,
            {"input_path": picture.path, "words": words, "detector": detector.version},
            [coco.encode(item.mask) for item in objects],
            [
                {"label": item.label, "prompt": item.box, "score": item.predicted_iou, "detector_score": item.score}
                for item in objects
            ],
            [item.score for item in objects],
            [{"predicted_iou": item.predicted_iou} for item in objects],
            [Prompt(box=np.array(item.box, dtype=np.float32)) for item in objects],
            [words.index(item.label) + 1 for item in objects],
        )

    return find
