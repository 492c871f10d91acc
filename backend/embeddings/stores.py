"""Where embeddings are kept: one key, one store protocol, and stores in memory, on disk and in tiers."""

import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from backend.embeddings.serialization import Dtype, dump, load, rounded
from backend.images import decode
from model.transforms import PREPROCESSING_VERSION
from model.types import Embedding

logger = logging.getLogger(__name__)

PIXELS = f"{decode.PIXELS_VERSION}.{PREPROCESSING_VERSION}"
"""How a file becomes what the network sees: our reading of files, and the model's own preparation."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".embedding"
_STALE_S = 3600.0
_SCAN_EVERY = 64


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding is of, and how it was made; equal keys hold equal numbers.

    Attributes:
        digest: sha256 of the image file, in hex.
        model_version: name and digest of the weights.
        dtype: what it is stored as.
        preprocessing: version of the way from file to network input.
    """

    digest: str
    model_version: str
    dtype: Dtype = "float16"
    preprocessing: str = PIXELS

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"digest: expected 64 hexadecimal digits, got {self.digest!r:.80}")

    def __str__(self) -> str:
        return f"{self.digest}:{self.model_version}:{self.dtype}:{self.preprocessing}"


@dataclass(frozen=True)
class StoreStats:
    """How full one store is; ``trouble`` says why it is passed over at the moment, empty when it works."""

    name: str
    entries: int
    nbytes: int
    max_bytes: int
    trouble: str = ""


Shape: TypeAlias = tuple[int, int, int]
"""(channels, height, width) of the embeddings that a network makes."""


def is_stale_usable(found: Embedding, key: EmbeddingKey, shape: Shape | None) -> bool:
    """Whether what a medium held under this key is what belongs there: of the network's shape, in these numbers.

    Args:
        found: what was read.
        key: what was looked for.
        shape: of the network's embeddings; None where that is not known.
    """
    has_shape = shape in (None, found.image_embedding.shape)
    return has_shape and rounded(found, key.dtype) is found  # float32 is kept where float16 cannot hold the numbers


class EmbeddingStore(Protocol):
    """Keeps embeddings for a while. Never raises for what the medium does: a failing store misses and forgets.

    Attributes:
        name: for metrics and the status page.
    """

    @property
    def name(self) -> str:
        """What metrics and the status page call it."""
        ...

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is not there or not usable any more."""
        ...

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding, if there is room for it."""
        ...

    def stats(self) -> Sequence[StoreStats]:
        """Return how full the store is, one entry per medium."""
        ...


class MemoryStore:
    """Keeps the most recently used embeddings in this process, up to a number of bytes."""

    name = "memory"

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._nbytes = max_bytes, 0
        self._entries: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if it is not there."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding and let go of the least recently used ones that no longer fit."""
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._nbytes -= replaced.nbytes if replaced is not None else 0
            if embedding.nbytes > self._max_bytes:
                return
            self._entries[key] = embedding
            self._nbytes += embedding.nbytes
            while self._nbytes > self._max_bytes:
                self._nbytes -= self._entries.popitem(last=False)[1].nbytes

    def stats(self) -> tuple[StoreStats, ...]:
        """Return how full it is."""
        with self._lock:
            return (StoreStats(self.name, len(self._entries), self._nbytes, self._max_bytes),)


