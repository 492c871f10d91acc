"""A program is split into two files, which are loaded and run together; the text's results are kept."""

import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cachetools import LRUCache

from model.detection.parts import dataflow
from model.detection.parts.legacy import LegacyParts
from model.detection.parts.pir import PirParts
from model.detection.program import DetectorProgram, read_checked
from model.detection.types import Arrays
from model.weights import WeightsError
from model.weights.formats import paddle_program, pdiparams
from model.weights.formats.paddlex import PARAMETERS
from model.weights.tensors import Shape

logger = logging.getLogger(__name__)

_KEPT_BYTES = 64 << 20
_REMEMBERED_FAILURES = 100
_OPEN_FILES = Path("/proc/self/fd")  # Linux's names for them


class Runnable(Protocol):
    """A loaded program; see `model.detection.engine.Engine`."""

    @property
    def inputs(self) -> Iterable[str]:
        """The names of its inputs."""

    def run(self, inputs: Arrays, /) -> Arrays:
        """Return the outputs for inputs in the alphabetical order of their names."""


@dataclass(frozen=True)
class Part:
    """A part of a program, not loaded yet.

    Attributes:
        program: the content of its file.
        parameters: the names of those that it uses.
    """

    program: bytes
    parameters: set[str]


@dataclass(frozen=True)
class Parts:
    """A program in two parts.

    Attributes:
        text: gives what the rest needs to know of the words.
        rest: gives what the program gives.
        crossing: the names of the rest's inputs for what the text's part gives, in the order in which it does.
        shapes: of all parameters of the program.
    """

    text: Part
    rest: Part
    crossing: tuple[str, ...]
    shapes: Mapping[str, Shape]


def split(program: DetectorProgram, text_inputs: Sequence[str]) -> Parts | None:
    """Return a program in two parts, None where nothing in it depends on the text alone, or it cannot be cut.

    Args:
        program: one that was checked.
        text_inputs: the names of its inputs that hold words.
    """
    if not text_inputs:
        return None
    data = program.path.read_bytes()
    try:
        whole = PirParts(data, text_inputs) if program.is_pir else LegacyParts(data, text_inputs)
        cut = dataflow.cut(whole.operators, whole.can_cross)
        if cut is None:
            return None
        names = {value: value if isinstance(value, str) else f"text_value_{value}" for value in cut.crossing}
        text, rest = whole.part(cut.text, {}, cut.crossing), whole.part(cut.rest, names, ())
        parsed = paddle_program.parse_pir(data) if program.is_pir else paddle_program.parse_legacy(data)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        logger.info("%s: runs as a whole, since its text side cannot be told from the rest: %r", program.path, error)
        return None
    return Parts(Part(*text), Part(*rest), tuple(names.values()), parsed.parameters)


def load(
    parts: Parts,
    program: DetectorProgram,
    parameters: Path,
    load_part: Callable[[DetectorProgram, Path], Runnable],
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> tuple[Runnable, Runnable]:
    """Return both parts, loaded one after the other from a temporary folder with a copy of the parameters of each.

    Args:
        parts: of `split`.
        program: the whole.
        parameters: the file of the whole.
        load_part: loads a program from its file and that of its parameters.
        free_bytes: how much can be written into a folder.

    Raises:
        WeightsError: Paddle cannot load a part, or the parameters are those of another program.
        OSError: a part cannot be written; there is no room for it.
    """
    loaded, entries = [], pdiparams.entries(parameters, parts.shapes)
    for part in (parts.text, parts.rest):
        chosen = [entry for name, entry in entries.items() if name in part.parameters]
        size = len(part.program) + sum(entry.nbytes for entry in chosen)
        with tempfile.TemporaryDirectory(prefix="paddle-sam-") as name:
            folder = Path(name)
            if (free := free_bytes(folder)) < size:
                raise OSError(
                    f"expected room for {_megabytes(size)} in {folder.parent} while a part of the program is loaded, "
                    f"got {_megabytes(free)}; make room there, or set TMPDIR to a folder that has it",
                )
            path = folder / program.path.name
            path.write_bytes(part.program)
            with (folder / PARAMETERS).open("wb") as copy:
                target = Path(copy.name)
                if _OPEN_FILES.is_dir():  # without a name, the copy is gone with this process, however it ends
                    target.unlink()
                    target = _OPEN_FILES / str(copy.fileno())
                pdiparams.copy_some(parameters, chosen, copy)
                copy.flush()
                loaded.append(load_part(read_checked(path), target))
    return loaded[0], loaded[1]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


class TwoParts:
    """Runs the text's part once for each text, as long as what it gave is kept. Any number of threads may use it.

    Where a part cannot compute, the whole program is loaded and answers in its place: once, or for good if a part fails
    again with the same text. A failure that the whole program shares does not count, nor does a lack of memory.

    Attributes:
        inputs: the names of the whole program's inputs, sorted.
    """

    def __init__(
        self,
        loaded: tuple[Runnable, Runnable],
        inputs: Iterable[str],
        crossing: tuple[str, ...],
        load_whole: Callable[[], Runnable],
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        """Take both parts.

        Args:
            loaded: the text's part, and the rest; of `load`.
            inputs: the names of the whole program's inputs.
            crossing: those of the rest's inputs for the outputs of the text's part.
            load_whole: loads the whole program.
            kept_bytes: the most that is kept of what the text's part gave.
        """
        self._loaded: tuple[Runnable, Runnable] | Runnable = loaded
        self.inputs, self._crossing, self._load_whole = sorted(inputs), crossing, load_whole
        self._kept: LRUCache[bytes, Arrays] = LRUCache(
            kept_bytes, getsizeof=lambda features: sum(array.nbytes for array in features)
        )
        self._failed: LRUCache[bytes, None] = LRUCache(_REMEMBERED_FAILURES)  # texts, by digest
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> Arrays:
        """Return the program's outputs.

        Args:
            inputs: one array per input of the whole program, in the alphabetical order of their names.

        Raises:
            WeightsError: the program cannot compute with these inputs.
            MemoryError: memory ran out.
        """
        given = dict(zip(self.inputs, inputs, strict=True))
        with self._lock:  # one at a time runs anyway
            if not isinstance(self._loaded, tuple):
                return self._loaded.run(inputs)
            text, rest = self._loaded
            text_inputs = [given[name] for name in sorted(text.inputs)]
            key = _digest(text_inputs)
            try:
                given.update(zip(self._crossing, self._features(text, text_inputs, key), strict=True))
                outputs = rest.run([given[name] for name in sorted(rest.inputs)])
            except WeightsError as error:
                return self._run_whole(inputs, key, error)
            self._failed.pop(key, None)
            return outputs

    def _run_whole(self, inputs: Arrays, key: bytes, error: WeightsError) -> Arrays:
        """Answer in place of a part that failed, from now on if it did so with this text before."""
        whole = self._load_whole()
        outputs = whole.run(inputs)
        if key in self._failed:
            logger.warning("The program runs as a whole from now on, its text side with each picture: %s", error)
            self._loaded = whole
            self._kept.clear()
        else:
            logger.warning("The program ran as a whole for one picture, since a part of it failed: %s", error)
            self._failed[key] = None
        return outputs

    def _features(self, text: Runnable, inputs: Arrays, key: bytes) -> Arrays:
        features = self._kept.get(key)
        if features is None:
            features = text.run(inputs)
            with suppress(ValueError):  # more than is kept of all texts
                self._kept[key] = features
        return features


def _digest(arrays: Arrays) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest.digest()
