"""A decoder that loads itself when it is first needed, so that a service answers from its first moment on."""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from backend import signals
from backend.errors import BackendError, Reason
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint

logger = logging.getLogger(__name__)

Decode: TypeAlias = Callable[[Embedding, Sequence[Prompt], bool | None], Masks]


class LoadingDecoder:
    """A decoder that is loaded once, by the first who needs it or by `start`; everybody else waits for that.

    Attributes:
        model_version: known before anything is loaded.
        device: where it runs, empty until it is loaded.
        failure: why it could not be loaded, empty when it could or has not been tried.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model_version, self.device, self.failure = checkpoint.model_version, "", ""
        self._checkpoint, self._wanted = checkpoint, device
        self._lock = threading.Lock()
        self._decode: Decode | None = None

    def start(self) -> None:
        """Load in the background."""
        threading.Thread(target=self._try, name="load-decoder", daemon=True).start()

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None) -> Masks:
        """Answer prompts about one image; see `model.predictor.Decoder.decode`.

        Raises:
            BackendError: the decoder cannot be loaded; the next call tries again.
        """
        return self._loaded()(embedding, prompts, multimask_output)

    def _try(self) -> None:
        with contextlib.suppress(BackendError):  # it is logged, and told on the status page
            self._loaded()

    def _loaded(self) -> Decode:
        with self._lock:
            if self._decode is None:
                self._decode = self._load()
            return self._decode

    def _load(self) -> Decode:
        try:
            with signals.kept():
                from model.predictor import load_decoder  # here: Paddle must not be imported before a fork

            decoder = load_decoder(self._checkpoint, self._wanted)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            logger.error("event=decoder_not_loaded detail=%r", self.failure)
            raise BackendError(f"the decoder cannot be loaded: {error}", Reason.MODEL_NOT_READY) from error
        self.device, self.failure = decoder.device, ""
        return decoder.decode
