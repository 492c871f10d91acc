"""Stores of embeddings: the key, the store protocol, and stores in memory, on disk and in tiers."""

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from cachetools import LRUCache

from backend.embeddings.serialization import Dtype, dump, load, rounded
from backend.images import decode
from model.transforms import PREPROCESSING_VERSION
from model.types import Embedding

logger = logging.getLogger(__name__)

PIXELS = f"{decode.PIXELS_VERSION}.{PREPROCESSING_VERSION}"
"""Version of the path from file to network input: the decoding of files, and the model's preprocessing."""

_SUFFIX = ".embedding"
_STALE_S = 3600.0
_SCAN_EVERY = 64


@dataclass(frozen=True)
class EmbeddingKey:
    """The content of an embedding and how it was made; embeddings of equal keys hold equal numbers.

    >>> str(EmbeddingKey("00" * 32, "SAM@1234", preprocessing="1.1"))[-22:]
    '0:SAM@1234:float16:1.1'
    """

    digest: str  # sha256 of the image file, in hex
    model_version: str  # name and digest of the weights
    dtype: Dtype = "float16"  # number format it is stored in
    preprocessing: str = PIXELS  # version of the path from file to network input, see `PIXELS`

    def __post_init__(self) -> None:
        decode.check_digest("digest", self.digest)

    def __str__(self) -> str:
        return f"{self.digest}:{self.model_version}:{self.dtype}:{self.preprocessing}"


@dataclass(frozen=True)
class StoreStats:
    """The fill level of one store; ``trouble`` is why it is not used at the moment, empty if it works."""

    name: str
    entries: int
    nbytes: int
    max_bytes: int
    trouble: str = ""


Shape: TypeAlias = tuple[int, int, int]  # (channels, height, width) of the embeddings of a network


def parse(data: bytes | memoryview, key: EmbeddingKey, shape: Shape | None) -> Embedding | None:
    """Return the embedding in ``data``; None unless it is of this key, its number format and ``shape``, if known."""
    embedding = load(data, str(key))
    if embedding is None or shape not in (None, embedding.image_embedding.shape):
        return None
    return embedding if rounded(embedding, key.dtype) is embedding else None  # float32 where float16 would overflow


class EmbeddingStore(Protocol):
    """Keeps embeddings for a while, without raising errors of its medium.

    While a medium fails, `get` returns None and `put` keeps nothing.
    """

    name: str  # in metrics and on the status page

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if the store does not hold it or it is not usable any more."""

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether the store holds an embedding, without reading it."""

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding, if there is room for it."""

    def stats(self) -> Sequence[StoreStats]:
        """Return the fill level, one entry per medium."""


class MemoryStore:
    """Keeps the most recently used embeddings in this process, up to a number of bytes; safe from many threads.

    >>> store = MemoryStore(max_bytes=1_000_000)
    >>> store.get(EmbeddingKey("00" * 32, "SAM@1234")) is None
    True
    >>> store.stats()
    (StoreStats(name='memory', entries=0, nbytes=0, max_bytes=1000000, trouble=''),)
    """

    name = "memory"

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[EmbeddingKey, Embedding] = LRUCache(max_bytes, getsizeof=lambda value: value.nbytes)
        self._unprepared: dict[EmbeddingKey, Embedding] = {}
        self._lock = threading.Lock()

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if the store does not hold it."""
        with self._lock:
            self._count_prepared()
            return self._entries.get(key)

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether the store holds an embedding."""
        return key in self._entries

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding, and evict the least recently used ones that no longer fit."""
        with self._lock:
            self._count_prepared()
            self._entries.pop(key, None)
            if embedding.nbytes <= self._entries.maxsize:
                self._entries[key] = embedding
                self._unprepared[key] = embedding

    def stats(self) -> tuple[StoreStats, ...]:
        """Return the fill level."""
        with self._lock:
            self._count_prepared()
            entries = self._entries
            return (StoreStats(self.name, len(entries), int(entries.currsize), int(entries.maxsize)),)

    def _count_prepared(self) -> None:
        """Count what decoders have kept beside embeddings since the last call, and evict what no longer fits."""
        for key in [key for key, embedding in self._unprepared.items() if embedding.prepared.nbytes]:
            embedding = self._unprepared.pop(key)
            if self._entries.get(key) is embedding:
                del self._entries[key]
                if embedding.nbytes <= self._entries.maxsize:
                    self._entries[key] = embedding
        if len(self._unprepared) > 2 * len(self._entries):  # most of them were evicted
            self._unprepared = {key: each for key, each in self._unprepared.items() if key in self._entries}


