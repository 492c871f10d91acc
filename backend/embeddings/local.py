"""From an image's address to its embedding: cached, fetched and encoded once however many ask, within a time.

`LocalEmbeddings` does it all in this process. A warm click costs two look-ups: which content lies behind the address,
and that content's embedding. Otherwise the image is fetched in the background and encoded, each in its turn: what
somebody waits for at a screen goes first. Every click on it waits for the same fetch and the same encode. A click that
cannot wait any longer leaves; the work goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from backend.concurrency.byte_budget import ADDRESSES_BYTES, ByteBudget, Share
from backend.concurrency.priority_executor import Fetch, PriorityExecutor
from backend.embeddings.content_index import ContentIndex, ContentRecord, SourceKey, source_key
from backend.embeddings.encode import Encoder
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.prefetcher import Prefetcher
from backend.embeddings.serialization import Dtype
from backend.embeddings.stores import EmbeddingKey, EmbeddingStore
from backend.embeddings.waiting import Observer, wait_for
from backend.errors import BackendError, Reason, RetryLater
from backend.images import decode
from backend.images.fetch import Fetched, Validators
from backend.types import ImageRef, Priority
from model.types import Embedding

logger = logging.getLogger(__name__)

FETCHERS = 8
SPARED = 3
"""How many of the fetchers are kept for images that somebody waits for at a screen."""

RECHECKS = 2


class Embeddings(Protocol):
    """Where the segmenter gets embeddings from."""

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image.

        Args:
            ref: the image.
            deadline_s: seconds from now by which it must be there.
            priority: whose turn comes first.

        Raises:
            ImageError: the image cannot be segmented.
            AccessError: it may not be fetched.
            RetryLater: time ran out (``budget_exceeded``; the work goes on), or something failed that may pass.
        """
        ...

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if that takes neither download nor encode; begins none, never raises."""
        ...

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images when nothing more urgent is to do; returns at once and never raises."""
        ...


class Source(Protocol):
    """Fetches image files; see `backend.images.fetch.ImageSource`."""

    def fetch(self, ref: ImageRef, known: Validators | None = None, /) -> Fetched | None:
        """Return the file, None if it is still the known one."""
        ...


@dataclass
class _Flight:
    """One image on its way, with everybody who waits for it."""

    priority: Priority
    fetch: Fetch | None = None
    key: EmbeddingKey | None = None
    address: Share | None = None
    future: "Future[Embedding]" = field(default_factory=Future)