class FileStore:
    """Keeps the most recently used embeddings as files, up to a number of bytes; several processes may share them.

    A file is written beside its place and renamed, so it is whole or not there. What was used last is told by the
    file's time. A full or read-only disk is passed over for a minute, then tried again.
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
        """Touch nothing yet; the directory is made when the first embedding is written.

        Args:
            directory: this store's own.
            max_bytes: of all files together.
            shape: of the network's embeddings; None takes any.
            on_drop: is told this store's name when it drops what cannot be used.
            pause_s: how long the disk is left alone after it failed.
            clock: seconds, monotonic.
        """
        self._directory, self._max_bytes = directory, max_bytes
        self._pause_s, self._clock = pause_s, clock
        self._shape, self._on_drop = shape, on_drop
        self._trouble, self._paused_until = "", 0.0
        self._writing = threading.Lock()
        self._nbytes: int | None = None  # an upper bound, but for what other processes write
        self._since_scan = 0

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding, None if its file is missing, damaged or another key's."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed("read", error)
            return None
        found = load(data, str(key))
        if found is not None and not is_stale_usable(found, key, self._shape):
            found = None
        try:
            if found is None:
                self._on_drop(self.name)
                logger.warning("event=embedding_dropped tier=%s file=%s", self.name, path.name)
                path.unlink(missing_ok=True)
            else:
                os.utime(path)
        except OSError:
            pass  # a read-only disk still serves what it holds
        return found

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether an embedding's file is there, without reading it; whoever asks has a use for it."""
        try:
            os.utime(self._path(key))
        except FileNotFoundError:
            return False
        except OSError:  # a read-only disk
            return self._path(key).exists()
        return True

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Write an embedding, after removing the least recently used ones it needs the room of."""
        data = dump(embedding, str(key), key.dtype)
        if len(data) > self._max_bytes or self._clock() < self._paused_until:
            return
        path = self._path(key)
        beside = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            with self._writing:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._keep_within(len(data), path.name)
                try:
                    beside.write_bytes(data)
                    beside.replace(path)
                except BaseException:
                    beside.unlink(missing_ok=True)
                    raise
                self._nbytes = (self._nbytes or 0) + len(data)
        except OSError as error:
            self._failed("write", error)
        else:
            self._trouble = ""

    def stats(self) -> tuple[StoreStats, ...]:
        """Return how full it is."""
        try:
            files = self._files()
        except OSError:
            files = []
        nbytes = sum(size for _, size, _ in files)
        return (StoreStats(self.name, len(files), nbytes, self._max_bytes, self._trouble),)

    def _path(self, key: EmbeddingKey) -> Path:
        maker = hashlib.sha256(str(key).encode()).hexdigest()[:16]  # a model's name may hold anything
        return self._directory / f"{key.digest}-{maker}{_SUFFIX}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, path) of every file that is an embedding."""
        if not self._directory.is_dir():
            return []
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # another process was quicker
                if entry.name.endswith(_SUFFIX):
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif entry.name.endswith(".part") and time.time() - status.st_mtime > _STALE_S:
                    Path(entry.path).unlink(missing_ok=True)  # what a killed process left behind
        return found

    def _keep_within(self, needed: int, name: str) -> None:
        """Make room for ``needed`` bytes; the directory is looked through only when that may be necessary."""
        self._since_scan += 1
        if self._nbytes is None or self._nbytes + needed > self._max_bytes or self._since_scan > _SCAN_EVERY:
            self._nbytes = self._make_room(needed, name)
            self._since_scan = 0

    def _make_room(self, needed: int, name: str) -> int:
        """Remove the least recently used files until ``needed`` bytes fit beside them; return the bytes that stay."""
        files = sorted((file for file in self._files() if file[2].name != name), key=lambda file: file[0])
        kept = sum(size for _, size, _ in files)
        for _, size, path in files:
            if kept + needed <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            kept -= size
        return kept

    def _failed(self, what: str, error: OSError) -> None:
        self._trouble = f"{what} failed: {error.strerror or error}"
        self._paused_until = self._clock() + self._pause_s
        logger.warning("event=disk_cache_bypassed directory=%s detail=%r", self._directory, self._trouble)


class TieredStore:
    """Looks through several stores, fastest first, and fills the faster ones with what a slower one had."""

    name = "tiers"

    def __init__(self, tiers: Sequence[EmbeddingStore], on_hit: Callable[[str], None] = lambda tier: None) -> None:
        """Combine stores.

        Args:
            tiers: fastest first.
            on_hit: is told which store had what was looked for.
        """
        self._tiers, self._on_hit = tuple(tiers), on_hit

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding from the first store that has it."""
        for index, tier in enumerate(self._tiers):
            found = tier.get(key)
            if found is not None:
                for faster in self._tiers[:index]:
                    faster.put(key, found)
                self._on_hit(tier.name)
                return found
        return None

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding in every store."""
        for tier in self._tiers:
            tier.put(key, embedding)

    def stats(self) -> tuple[StoreStats, ...]:
        """Return how full each store is, fastest first."""
        return tuple(entry for tier in self._tiers for entry in tier.stats())
