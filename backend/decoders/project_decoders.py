"""Chooses the decoder of each project: its own where one is active, else the base's.

A request asks once, and uses that decoder to its end. A project's new decoder is loaded while the old one serves, and
takes its place when it is ready; both take the same embeddings. A decoder that cannot be used leaves the old one, or
the base, in place.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from backend.decoders.folder import DecoderFolder, Record
from backend.decoders.lazy_decoder import LazyDecoder, LoadedDecoder, load
from backend.errors import BackendError, RetryLater
from model.weights import Checkpoint
from model.weights.decoder_weights import apply
from model.weights.errors import WeightsError

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
RETRY_AFTER_S = 60.0
"""How long to wait before a decoder that could not be loaded is tried again."""

MOST_LOADED_BYTES = 512_000_000
"""Memory for projects' decoders in one process; about ten of a published SAM's. Those used last are kept."""

COPIES = 3
"""Memory of a loaded decoder, as a multiple of its parameters: as read, as loaded, and what is derived from them."""


@dataclass(frozen=True)
class _Loaded:
    digest: str
    decoder: LazyDecoder
    nbytes: int


@dataclass(frozen=True)
class _Refusal:
    digest: str
    problem: str
    at: float


class ProjectDecoders:
    """The decoders of one process; safe from many threads."""

    def __init__(
        self,
        base: LazyDecoder,
        checkpoint: Checkpoint,
        folder: DecoderFolder,
        device: str,
        *,
        load: Callable[[Checkpoint, str], LoadedDecoder] = load,
        most_bytes: int = MOST_LOADED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve every project with ``base``, the decoder of ``checkpoint``, until the first `refresh`.

        ``most_bytes`` is the memory for the loaded decoders of projects, of which one is kept in any case; ``clock``
        is in s, monotonic.
        """
        self._base, self._checkpoint, self._folder, self._device = base, checkpoint, folder, device
        self._load, self._clock, self._lock = load, clock, threading.Lock()
        self._records: Mapping[int, Record] | None = None  # None until the folder was read
        self._serving: dict[int, str] = {}  # the digest of each project's decoder; none for the base
        self._loaded: LRUCache[int, _Loaded] = LRUCache(most_bytes, lambda loaded: min(loaded.nbytes, most_bytes))
        self._refused: dict[int, _Refusal] = {}
        self._checked: set[str] = set()

    def of(self, project_id: int | None) -> LazyDecoder:
        """Return the decoder that serves a project now; it may still have to be loaded, see `LazyDecoder.wait`."""
        with self._lock:
            digest = None if project_id is None else self._serving.get(project_id)
            if project_id is None or digest is None:
                return self._base
            loaded = self._loaded.get(project_id)
            if loaded is not None and loaded.digest == digest:
                return loaded.decoder

        def refuse(problem: str) -> LazyDecoder:
            self._refuse(project_id, digest, problem)
            return self._base

        try:
            loaded = self._prepare(project_id, digest, refuse)
        except WeightsError as error:
            return refuse(str(error))
        with self._lock:
            kept = self._loaded.get(project_id)
            if kept is not None and kept.digest == digest:  # another thread was faster
                return kept.decoder
            if self._serving.get(project_id) == digest:
                self._loaded[project_id] = loaded
        return loaded.decoder

    def refresh(self) -> None:
        """Load what has changed in the folder since the last call, one decoder after the other.

        The first call only reads which decoders are active; those are loaded when they are used.
        """
        is_first = self._records is None
        self._records = records = {number: self._folder.record(number) for number in self._folder.projects()}
        for project_id in {*records, *self._serving}:
            active, serving = records.get(project_id, Record()).active, self._serving.get(project_id)
            if active is None:
                self._refused.pop(project_id, None)
                if serving is not None:
                    self._serve(project_id, None)
            elif is_first:
                self._serving[project_id] = active
            elif active != serving:
                self._take_up(project_id, active)
            else:
                self._refused.pop(project_id, None)
                self._check(project_id, active)

    @property
    def records(self) -> Mapping[int, Record]:
        """The record of each project when the folder was last read."""
        return self._records or {}

    @property
    def problems(self) -> Mapping[int, str]:
        """Why the active decoder of a project does not serve, one sentence each."""
        return {project_id: refusal.problem for project_id, refusal in self._refused.copy().items()}

    @property
    def loaded_bytes(self) -> int:
        """Memory that the loaded decoders of projects take, estimated."""
        with self._lock:
            return int(self._loaded.currsize)

    def _prepare(self, project_id: int, digest: str, otherwise: Callable[[str], LazyDecoder] | None = None) -> _Loaded:
        """Return a decoder of a project, read and checked, but not loaded; see `LazyDecoder` for ``otherwise``.

        Raises:
            WeightsError: it cannot be read, or its base is another.
        """
        weights = self._folder.read(project_id, digest)
        decoder = LazyDecoder(apply(self._checkpoint, weights), self._device, self._load, otherwise)
        self._checked.add(digest)
        return _Loaded(digest, decoder, COPIES * weights.nbytes)

    def _check(self, project_id: int, digest: str) -> None:
        try:
            if digest not in self._checked:
                self._prepare(project_id, digest)
        except WeightsError as error:
            self._refuse(project_id, digest, str(error))

    def _take_up(self, project_id: int, digest: str) -> None:
        """Load a decoder while the old one serves, then swap the two."""
        refusal = self._refused.get(project_id)
        if refusal is not None and refusal.digest == digest and self._clock() - refusal.at < RETRY_AFTER_S:
            return
        try:
            loaded = self._prepare(project_id, digest)
            loaded.decoder.start().result()
        except (WeightsError, BackendError) as error:
            self._refuse(project_id, digest, str(error))
        else:
            self._serve(project_id, loaded)

    def _serve(self, project_id: int, loaded: _Loaded | None) -> None:
        with self._lock:
            self._refused.pop(project_id, None)
            self._loaded.pop(project_id, None)
            if loaded is None:
                self._serving.pop(project_id, None)
            else:
                self._serving[project_id], self._loaded[project_id] = loaded.digest, loaded
        version = self._base.model_version if loaded is None else loaded.decoder.model_version
        logger.info("event=decoder_active project=%s model=%s", project_id, version)

    def _refuse(self, project_id: int, digest: str, problem: str) -> None:
        """Note that a decoder cannot be used; if it serves, the base takes its place."""
        with self._lock:
            if self._serving.get(project_id) == digest:
                del self._serving[project_id]
                self._loaded.pop(project_id, None)
            before = self._refused.get(project_id)
            self._refused[project_id] = _Refusal(digest, problem, self._clock())
        if before is None or before.problem != problem:
            logger.warning("event=decoder_refused project=%s detail=%r", project_id, problem)


class DecoderWatch:
    """A thread that calls functions every `LOOK_EVERY_S`, so that new decoders are taken up; a context manager."""

    def __init__(self, *looks: Callable[[], object], every_s: float = LOOK_EVERY_S) -> None:
        """Call ``looks`` in turn once `start` was called; one that raises is called again the next time."""
        self._looks, self._every_s, self._trouble = looks, every_s, ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decoders", daemon=True)

    def start(self) -> None:
        """Start the thread; after a fork, not before."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the running call."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> "DecoderWatch":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def look(self) -> None:
        """Call each function once, in the calling thread."""
        for look in self._looks:
            self._call(look)

    def _work(self) -> None:
        while not self._stopped.is_set():
            self.look()
            self._stopped.wait(self._every_s)

    def _call(self, look: Callable[[], object]) -> None:
        try:
            look()
        except RetryLater:
            pass  # the connection to Redis logs its outages
        except OSError as error:
            if str(error) != self._trouble:
                logger.warning("event=decoders_folder detail=%r", str(error))
            self._trouble = str(error)
        except Exception:
            logger.exception("event=decoders_defect")
