"""A decoder that loads on first use, so that the service answers requests from its start."""

import concurrent.futures
import copy
import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from backend import paddle_import
from backend.errors import BackendError, Reason, RetryLater
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint

logger = logging.getLogger(__name__)

Decode: TypeAlias = Callable[[Embedding, Sequence[Prompt], bool | None], Masks]


class LoadedDecoder(Protocol):
    """See `model.decoder.Decoder`."""

    device: str

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None, /) -> Masks:
        """Return one entry per prompt, in order."""


def load(checkpoint: Checkpoint, device: str) -> LoadedDecoder:
    """Load the decoder; see `model.build.load_decoder`."""
    with paddle_import.sigterm_guard():
        from model.build import load_decoder  # here: Paddle must not be imported before a fork

    decoder = load_decoder(checkpoint, device)
    paddle_import.freeze_imports()
    return decoder


class LazyDecoder:
    """A decoder that is loaded once, on its first use or by `start`, in a separate thread.

    A caller that waits for it can therefore give up when its time is over. ``device`` is empty until it is loaded,
    ``failure`` says why it could not be. With ``otherwise`` it is then the decoder that this returns, in name too: a
    name that was read before the first answer may be the old one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        load: Callable[[Checkpoint, str], LoadedDecoder] = load,
        otherwise: "Callable[[str], LazyDecoder] | None" = None,
    ) -> None:
        self.model_version, self.device, self.failure, self._otherwise = checkpoint.model_version, "", "", otherwise
        self._checkpoint, self._requested_device, self._load_decoder = checkpoint, device, load
        self._lock = threading.Lock()
        self._load_future: Future[Decode] | None = None  # running, or done

    def wait(self, within_s: float) -> None:
        """Return once it is loaded.

        Raises:
            RetryLater: loading takes longer than ``within_s`` (``model_not_ready``); it continues.
            BackendError: it cannot be loaded; the next call tries again.
        """
        try:
            self.start().result(min(max(0.0, within_s), threading.TIMEOUT_MAX))
        except BackendError as error:
            raise copy.copy(error) from error  # several threads raise it, each its own copy
        except concurrent.futures.TimeoutError:
            raise RetryLater("the decoder is still being loaded", Reason.MODEL_NOT_READY) from None

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None) -> Masks:
        """Answer prompts about one image, see `model.decoder.Decoder.decode`; `BackendError` if it cannot be loaded."""
        self.wait(math.inf)
        return self.start().result()(embedding, prompts, multimask_output)

    def start(self) -> "Future[Decode]":
        """Load in the background unless that was begun; return the future of the load."""
        with self._lock:
            if self._load_future is None:
                self._load_future = Future()
                threading.Thread(
                    target=self._finish_loading, args=(self._load_future,), name="load-decoder", daemon=True
                ).start()
            return self._load_future

    def _finish_loading(self, loading: "Future[Decode]") -> None:
        """Load the decoder and resolve the future, with an exception where loading fails."""
        try:
            decode = self._load()
        except BaseException as error:  # noqa: BLE001 - the callers of `result` raise it
            with self._lock:
                self._load_future = None  # the next call tries again
            loading.set_exception(error)
        else:
            loading.set_result(decode)

    def _load(self) -> Decode:
        try:
            decoder = self._load_decoder(self._checkpoint, self._requested_device)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            logger.error("event=decoder_not_loaded detail=%r", self.failure)
            if self._otherwise is not None:
                return self._become(self._otherwise(f"the decoder cannot be loaded: {self.failure}"))
            raise BackendError(f"the decoder cannot be loaded: {error}", Reason.MODEL_NOT_READY) from error
        self.device, self.failure = decoder.device, ""
        return decoder.decode

    def _become(self, other: "LazyDecoder") -> Decode:
        decode = other.start().result()
        self.model_version, self.device = other.model_version, other.device
        return decode
