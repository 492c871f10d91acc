"""A file with the content last seen at each address, kept between runs so that a rerun downloads little.

`backend.embeddings.content_index` keeps the same for minutes, in memory; a second run over a whole project, a day
later, needs the records of the first. Contents that never change are used without a request; for the others the server
is asked whether they changed. A line or a file that cannot be read counts as missing.
"""

import hashlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backend.embeddings.content_index import SourceKey
from backend.images.fetch import Validators

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The content last seen at an address.

    Attributes:
        digest: sha256 of the image file, in hex.
        version: HTTP validators that the server sent with it.
        immutable: whether the content at the address never changes.
    """

    digest: str
    version: Validators
    immutable: bool


class _Line(msgspec.Struct, omit_defaults=True):
    place: str
    digest: str
    etag: str = ""
    last_modified: str = ""
    immutable: bool = False


class ContentJournal:
    """Addresses and their contents; safe from many threads, and several processes may write to one file.

    >>> ContentJournal(Path("missing.jsonl"), "http://localhost:8080").get(("project 1", "ab" * 32)) is None
    True
    """

    def __init__(self, path: Path, owner: str) -> None:
        """Use the file at ``path``, which is read at the first call and created at the first write.

        Args:
            path: the file.
            owner: address of the Label Studio that the projects belong to.
        """
        self._path, self._owner = path, owner
        self._entries: dict[str, Entry] | None = None
        self._lock = threading.Lock()

    def get(self, address_key: SourceKey) -> Entry | None:
        """Return the content last seen at an address, None if there is none."""
        with self._lock:
            return self._read().get(self._name(address_key))

    def put(self, address_key: SourceKey, entry: Entry) -> None:
        """Store the content of an address; if the file cannot be written, log it and keep the entry for this run."""
        name = self._name(address_key)
        with self._lock:
            entries = self._read()
            if entries.get(name) == entry:
                return
            entries[name] = entry
            line = _Line(name, entry.digest, entry.version.etag, entry.version.last_modified, entry.immutable)
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with self._path.open("ab") as file:
                    file.write(b"\n" + msgspec.json.encode(line))  # a killed run may have left half a line
            except OSError as error:
                logger.warning("event=journal_not_written path=%s detail=%r", self._path, str(error))

    def _read(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = {}
            try:
                lines = self._path.read_bytes().splitlines()
            except OSError:
                lines = []
            for line in lines:
                try:
                    parsed = msgspec.json.decode(line, type=_Line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # e.g. the last line of a run that was killed
                version = Validators(parsed.etag, parsed.last_modified)
                self._entries[parsed.place] = Entry(parsed.digest, version, parsed.immutable)
        return self._entries

    def _name(self, address_key: SourceKey) -> str:
        return hashlib.sha256("\n".join((self._owner, *address_key)).encode()).hexdigest()[:32]
