"""A decoder that loads itself when it is first needed, so that a service answers from its first moment on."""

import concurrent.futures
import copy
import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

from backend import paddle_import
from backend.errors import BackendError, Reason, RetryLater
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint

logger = logging.getLogger(__name__)

Decode: TypeAlias = Callable[[Embedding, Sequence[Prompt], bool | None], Masks]


class LazyDecoder:
    """A decoder that is loaded once, for the first who needs it or by `start`, on a thread of its own.

    So everybody who waits for it can leave when their time is up.

    Attributes:
        model_version: known before anything is loaded.
        device: where it runs, empty until it is loaded.
        failure: why it could not be loaded, empty when it could or has not been tried.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model_version, self.device, self.failure = checkpoint.model_version, "", ""
        self._checkpoint, self._wanted = checkpoint, device
        self._lock = threading.Lock()
        self._loading: Future[Decode] | None = None  # under way, or done

    def start(self) -> None:
        """Load in the background."""
        self._begun()

    def wait(self, within_s: float) -> None:
        """Return once it is loaded.

        Raises:
            RetryLater: that takes longer than ``within_s`` (``model_not_ready``); the load goes on.
            BackendError: it cannot be loaded; the next call tries again.
        """
        self._loaded(within_s)

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None) -> Masks:
        """Answer prompts about one image; see `model.decoder.Decoder.decode`.

        Raises:
            BackendError: the decoder cannot be loaded; the next call tries again.
        """
        return self._loaded()(embedding, prompts, multimask_output)

    def _loaded(self, within_s: float = math.inf) -> Decode:
        try:
            return self._begun().result(min(max(0.0, within_s), threading.TIMEOUT_MAX))
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, each its own
        except concurrent.futures.TimeoutError:
            raise RetryLater("the decoder is still being loaded", Reason.MODEL_NOT_READY) from None

    def _begun(self) -> "Future[Decode]":
        """Return the load that is under way or done; begin one where there is none."""
        with self._lock:
            if self._loading is None:
                self._loading = Future()
                threading.Thread(target=self._see_to, args=(self._loading,), name="load-decoder", daemon=True).start()
            return self._loading

    def _see_to(self, loading: "Future[Decode]") -> None:
        """Load; whatever happens, those who wait are told."""
        try:
            decode = self._load()
        except BaseException as error:  # noqa: BLE001 - they raise it
            with self._lock:
                self._loading = None  # the next call tries again
            loading.set_exception(error)
        else:
            loading.set_result(decode)

    def _load(self) -> Decode:
        try:
            with paddle_import.sigterm_guard():
                from model.build import load_decoder  # here: Paddle must not be imported before a fork

            decoder = load_decoder(self._checkpoint, self._wanted)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            logger.error("event=decoder_not_loaded detail=%r", self.failure)
            raise BackendError(f"the decoder cannot be loaded: {error}", Reason.MODEL_NOT_READY) from error
        self.device, self.failure = decoder.device, ""
        return decoder.decode
