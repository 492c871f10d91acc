"""From prompts about an image to the regions that show its objects: decode, then draw. Clicks and whole tasks share it.

An image's embedding takes its prompts in pixels of any copy of the photo that has its proportions; see `at_size`.
Browsers do not agree about which files are to be turned. Where the size that one shows fits only the photo turned the
other way, prompts are turned as the embedding is, and its masks are turned back: no image is encoded twice.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.embeddings.encode import is_out_of_memory
from backend.errors import BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images import orientation
from backend.labeling.config_types import OutputTag
from backend.metrics import Metrics
from backend.segmentation import regions
from backend.shapes import ShapeKind
from backend.types import ObjectPrompt, Region
from model.errors import CapabilityError
from model.types import Embedding, Mask, Masks, Prompt

logger = logging.getLogger(__name__)

SCALE_TOLERANCE = 0.01
"""How far the two sides of a picture may be scaled apart before it counts as another picture."""

SHOWN_PIXELS = 1 << 25
"""What a browser may show of however small a photo: a camera's picture, of which a thumbnail was fetched."""

SHOWN_TIMES = 4
"""How many times the pixels of a photo a browser may show where that is more: twice its width and height."""


class Decoder(Protocol):
    """Turns prompts about an embedding into masks; see `model.decoder.Decoder`."""

    model_version: str

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None, /) -> Masks:
        """Return one entry per prompt, in order."""


class MaskService:
    """Decodes prompts and draws their masks; safe from many threads.

    Attributes:
        model_version: name and digest of the weights.
        turns: at the decoder; see `turn`.
    """

    def __init__(
        self,
        decoder: Decoder,
        metrics: Metrics,
        decodes_at_once: int,
        wait_for_decoder: Callable[[float], None] = lambda within_s: None,
    ) -> None:
        """Put the parts together.

        Args:
            decoder: turns prompts into masks.
            metrics: times the work.
            decodes_at_once: how many threads may be at the decoder.
            wait_for_decoder: returns once the decoder is loaded, and raises where that takes longer than so many
                seconds; see `backend.segmentation.lazy_decoder.LazyDecoder.wait`.
        """
        self.model_version = decoder.model_version
        self.turns = FifoLimiter(decodes_at_once)
        self._decoder, self._metrics, self._wait_for_decoder = decoder, metrics, wait_for_decoder

    @contextmanager
    def turn(self, deadline: float = math.inf) -> Iterator[None]:
        """Take a turn, to be held around `draw`, so that few are decoded at a time and the others wait in order.

        Nobody holds a turn while the decoder is being loaded.

        Args:
            deadline: how long to wait for both, in seconds on the monotonic clock.

        Raises:
            RetryLater: the decoder was not loaded in time (``model_not_ready``), or the turn did not come
                (``budget_exceeded``).
            BackendError: the decoder cannot be loaded.
        """
        self._wait_for_decoder(max(0.0, deadline - time.monotonic()))
        with self.turns.within(deadline - time.monotonic()):
            yield

    def draw(self, asked: Sequence[tuple[ObjectPrompt, OutputTag]], embedding: Embedding) -> list[Region]:
        """Return the regions of objects on one image, all decoded together.

        Raises:
            BackendError: the prompts cannot be decoded, or are about another picture.
        """
        found: list[Region] = []
        for size in dict.fromkeys(one.original_size for one, _ in asked):  # one, unless a caller mixes several pictures
            chosen = [(one, output) for one, output in asked if one.original_size == size]
            turn = turn_of(embedding, size)
            prompts = [one.prompt for one, _ in chosen]
            if turn != 1:
                back = orientation.inverse(turn)
                prompts = [orientation.turned_prompt(prompt, back, size) for prompt in prompts]
            masks = self._decode(at_size(embedding, size), prompts)
            for index, (one, output) in enumerate(chosen):
                score = None if masks.iou_predictions is None else masks.iou_predictions[index][0]
                mask = masks.masks[index][0]
                found += self.show(orientation.turned_mask(mask, turn) if turn != 1 else mask, one, output, score)
        return found

    def show(self, mask: Mask, prompt: ObjectPrompt, output: OutputTag, score: float | None) -> tuple[Region, ...]:
        """Return the regions that show a mask, see `backend.segmentation.regions.draw`; how long it took is noted."""
        with self._metrics.stage("rle" if output.control.kind is ShapeKind.BRUSH else "postprocess"):
            return regions.draw(mask, prompt, output, score)

    def _decode(self, embedding: Embedding, asked: Sequence[Prompt]) -> Masks:
        try:
            with self._metrics.stage("decoder"):
                return self._decoder.decode(embedding, asked)
        except BackendError:
            raise
        except CapabilityError as error:
            raise RequestError(str(error), Reason.UNSUPPORTED_PROMPT) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise RetryLater("not enough memory to decode", Reason.OUT_OF_MEMORY) from error
            logger.exception("event=decode_failed")
            raise BackendError(f"the prompts cannot be decoded: {error}", Reason.DECODE_FAILED) from error


def at_size(embedding: Embedding, size: tuple[int, int], max_pixels: int | None = None) -> Embedding:
    """Return the embedding as if the photo had ``size`` (height, width), the size the annotator's browser tells.

    A browser may hold a scaled copy of the photo; prompts and masks are then in pixels of that copy. They take memory
    and time by that size, which is no more than what somebody says: see `SHOWN_TIMES`.

    Args:
        embedding: of the photo.
        size: of the copy.
        max_pixels: what no copy may have more of than the photo itself; None sets no such limit.

    Returns:
        The embedding, turned as it is: where the browser turns the photo the other way, its height is the copy's width.

    Raises:
        ImageError: the photo is not a scaled copy, however it is turned, or it would have to be enlarged beyond reason
            (``size_mismatch``).
    """
    turn = turn_of(embedding, size)
    photo_pixels = math.prod(embedding.original_size)
    most = max(SHOWN_PIXELS, SHOWN_TIMES * photo_pixels)
    most = max(photo_pixels, most if max_pixels is None else min(most, max_pixels))
    if math.prod(size) > most:
        raise _mismatch(embedding, size, f"; expected at most {most:,} pixels")
    own = orientation.turned_size(size, turn)
    return embedding if embedding.original_size == own else replace(embedding, original_size=own)


def turn_of(embedding: Embedding, size: tuple[int, int]) -> int:
    """Return the orientation that takes the photo to a picture of ``size`` (height, width): 1 for a scaled copy.

    Raises:
        ImageError: it is another picture (``size_mismatch``).
    """
    for turn in dict.fromkeys((1, embedding.other_orientation)):
        photo = orientation.turned_size(embedding.original_size, turn)
        long, short = (0, 1) if photo[0] >= photo[1] else (1, 0)
        expected = photo[short] * size[long] / photo[long]
        if abs(size[short] - expected) <= SCALE_TOLERANCE * expected + 1:  # a pixel, since sides are whole
            return turn
    raise _mismatch(embedding, size)


def _mismatch(embedding: Embedding, size: tuple[int, int], detail: str = "") -> ImageError:
    (height, width), (shown_height, shown_width) = embedding.original_size, size
    shown = f"{shown_width} x {shown_height}{detail}"
    return ImageError(
        f"the photo has {width} x {height} pixels, the annotator's browser shows {shown}", Reason.SIZE_MISMATCH
    )
