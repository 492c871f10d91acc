"""PaddleX's way to use a detector: ``create_model("GroundingDINO-T").predict(image, prompt="bus . walking man .")``."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.detection.detector import Detector
from model.detection.load import load_detector
from model.detection.types import Detection, RgbImage
from model.detection.word_list import WordsError, split_text
from model.overlay import COLOURS
from model.paddlex import inputs, result_files
from model.paddlex.inputs import Input, InputError, Picture
from model.types import Embedding
from model.weights import WeightsError
from model.weights.catalogue import DETECTOR_SOURCES, DETECTORS, SHIPPED

logger = logging.getLogger(__name__)

Thresholds = float | Mapping[str, float]
_THRESHOLD_NAMES = ("threshold", "box_threshold", "text_threshold")


class DetectionResult(dict[str, Any]):  # Any: PaddleX's results are dicts of unlike values
    """The boxes of one picture, as the dict that PaddleX gives.

    Keys:
        input_path: file or address, None for an array.
        input_img: (H, W, 3) uint8 BGR.
        boxes: per object a dict of ``coordinate`` ([x1, y1, x2, y2] in pixels), ``label`` and ``score``.

    Attributes:
        found: the same as values.
    """

    def __init__(self, picture: Picture, found: Sequence[Detection]) -> None:
        self.found, self._name = tuple(found), picture.name
        pixels = pixels_of(picture)
        boxes = [
            {"coordinate": list(detection.box), "label": detection.label, "score": detection.score}
            for detection in found
        ]
        super().__init__(input_path=picture.path, input_img=np.ascontiguousarray(pixels[..., ::-1]), boxes=boxes)

    @property
    def json(self) -> dict[str, dict[str, Any]]:
        """The result as plain values, under ``res``."""
        return {"res": {"input_path": self["input_path"], "boxes": self["boxes"]}}

    @property
    def img(self) -> dict[str, Image.Image]:
        """The photo with boxes, labels and scores drawn on it, under ``res``."""
        return {"res": _drawn(self["input_img"][..., ::-1], self.found)}

    def print(self, format_json: bool = True, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Write the result to standard output, without pixels; the arguments are those of `SamResult.print`."""
        text = json.dumps(self.json, indent=indent, ensure_ascii=ensure_ascii) if format_json else str(self.json)
        sys.stdout.write(text + "\n")

    def save_to_json(self, save_path: str | Path, indent: int | None = 4, ensure_ascii: bool = False) -> Path:
        """Write the result and return the file; the arguments are those of `SamResult.save_to_json`."""
        path = result_files.json_path(save_path, self._file_name)
        path.write_text(json.dumps(self.json["res"], indent=indent, ensure_ascii=ensure_ascii), encoding="utf-8")
        return path

    def save_to_img(self, save_path: str | Path) -> Path:
        """Write the picture of `img` and return the file; the argument is that of `SamResult.save_to_img`."""
        path = result_files.image_path(save_path, self._file_name)
        self.img["res"].save(path)
        return path

    @cached_property
    def _file_name(self) -> Path:
        return result_files.file_name(self._name)


