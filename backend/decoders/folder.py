"""The folder of fine-tuned decoders: their files, and the record of which one serves each project.

Each project has a folder of its own::

    12/4f1c….safetensors   a decoder; the name is the SHA-256 of the file
    12/decoders.json       the project's `Record`
    12/training.json       the state of its last training, see `backend.decoders.training`
    12/annotations.json    how many annotations came since, see there

A file is complete before a record names it, and a record is replaced as a whole, so a process that is killed leaves the
old record or the new one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec

from backend.images import decode
from backend.protocol import json_fields
from model import folders
from model.weights import decoder_weights
from model.weights.decoder_weights import DecoderWeights
from model.weights.errors import WeightsError

try:
    import fcntl
except ImportError:  # on Windows, where one process uses the folder
    fcntl = None  # type: ignore[assignment]

DOCUMENTS = RECORD, TRAINING = "decoders.json", "training.json"

MOST_BYTES = 20_000_000
"""Largest file of a decoder; that of the largest published SAM has 17 MB."""

MOST_DECODERS = 5
"""How many decoders of a project are kept; the active one always is."""

MOST_DOCUMENT_BYTES = 64_000
_LOCK = ".lock"  # held while a document is changed


D = TypeVar("D", bound="Document")


@dataclass(frozen=True)
class Document:
    """A small JSON file of a project, which is replaced as a whole."""

    FILE: ClassVar[str]
    revision: int = 0  # rises with every change; of two documents of a project the one with the higher revision holds

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and not 0 <= value < 1 << 53:
                raise ValueError(f"{name}: expected a whole number from 0, got {value}")

    @property
    def order(self) -> tuple[int, bytes]:
        """What two of a project are compared by: all processes prefer the same one."""
        return self.revision, self.dump()

    @classmethod
    def parse(cls: type[D], data: bytes) -> D:
        """Read what `dump` returned; an empty document where it is none."""
        try:
            return msgspec.json.decode(data[:MOST_DOCUMENT_BYTES], type=cls)
        except json_fields.DECODE_ERRORS:
            return cls()

    def dump(self) -> bytes:
        """Return the document as JSON."""
        return msgspec.json.encode(self)


@dataclass(frozen=True)
class Record(Document):
    """The decoders of a project, and the one that serves it."""

    FILE = RECORD
    active: str | None = None  # digest of the decoder that serves; None for the base
    is_pinned: bool = False  # whether a new decoder leaves the active one in place
    digests: tuple[str, ...] = ()  # of the decoders that are kept, the newest first

    def __post_init__(self) -> None:
        super().__post_init__()
        for digest in self.digests:
            decode.check_digest("digests", digest)
        if self.active is not None and self.active not in self.digests:
            raise ValueError(f"active: expected one of the digests, got {self.active!r:.80}")


class DecoderFolder:
    """The decoders of all projects, in a folder that several processes may use at a time.

    >>> folder = DecoderFolder(Path("/nowhere"))
    >>> folder.record(12), folder.projects()
    (Record(revision=0, active=None, is_pinned=False, digests=()), ())
    """

    def __init__(self, root: Path) -> None:
        """Use the folder ``root``; the first decoder creates it."""
        self.root = root

    def projects(self) -> tuple[int, ...]:
        """Return the numbers of the projects that have a folder."""
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except OSError:
            return ()
        return tuple(sorted(int(name) for name in names if name.isascii() and name.isdecimal()))

    def path(self, project_id: int, name: str) -> Path:
        """Return the path of a file of a project."""
        return self.root / str(project_id) / name

    def record(self, project_id: int) -> Record:
        """Return the record of a project; an empty one where there is none, or none that can be read."""
        return self.load(project_id, Record)

    def load(self, project_id: int, kind: type[D]) -> D:
        """Return a document of a project; an empty one where there is none, or none that can be read."""
        try:
            with self.path(project_id, kind.FILE).open("rb") as stream:
                return kind.parse(stream.read(MOST_DOCUMENT_BYTES))
        except OSError:
            return kind()

    def file(self, project_id: int, digest: str) -> Path:
        """Return the path of a decoder's file, which may not be on this machine."""
        return self.path(project_id, f"{digest}.safetensors")

    def read(self, project_id: int, digest: str) -> DecoderWeights:
        """Return a decoder of a project.

        Raises:
            WeightsError: its file is missing or damaged, or the decoder is another project's.
        """
        return _checked(decoder_weights.read(self.file(project_id, digest)), project_id, digest)

    def publish(self, project_id: int, data: bytes) -> DecoderWeights:
        """Add a new decoder to a project, and activate it unless another one is pinned.

        Args:
            project_id: the project whose annotations it learned from.
            data: what `model.weights.decoder_weights.dump` returned.

        Returns:
            The decoder as a service reads it.

        Raises:
            WeightsError: this is no decoder of that project, or it is larger than `MOST_BYTES`.
            OSError: it cannot be written.
        """
        decoder = self.add_file(project_id, data)

        def add(record: Record) -> Record:
            digests = tuple(dict.fromkeys((decoder.digest, *record.digests)))
            return replace(record, active=record.active if record.is_pinned else decoder.digest, digests=digests)

        self.change(project_id, add)
        return decoder

    def add_file(self, project_id: int, data: bytes, digest: str | None = None) -> DecoderWeights:
        """Write a decoder's file, for a record to name it; see `publish`. ``digest`` is the expected one."""
        if len(data) > MOST_BYTES:
            raise WeightsError(f"decoder of project {project_id}: expected at most {MOST_BYTES} bytes, got {len(data)}")
        decoder = _checked(decoder_weights.parse(data), project_id, digest)
        folders.write(self.file(project_id, decoder.digest), data)
        return decoder

    def change(self, project_id: int, change: Callable[[Record], Record]) -> Record:
        """Replace a project's record, with the next revision, and delete the files that it no longer names.

        Raises:
            OSError: it cannot be written.
            ValueError: ``change`` raises it.
        """

        def bounded(before: Record) -> Record:
            after = change(before)
            kept = after.digests[:MOST_DECODERS]
            if after.active is not None and after.active not in kept:
                kept = (*kept[:-1], after.active)
            return replace(after, digests=kept)

        return self.update(project_id, Record, bounded)

    def update(self, project_id: int, kind: type[D], change: Callable[[D], D]) -> D:
        """Replace a document of a project, with the next revision; see `change` for the errors."""
        with _locked(self.path(project_id, _LOCK), waits=True):
            before = self.load(project_id, kind)
            after = replace(change(before), revision=before.revision + 1)
            self._replace(project_id, after)
            return after

    def take_over(self, project_id: int, document: Document) -> None:
        """Replace a document of a project by a newer one of another machine.

        The file of the decoder that a record makes active must be here.

        Raises:
            OSError: it cannot be written.
        """
        with _locked(self.path(project_id, _LOCK), waits=True):
            if self.load(project_id, type(document)).order < document.order:
                self._replace(project_id, document)

    @contextmanager
    def only_training(self, project_id: int, lock: str = ".training") -> Iterator[None]:
        """Let no other process on this machine train the decoder of a project while inside.

        ``lock`` names the file that is locked: a service has one of its own, since it starts the process that trains.

        Raises:
            ValueError: another one does.
            OSError: the file cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(self.path(project_id, lock), waits=False))
            except BlockingIOError:
                raise ValueError(
                    f"project {project_id}: another training of its decoder runs on this machine"
                ) from None
            yield

    def _replace(self, project_id: int, document: Document) -> None:
        folders.write(self.path(project_id, document.FILE), document.dump())
        if isinstance(document, Record):
            for path in self.path(project_id, RECORD).parent.glob("[!.]*"):
                is_decoder, digests = path.suffix == ".safetensors", document.digests
                if path.stem not in digests if is_decoder else not digests and path.name not in DOCUMENTS:
                    path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, waits: bool) -> Iterator[None]:
    """Hold the lock of a file, which ends with the process; `BlockingIOError` if it is held and this does not wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


def erase(folder: DecoderFolder, project_id: int) -> int:
    """Remove a project's decoders, report and last training; return how many decoders there were.

    A record without decoders and a training without a state stay, so that other machines remove theirs.

    Raises:
        OSError: a file cannot be written or removed.
        ValueError: a training of its decoder runs on this machine.
    """
    if not folder.path(project_id, RECORD).parent.is_dir():
        return 0
    with folder.only_training(project_id):
        count = len(folder.record(project_id).digests)
        folder.change(project_id, lambda record: Record())
    return count


def _checked(decoder: DecoderWeights, project_id: int, digest: str | None) -> DecoderWeights:
    if decoder.info.project != project_id:
        raise WeightsError(
            f"decoder {decoder.name}: expected one of project {project_id}, got {decoder.info.project}'s"
        )
    if digest is not None and decoder.digest != digest:
        raise WeightsError(f"decoder {decoder.name}: expected the digest {digest[:8]}; its file is damaged")
    return decoder
