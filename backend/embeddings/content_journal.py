"""What lay behind which address, kept in a file from one run to the next, so that a rerun downloads little.

`backend.embeddings.content_index` remembers the same for minutes, in memory; whoever goes through a whole project again
after a day wants to know of yesterday's contents. What never changes needs no asking, of the rest the server is asked
whether it has changed. A line that cannot be read counts as missing, and so does the whole file.
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
    """What lay behind an address.

    Attributes:
        digest: sha256 of the image file, in hex.
        version: what its server said of it.
        immutable: whether it never changes.
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
    """Addresses and their contents; safe from many threads, and several processes may write to one file."""

    def __init__(self, path: Path, owner: str) -> None:
        """Read nothing yet.

        Args:
            path: the file; made when there is something to write.
            owner: address of the Label Studio whose projects are meant.
        """
        self._path, self._owner = path, owner
        self._entries: dict[str, Entry] | None = None
        self._lock = threading.Lock()

    def get(self, place: SourceKey) -> Entry | None:
        """Return what lay behind an address."""
        with self._lock:
            return self._read().get(self._name(place))

    def put(self, place: SourceKey, entry: Entry) -> None:
        """Note what lies behind an address; forgotten without an error where the file cannot be written."""
        name = self._name(place)
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
                    found = msgspec.json.decode(line, type=_Line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue  # the last one of a run that was killed
                version = Validators(found.etag, found.last_modified)
                self._entries[found.place] = Entry(found.digest, version, found.immutable)
        return self._entries

    def _name(self, place: SourceKey) -> str:
        return hashlib.sha256("\n".join((self._owner, *place)).encode()).hexdigest()[:32]