class DetectionModel:
    """A loaded detector with PaddleX's `predict`. Any number of threads may use one at once.

    Attributes:
        model_name: what it was created as.
        model_version: name and digest of its files.
        detector: what it loads and runs.
    """

    def __init__(self, model_name: str, detector: Detector) -> None:
        self.model_name, self.model_version, self.detector = model_name, detector.version, detector

    def predict(
        self,
        input: Input | Sequence[Input],  # noqa: A002 - PaddleX's name
        batch_size: int = 1,
        thresholds: Thresholds | None = None,
        prompt: str | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
    ) -> Iterator[DetectionResult]:
        """Find what the prompt names in each picture.

        Labels are the words of the prompt. PaddleX gives Grounding DINO's boxes the tokens above ``text_threshold``
        instead, which may be a part of a word (``man`` of ``walking man``).

        Args:
            input: array (BGR, as OpenCV reads), path, http(s) address, directory, a dict ``{"img": ...}`` of one of
                these, or a list of these. Pictures of a directory that cannot be read are named in the log and left
                out.
            batch_size: as PaddleX takes it. Pictures are looked at one at a time whatever it says.
            thresholds: the least score of a box, as a number or under PaddleX's names ``threshold`` or
                ``box_threshold``; ``text_threshold`` is taken and changes nothing. None for the detector's own.
            prompt: ``"bus . walking man ."``, ``"bus, walking man"`` or a list of words. A detector with fixed classes
                needs none.
            threshold: what PaddleX's detectors with fixed classes call ``thresholds``.

        Yields:
            One result per picture, in order.

        Raises:
            WordsError: there is no prompt, or the detector cannot look for a word.
            InputError: an input is not there or of the wrong kind, or (when its turn comes) cannot be read.
            ValueError: ``batch_size`` or a threshold is out of range.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")
        least = _least(threshold if thresholds is None else thresholds)
        words = self._words(prompt)
        self.detector.check(words)
        return self._each(inputs.find(input), words, least)

    def _words(self, prompt: str | Sequence[str] | None) -> tuple[str, ...]:
        if prompt is None and self.detector.classes is not None:
            return self.detector.classes
        words = split_text(prompt) if isinstance(prompt, str) else tuple(prompt or ())
        if not words:
            raise WordsError(f"prompt: expected words such as 'bus, walking man', got {prompt!r}")
        return words

    def _each(
        self, sources: Sequence[inputs.Source], words: tuple[str, ...], threshold: float | None
    ) -> Iterator[DetectionResult]:
        for source in sources:
            try:
                picture = source.open()
                yield DetectionResult(picture, self.detector.detect(pixels_of(picture), words, threshold))
            except InputError as error:
                if not source.is_listed:
                    raise
                logger.warning("%s (left out)", error)


def create_detector(
    model_name: str,
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    weights_dir: str | Path | None = None,
    mirror: str | None = None,
) -> DetectionModel:
    """Load a detector. Its program is checked, and then executed by Paddle's inference engine.

    Args:
        model_name: ``GroundingDINO-T``, ``YOLO-Worldv2-L`` or ``YOLO-World-demo``; with ``model_dir`` also the name of
            any other detector.
        model_dir: PaddleX's inference directory. None: that of the name in ``weights_dir``, downloaded to it if it is
            not there.
        device: ``auto``, ``cpu`` or ``gpu:N``; None is auto.
        weights_dir: where downloads are kept; None for the user's cache folder.
        mirror: address of a folder that holds the published files, instead of their publisher's.

    Raises:
        WeightsError: the name is unknown, the directory is that of another model ("Model name mismatch"), or the
            program does more than compute.
        DeviceError: the device is not available here.
    """
    path = find_detector(model_name, weights_dir, mirror) if model_dir is None else Path(model_dir)
    detector = load_detector(path, device or "auto")
    if model_name != detector.name:
        raise WeightsError(f"Model name mismatch: expected {model_name}, got {detector.name} in {path}")
    return DetectionModel(model_name, detector)


def find_detector(model_name: str, weights_dir: str | Path | None = None, mirror: str | None = None) -> Path:
    """Return where a detector that has a name lies, downloaded first if it is not there.

    Raises:
        WeightsError: the name is unknown, or it cannot be downloaded.
    """
    if model_name not in DETECTORS:
        raise WeightsError(
            f"{model_name:.80}: expected one of {', '.join(DETECTORS)}, or PaddleX's inference directory of a detector"
        )
    if model_name in SHIPPED:
        return SHIPPED[model_name]
    from model.weights.download import default_folder, download  # here: what is there needs no client

    folder = default_folder() if weights_dir is None else Path(weights_dir)
    try:
        return download(model_name, folder, mirror=mirror, sources=DETECTOR_SOURCES)
    except WeightsError as error:
        raise WeightsError(f"{model_name} cannot be had: {error}") from error


def open_detector(
    given: str, weights_dir: str | Path | None = None, mirror: str | None = None, device: str = "auto"
) -> Detector:
    """Load a detector that is given by its name or by the path of its directory; arguments as in `create_detector`.

    Raises:
        WeightsError: there is no such detector, or its program does more than compute.
        DeviceError: the device is not available here.
    """
    return load_detector(locate_detector(given, weights_dir, mirror), device)


def locate_detector(given: str, weights_dir: str | Path | None = None, mirror: str | None = None) -> Path:
    """Return the directory of a detector that is given by its name or by that path; downloaded if it is not there.

    Raises:
        WeightsError: there is no such detector.
    """
    path = Path(given)
    return path if path.is_dir() else find_detector(given, weights_dir, mirror)


def pixels_of(picture: Picture) -> RgbImage:
    """Return a picture's pixels, (H, W, 3) uint8 RGB.

    Raises:
        InputError: it is an embedding, in which nothing can be detected.
    """
    if isinstance(picture.content, Embedding):
        raise InputError("input: expected a picture to detect objects in, got an embedding")
    return picture.content


def _least(thresholds: Thresholds | None) -> float | None:
    """Return the least score that a caller gives in PaddleX's ways."""
    if not isinstance(thresholds, Mapping):
        return None if thresholds is None else float(thresholds)
    for name in thresholds:
        if name not in _THRESHOLD_NAMES:
            raise ValueError(f"thresholds: expected {', '.join(_THRESHOLD_NAMES)}, got {name!r:.60}")
    threshold = thresholds.get("box_threshold", thresholds.get("threshold"))
    return None if threshold is None else float(threshold)


def _drawn(image: RgbImage, detections: Sequence[Detection]) -> Image.Image:
    canvas = Image.fromarray(np.ascontiguousarray(image))
    draw, size = ImageDraw.Draw(canvas), max(10, canvas.width // 50)
    font = ImageFont.load_default(size)
    labels = list(dict.fromkeys(detection.label for detection in detections))
    for detection in detections:
        colour = COLOURS[labels.index(detection.label) % len(COLOURS)]
        x1, y1, x2, y2 = detection.box
        if x1 <= x2 and y1 <= y2:
            draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(1, canvas.width // 400))
        text, at = f"{detection.label} {detection.score:.2f}", (max(0.0, x1), max(0.0, y1 - size))
        draw.rectangle(draw.textbbox(at, text, font=font), fill=colour)
        draw.text(at, text, fill=(0, 0, 0), font=font)
    return canvas
