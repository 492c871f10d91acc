"""Loads a detector; the only step that executes anything."""

from pathlib import Path

from model.detection import directory
from model.detection.detector import Detector


def load_detector(path: str | Path, device: str = "auto") -> Detector:
    """Return a detector from its inference directory.

    Args:
        path: PaddleX's inference directory.
        device: ``auto``, ``cpu`` or ``gpu:N``.

    Raises:
        WeightsError: as in `model.detection.directory.read`, or Paddle cannot load the program.
        DeviceError: the device is not available here.
    """
    found = directory.read(path)
    from model.detection.engine import Engine  # here: Paddle takes 3 s to import

    return Detector(found.name, found.version, found.architecture, Engine(found.program, found.parameters, device))
