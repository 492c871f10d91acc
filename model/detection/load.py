"""Loads a detector; the only step that executes anything."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from model.detection import directory
from model.detection.detector import Detector
from model.detection.directory import DetectorDirectory
from model.detection.parts import two_parts
from model.detection.parts.two_parts import Runnable, TwoParts
from model.detection.program import DetectorProgram
from model.detection.types import Arrays
from model.weights import WeightsError

logger = logging.getLogger(__name__)


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

    def __init__(self, load: Callable[[], Runnable]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._engine: Runnable | None = None

    def load(self) -> Runnable:
        """Return the program, loaded now unless it was; a failed load is tried again by the next call."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def run(self, inputs: Arrays) -> Arrays:
        """Return the program's outputs."""
        return self.load().run(inputs)


def _load(contents: DetectorDirectory, device: str) -> Runnable:
    """Return a program in two parts, one for the words, where it can be cut; else as a whole."""
    from model.detection.engine import Engine  # here: Paddle takes 3 s to import

    def load_program(program: DetectorProgram, parameters: Path) -> Engine:
        return Engine(program, parameters, device)

    def load_whole() -> Engine:
        return load_program(contents.program, contents.parameters)

    inputs = sorted(contents.program.inputs)
    parts = two_parts.split(contents.program, [inputs[index] for index in contents.architecture.text_inputs])
    if parts is None:
        return load_whole()
    try:
        loaded = two_parts.load(parts, contents.program, contents.parameters, load_program)
    except (WeightsError, OSError) as error:
        logger.warning("%s runs as a whole, its text side for every picture: %s", contents.program.path, error)
        return load_whole()
    return TwoParts(loaded, inputs, parts.crossing, load_whole)
