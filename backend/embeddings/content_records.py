"""A database of the content last seen at each address, beside the embeddings on disk, so that it outlives the process.

It also holds which files each project has used, so that what is kept of a project can be erased.

Several processes may use one file. Whatever cannot be read counts as missing, and whatever cannot be written is kept in
memory alone; a file that is damaged or not ours is replaced.
"""

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from backend.images import decode
from backend.images.fetch import Validators

logger = logging.getLogger(__name__)

R = TypeVar("R")

SourceKey: TypeAlias = tuple[str, str]
"""(owner, sha256 of the address in hex): an address within one project or task; short even for a long address."""

MAX_BYTES = 256_000_000  # about a million records; a larger file loses its older half when a process opens it
LOCKED_S = 0.25  # how long to wait for another process that writes, and for a thread that waits for it
_PASSING = ("locked", "readonly", "full", "unable to open", "disk I/O")
"""In SQLite's messages of errors after which the file may still be good."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS contents_1 (name TEXT PRIMARY KEY, digest TEXT NOT NULL, etag TEXT NOT NULL, "
    "last_modified TEXT NOT NULL, immutable INTEGER NOT NULL, checked_at REAL NOT NULL) WITHOUT ROWID"
)
_FILES_TABLE = (
    "CREATE TABLE IF NOT EXISTS files_1 (project TEXT, digest TEXT, PRIMARY KEY (project, digest)) WITHOUT ROWID"
)
_HALVE = (
    "DELETE FROM contents_1 WHERE checked_at < (SELECT avg(checked_at) FROM contents_1)",
    "DELETE FROM files_1 WHERE digest NOT IN (SELECT digest FROM contents_1)",
)
_OF_OTHERS = "SELECT digest FROM files_1 WHERE project <> :name EXCEPT SELECT digest FROM files_1 WHERE project = :name"
_ERASE = (
    f"DELETE FROM contents_1 WHERE digest NOT IN ({_OF_OTHERS})",  # noqa: S608 - a constant
    "DELETE FROM files_1 WHERE project = :name",
)
_PUT = "INSERT OR REPLACE INTO contents_1 VALUES (?, ?, ?, ?, ?, ?)"
_GET = "SELECT digest, etag, last_modified, immutable, checked_at FROM contents_1 WHERE name = ?"


@dataclass(frozen=True)
class ContentRecord:
    """The content last seen at an address."""

    digest: str  # sha256 of the image file, in hex
    version: Validators  # HTTP validators that the server sent with it
    immutable: bool  # whether the content at the address never changes
    checked_at: float  # when the server last confirmed it, on the clock of the index

    def __post_init__(self) -> None:
        decode.check_digest("digest", self.digest)


class ContentDatabase:
    """Records of contents in a file; safe from many threads and processes.

    >>> ContentDatabase(Path("missing/contents.db"), "http://localhost:8080").get(("project 1", "ab" * 32)) is None
    True
    """

    def __init__(self, path: Path, owner: str, max_bytes: int = MAX_BYTES, locked_s: float = LOCKED_S) -> None:
        """Use the file at ``path``, created at the first write, for the projects of the Label Studio ``owner``.

        The older half of the records is removed above ``max_bytes``.
        """
        self._path, self._owner, self._max_bytes, self._locked_s = path, owner, max_bytes, locked_s
        self._connection: sqlite3.Connection | None = None
        self._lock, self._has_logged = threading.Lock(), False

    def get(self, address_key: SourceKey) -> ContentRecord | None:
        """Return the content last seen at an address, None if there is none."""
        name = (self._name(address_key),)
        rows = self._run(lambda connection: connection.execute(_GET, name).fetchall(), creates=False)
        try:
            [(digest, etag, last_modified, immutable, checked_at)] = rows or []
            version = Validators(str(etag), str(last_modified))
            return ContentRecord(str(digest), version, bool(immutable), float(checked_at))
        except (ValueError, TypeError):
            return None

    def put(self, address_key: SourceKey, record: ContentRecord) -> None:
        """Store the content of an address."""
        version = record.version
        row = self._name(address_key), record.digest, version.etag, version.last_modified
        values = (*row, record.immutable, record.checked_at)
        self._run(lambda connection: connection.execute(_PUT, values))

    def remove(self, address_key: SourceKey) -> None:
        """Remove the content of an address, if there is any."""
        name = (self._name(address_key),)
        self._run(lambda connection: connection.execute("DELETE FROM contents_1 WHERE name = ?", name))

    def note_file(self, project_id: int, digest: str) -> None:
        """Store that a project uses a file with this sha256."""
        row = self._name((str(project_id),)), digest
        self._run(lambda connection: connection.execute("INSERT OR IGNORE INTO files_1 VALUES (?, ?)", row))

    def files_of_others(self, project_id: int) -> frozenset[str] | None:
        """Return the digests of the files that other projects have used, and this one has not.

        None if the database cannot be used. If there is none, or it is damaged, no file is known of any project.
        """
        name = {"name": self._name((str(project_id),))}
        rows = self._run(lambda connection: connection.execute(_OF_OTHERS, name).fetchall(), creates=False)
        if rows is None and self._path.exists():
            return None
        return frozenset(str(digest) for (digest,) in rows or ())

    def erase(self, project_id: int) -> bool:
        """Remove the list of a project's files, and the contents of all files but those of `files_of_others`.

        Returns False if the database cannot be used.
        """
        name = {"name": self._name((str(project_id),))}

        def work(connection: sqlite3.Connection) -> bool:
            for statement in _ERASE:
                connection.execute(statement, name)
            connection.execute("VACUUM")  # what was deleted stays in the file otherwise
            return True

        return self._run(work, creates=False) is not None or not self._path.exists()

    def _run(self, work: Callable[[sqlite3.Connection], R], *, creates: bool = True) -> R | None:
        """Return what ``work`` returns; None if the database cannot be used, or is missing and not to be created."""
        if not self._lock.acquire(timeout=self._locked_s):  # as long as the thread that waits for another process
            return None
        try:
            for is_last in (False, True):
                try:
                    return self._try(work, creates)
                except Exception as error:  # noqa: BLE001 - a damaged file raises what its bytes happen to cause
                    self._log(error)
                    self._close()
                    if is_last or isinstance(error, OSError) or any(word in str(error) for word in _PASSING):
                        return None
                    with suppress(OSError):
                        self._path.unlink(missing_ok=True)
            return None
        finally:
            self._lock.release()

    def _try(self, work: Callable[[sqlite3.Connection], R], creates: bool) -> R | None:
        if not self._path.exists():
            self._close()  # of a file that was deleted
            if not creates:
                return None
        self._connection = self._connection or self._open()
        return work(self._connection)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self._path, self._locked_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # what a power failure costs is fetched again
            connection.execute(_TABLE)
            connection.execute(_FILES_TABLE)
            if self._path.stat().st_size > self._max_bytes:
                for statement in _HALVE:
                    connection.execute(statement)
                connection.execute("VACUUM")
        except BaseException:
            connection.close()
            raise
        return connection

    def _log(self, error: Exception) -> None:
        """Log the first error; the images are fetched again, and nothing else is lost."""
        if not self._has_logged:
            self._has_logged = True
            logger.warning("event=contents_not_kept path=%s detail=%r", self._path, str(error))

    def _name(self, parts: tuple[str, ...]) -> str:
        return hashlib.sha256("\n".join((self._owner, *parts)).encode()).hexdigest()[:32]