class LocalEmbeddings:
    """Embeddings made in this process; safe from many threads."""

    def __init__(
        self,
        source: Source,
        load_encoder: Callable[[], Encoder],
        model_version: str,
        store: EmbeddingStore,
        observer: Observer,
        *,
        limits: decode.Limits | None = None,
        dtype: Dtype = "float16",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            source: where image files come from.
            load_encoder: returns the encoder; called once, in the background.
            model_version: of the encoder that will be loaded.
            store: where embeddings are kept.
            observer: is told what happens.
            limits: of the images.
            dtype: what embeddings are stored as.
            clock: seconds, monotonic; for how long things are remembered.
        """
        self._source, self._store, self._observer = source, store, observer
        self._model_version, self._dtype, self._limits = model_version, dtype, limits or decode.Limits()
        self._queue = EncoderThread(load_encoder, store, self._limits, observer)
        self._contents = ContentIndex(clock)
        self._fetchers = PriorityExecutor(FETCHERS, SPARED)
        self._flights: dict[SourceKey, _Flight] = {}
        self._asking: set[SourceKey] = set()
        self._ahead = Prefetcher(self._encode_ahead)
        self._addresses = ByteBudget(ADDRESSES_BYTES)
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._queue.is_ready

    @property
    def failure(self) -> str:
        """Why the encoder could not be loaded; empty when it could, or has not been tried."""
        return self._queue.failure

    @property
    def encoding(self) -> int:
        """How many images wait for the encoder or are in it."""
        return len(self._queue)

    @property
    def ahead(self) -> int:
        """How many images wait to be encoded ahead."""
        return len(self._ahead)

    def start(self) -> None:
        """Begin loading the encoder; after a fork, not before. Done by the first request otherwise."""
        self._queue.start()
        self._ahead.start()

    def close(self) -> None:
        """Finish the image in hand, let everybody else go, and end the threads."""
        with self._lock:
            self._is_closed = True
        self._fetchers.close()
        self._queue.close()
        for place, flight in list(self._flights.items()):  # those whose fetch had not begun
            self._settle(place, flight, RetryLater("the service is stopping", Reason.MODEL_NOT_READY))
        self._ahead.close()

    def get(self, ref: ImageRef, deadline_s: float, priority: Priority = Priority.INTERACTIVE, /) -> Embedding:
        """Return the embedding of an image; see `Embeddings.get`."""
        place = source_key(ref)
        found = self._warm(ref, place)
        if found is not None:
            return found
        future = self._join(ref, place, priority)
        return wait_for(future, deadline_s, self._observer)

    def peek(self, ref: ImageRef, /) -> Embedding | None:
        """Return the embedding of an image if it is there; see `Embeddings.peek`."""
        return self._warm(ref, source_key(ref))

    def prefetch(self, refs: Iterable[ImageRef], /) -> None:
        """Encode images when nothing more urgent is to do: the newest call's first, in their order."""
        self.start()
        self._ahead.add(refs)

    def _key(self, digest: str) -> EmbeddingKey:
        return EmbeddingKey(digest, self._model_version, self._dtype)

    def _warm(self, ref: ImageRef, place: SourceKey) -> Embedding | None:
        """Return the embedding if it takes neither a download nor an encode."""
        content = self._contents.get(place)
        if content is None or not self._contents.is_stale_usable(content):
            return None
        found = self._store.get(self._key(content.digest))
        if found is not None and not self._contents.is_fresh(content):
            self._revalidate(ref, place, content)
        return found

    def _join(self, ref: ImageRef, place: SourceKey, priority: Priority) -> "Future[Embedding]":
        """Return the embedding on its way; set it on its way if nobody has."""
        self.start()
        with self._lock:
            failure = self._contents.failure(place)
            if failure is not None:
                raise failure
            flight = self._flights.get(place)
            if flight is not None:
                self._observer.shared()
                flight.priority = min(flight.priority, priority)
                if flight.fetch is not None:
                    self._fetchers.promote(flight.fetch, priority)
                if flight.key is not None:
                    self._queue.promote(flight.key, priority)
                return flight.future
            if self._is_closed:
                raise RetryLater("the service is stopping", Reason.MODEL_NOT_READY)
            flight = self._flights[place] = _Flight(priority, address=self._addresses.take_address(ref.uri))
            flight.fetch = self._fetchers.submit(partial(self._fly, ref, place, flight), priority)
            return flight.future

    def _fly(self, ref: ImageRef, place: SourceKey, flight: _Flight) -> None:
        """Fetch an image and hand it to the encoder; whatever happens, the flight gets its end."""
        try:
            outcome = self._fetched(ref, place, flight)
        except BackendError as error:
            outcome = error
        except Exception as error:  # a defect must not leave clicks waiting
            logger.exception("event=fetch_defect project=%s task=%s", ref.project_id, ref.task_id)
            outcome = BackendError(f"internal error: {error}")
        if isinstance(outcome, Future):
            outcome.add_done_callback(lambda done: self._settle(place, flight, done.exception() or done.result()))
        else:
            self._settle(place, flight, outcome)

    def _fetched(
        self, ref: ImageRef, place: SourceKey, flight: _Flight
    ) -> "Embedding | Future[Embedding] | BackendError":
        content = self._contents.get(place)
        held = self._store.get(self._key(content.digest)) if content is not None else None
        known = content.version if content is not None and held is not None else None
        with self._observer.stage("fetch"):
            fetched = self._source.fetch(ref, known)
        if fetched is None:
            assert held is not None
            self._contents.confirm(place)
            return held
        try:
            key = self._note(place, fetched)
            held = self._store.get(key)
            if held is not None:
                fetched.release()
                return held
            with self._lock:
                flight.key = key
                return self._queue.submit(key, fetched.data, flight.priority, fetched.share)
        except BaseException:
            fetched.release()
            raise

    def _note(self, place: SourceKey, fetched: Fetched) -> EmbeddingKey:
        """Remember what lies behind an address, if it is an image at all."""
        decode.check(fetched.data, self._limits)
        digest = decode.digest(fetched.data)
        self._contents.put(place, digest, fetched.version, immutable=fetched.immutable)
        return self._key(digest)

    def _settle(self, place: SourceKey, flight: _Flight, outcome: "Embedding | BaseException") -> None:
        with self._lock:
            self._flights.pop(place, None)
            if isinstance(outcome, BackendError):
                self._contents.fail(place, outcome)
        if flight.address is not None:
            flight.address.release()
        if isinstance(outcome, BaseException):
            flight.future.set_exception(outcome)
        else:
            flight.future.set_result(outcome)

    def _revalidate(self, ref: ImageRef, place: SourceKey, content: ContentRecord) -> None:
        """Find out whether an image has changed, while clicks on it go on being answered."""
        with self._lock:
            if place in self._asking or len(self._asking) >= RECHECKS or self._is_closed:
                return
            self._asking.add(place)
            self._fetchers.submit(partial(self._ask, ref, place, content), Priority.PREFETCH)

    def _ask(self, ref: ImageRef, place: SourceKey, content: ContentRecord) -> None:
        try:
            with self._observer.stage("fetch"):
                fetched = self._source.fetch(ref, content.version)
            if fetched is None:
                self._contents.confirm(place)
                return
            key = self._note(place, fetched)
            if key.digest != content.digest and self._store.get(key) is None:
                self._queue.submit(key, fetched.data, Priority.PREFETCH, fetched.share)
        except BackendError as error:
            logger.info("event=recheck_failed project=%s reason=%s", ref.project_id, error.reason)
            if not error.retry:
                self._contents.fail(place, error)
        except Exception:
            logger.exception("event=recheck_defect project=%s task=%s", ref.project_id, ref.task_id)
        finally:
            with self._lock:
                self._asking.discard(place)

    def _encode_ahead(self, ref: ImageRef) -> None:
        try:
            place = source_key(ref)
            if self._warm(ref, place) is None:
                self._join(ref, place, Priority.PREFETCH).result()
        except BackendError as error:
            self._observer.background_failure(error.reason)
            logger.info("event=prefetch_failed task=%s reason=%s", ref.task_id, error.reason)
        except Exception:  # a defect must not end the thread that sees to the next image
            logger.exception("event=prefetch_defect task=%s", ref.task_id)
