"""Loads a detector; the only step that executes anything."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model.detection import directory
from model.detection.detector import Detector
from model.detection.directory import DetectorDirectory
from model.detection.types import Arrays

if TYPE_CHECKING:  # at run time it would import Paddle
    from model.detection.engine import Engine


def load_detector(path: str | Path, device: str = "auto") -> Detector:
    """Return a detector from its inference directory, ready to run.

    Args:
        path: PaddleX's inference directory.
        device: ``auto``, ``cpu`` or ``gpu:N``.

    Raises:
        WeightsError: as in `model.detection.directory.read`, or Paddle cannot load the program.
        DeviceError: the device is not available here.
    """
    detector = read_detector(path, device)
    detector.load()
    return detector


def read_detector(path: str | Path, device: str = "auto") -> Detector:
    """Return a detector that checks words at once, and loads its program with the first picture.

    Arguments are those of `load_detector`.

    Raises:
        WeightsError: as in `model.detection.directory.read`.
    """
    contents = directory.read(path)
    return Detector(contents.name, contents.version, contents.architecture, LazyEngine(lambda: _load(contents, device)))


class LazyEngine:
    """A program that is loaded once, by `load` or by its first run; see `model.detection.engine.Engine`."""

    def __init__(self, load: Callable[[], "Engine"]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._engine: Engine | None = None

    def load(self) -> "Engine":
        """Return the program, loaded now unless it was; a failed load is tried again by the next call."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def run(self, inputs: Arrays) -> Arrays:
        """Return the program's outputs."""
        return self.load().run(inputs)


def _load(contents: DetectorDirectory, device: str) -> "Engine":
    from model.detection.engine import Engine  # here: Paddle takes 3 s to import

    return Engine(contents.program, contents.parameters, device)