class FileStore:
    """Keeps the most recently used embeddings as files, up to a number of bytes; several processes may share them.

    A file is written under a temporary name and renamed, so it is complete or missing. The modification time of a file
    is the time of its last use. A full or read-only disk is not written to for a minute, then tried again.

    >>> store = FileStore(Path("missing"), max_bytes=1_000_000)
    >>> store.get(EmbeddingKey("00" * 32, "SAM@1234")) is None
    True
    """

    name = "disk"

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        shape: Shape | None = None,
        on_drop: Callable[[str], None] = lambda tier: None,
        pause_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use ``directory``, which holds nothing else, and is created when the first embedding is written.

        ``on_drop`` is called with this store's name when it deletes an unusable embedding. After an error the disk is
        not written to for ``pause_s``.
        """
        self._directory, self._max_bytes = directory, max_bytes
        self._pause_s, self._clock = pause_s, clock
        self._shape, self._on_drop = shape, on_drop
        self._trouble, self._paused_until = "", 0.0
        self._write_lock = threading.Lock()
        self._nbytes: int | None = None  # an upper bound on the own files; other processes may have written more
        self._since_scan = 0

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if its file is missing, damaged or of another key."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed("read", error)
            return None
        embedding = parse(data, key, self._shape)
        with suppress(OSError):  # files on a read-only disk can still be read
            if embedding is None:
                self._on_drop(self.name)
                logger.warning("event=embedding_dropped tier=%s file=%s", self.name, path.name)
                path.unlink(missing_ok=True)
            else:
                os.utime(path)
        return embedding

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether an embedding's file exists, without reading it; counts as a use of the file."""
        try:
            os.utime(self._path(key))
        except FileNotFoundError:
            return False
        except OSError:  # a read-only disk
            return self._path(key).exists()
        return True

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Write an embedding, after removing as many of the least recently used files as it needs room for."""
        data = dump(embedding, str(key), key.dtype)
        if len(data) > self._max_bytes or self._clock() < self._paused_until:
            return
        path = self._path(key)
        partial = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            with self._write_lock:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._make_room(len(data), path.name)
                try:
                    partial.write_bytes(data)
                    partial.replace(path)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                self._nbytes = (self._nbytes or 0) + len(data)
        except OSError as error:
            self._failed("write", error)
        else:
            self._trouble = ""

    def keep_only(self, digests: Set[str]) -> int:
        """Remove the embeddings of all image files but these, of all models; return how many there were.

        Raises:
            OSError: one cannot be removed.
        """
        paths = [path for _, _, path in self._files() if path.name[:64] not in digests]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def stats(self) -> tuple[StoreStats, ...]:
        """Return the fill level."""
        try:
            files = self._files()
        except OSError:
            files = []
        nbytes = sum(size for _, size, _ in files)
        return (StoreStats(self.name, len(files), nbytes, self._max_bytes, self._trouble),)

    def _path(self, key: EmbeddingKey) -> Path:
        key_hash = hashlib.sha256(str(key).encode()).hexdigest()[:16]  # a model's name may hold any character
        return self._directory / f"{key.digest}-{key_hash}{_SUFFIX}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use in s, size in bytes, path) of each embedding file."""
        if not self._directory.is_dir():
            return []
        files = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # another process has removed it
                if entry.name.endswith(_SUFFIX):
                    files.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif entry.name.endswith(".part") and time.time() - status.st_mtime > _STALE_S:
                    Path(entry.path).unlink(missing_ok=True)  # left behind by a killed process
        return files

    def _make_room(self, needed: int, name: str) -> None:
        """Remove the least recently used files until ``needed`` more bytes fit, if they may not."""
        self._since_scan += 1
        if self._nbytes is not None and self._nbytes + needed <= self._max_bytes and self._since_scan <= _SCAN_EVERY:
            return
        files = sorted((file for file in self._files() if file[2].name != name), key=lambda file: file[0])
        self._nbytes, self._since_scan = sum(size for _, size, _ in files), 0
        for _, size, path in files:
            if self._nbytes + needed <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            self._nbytes -= size

    def _failed(self, action: str, error: OSError) -> None:
        self._trouble = f"{action} failed: {error.strerror or error}"
        self._paused_until = self._clock() + self._pause_s
        logger.warning("event=disk_cache_bypassed directory=%s detail=%r", self._directory, self._trouble)


class TieredStore:
    """Looks an embedding up in several stores, fastest first, and copies a hit into the faster ones."""

    name = "tiers"

    def __init__(self, tiers: Sequence[EmbeddingStore], on_hit: Callable[[str], None] = lambda tier: None) -> None:
        """Combine stores, the fastest first; ``on_hit`` is called with the name of the one that had the embedding."""
        self._tiers, self._on_hit = tuple(tiers), on_hit

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding from the first store that holds it, None if no store does."""
        for index, tier in enumerate(self._tiers):
            embedding = tier.get(key)
            if embedding is not None:
                for faster in self._tiers[:index]:
                    faster.put(key, embedding)
                self._on_hit(tier.name)
                return embedding
        return None

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether a store holds an embedding, without reading it."""
        return any(tier.holds(key) for tier in self._tiers)

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding in every store."""
        for tier in self._tiers:
            tier.put(key, embedding)

    def stats(self) -> tuple[StoreStats, ...]:
        """Return the fill level of each store, fastest first."""
        return tuple(entry for tier in self._tiers for entry in tier.stats())
