"""The folder of fine-tuned decoders: their files, and the record of which one serves each project.

Each project has a folder of its own::

    12/4f1c….safetensors   a decoder; the name is the SHA-256 of the file
    12/decoders.json       the project's `Record`
    12/training.json       the state of its last training, see `backend.decoders.training`

A file is complete before a record names it, and a record is replaced as a whole, so a process that is killed leaves the
old record or the new one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from backend.protocol import json_fields
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


@dataclass(frozen=True)
class Record:
    """The decoders of a project, and the one that serves it.

    Attributes:
        revision: rises with every change; of two records of a project the one with the higher revision holds.
        active: digest of the decoder that serves; None for the base.
        is_pinned: whether a new decoder leaves the active one in place.
        digests: of the decoders that are kept, the newest first.
    """

    revision: int = 0
    active: str | None = None
    is_pinned: bool = False
    digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.revision < 1 << 53:
            raise ValueError(f"revision: expected a whole number from 0, got {self.revision}")
        for digest in self.digests:
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise ValueError(f"digests: expected 64 hexadecimal digits each, got {digest!r:.80}")
        if self.active is not None and self.active not in self.digests:
            raise ValueError(f"active: expected one of the digests, got {self.active!r:.80}")

    @property
    def order(self) -> tuple[int, bytes]:
        """What the records of a project are compared by: all processes prefer the same one of two."""
        return self.revision, self.dump()

    @classmethod
    def parse(cls, data: bytes) -> "Record":
        """Read what `dump` returned; an empty record where it is none."""
        try:
            return msgspec.json.decode(data[:MOST_DOCUMENT_BYTES], type=cls)
        except json_fields.DECODE_ERRORS:
            return cls()

    def dump(self) -> bytes:
        """Return the record as JSON."""
        return msgspec.json.encode(self)


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
        return Record.parse(self.document(project_id, RECORD))

    def document(self, project_id: int, name: str) -> bytes:
        """Return the contents of a small file of a project; empty where there is none."""
        try:
            with self.path(project_id, name).open("rb") as stream:
                return stream.read(MOST_DOCUMENT_BYTES)
        except OSError:
            return b""

    def write_document(self, project_id: int, name: str, data: bytes) -> None:
        """Replace a small file of a project, as a whole.

        Raises:
            OSError: it cannot be written.
        """
        decoder_weights.write(self.path(project_id, name), data)

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
        decoder_weights.write(self.file(project_id, decoder.digest), data)
        return decoder

    def change(self, project_id: int, change: Callable[[Record], Record]) -> Record:
        """Replace a project's record, with the next revision, and delete the files that it no longer names.

        Raises:
            OSError: it cannot be written.
            ValueError: ``change`` raises it.
        """
        with self._lock(project_id):
            before = self.record(project_id)
            after = change(before)
            kept = after.digests[:MOST_DECODERS]
            if after.active is not None and after.active not in kept:
                kept = (*kept[:-1], after.active)
            after = replace(after, digests=kept, revision=before.revision + 1)
            self._replace_record(project_id, after)
            return after

    def take_over(self, project_id: int, record: Record) -> None:
        """Replace a project's record by a newer one of another machine; the file of its active decoder must be here.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock(project_id):
            if self.record(project_id).order < record.order:
                self._replace_record(project_id, record)

    @contextmanager
    def only_training(self, project_id: int) -> Iterator[None]:
        """Let no other process on this machine train the decoder of a project while inside.

        Raises:
            ValueError: another one does.
        """
        path = self.path(project_id, ".training")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            try:
                if fcntl is not None:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"project {project_id}: another training of its decoder runs on this machine"
                ) from None
            yield

    def _replace_record(self, project_id: int, record: Record) -> None:
        self.write_document(project_id, RECORD, record.dump())
        for path in self.path(project_id, RECORD).parent.glob("[!.]*"):
            is_decoder = path.suffix == ".safetensors"
            if path.stem not in record.digests if is_decoder else not record.digests and path.name not in DOCUMENTS:
                path.unlink(missing_ok=True)

    @contextmanager
    def _lock(self, project_id: int) -> Iterator[None]:
        """Wait until no other process or thread changes the record."""
        path = self.path(project_id, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX)
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
