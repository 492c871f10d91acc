"""Decodes prompts about an image into masks and converts these to regions; used for clicks and whole tasks.

An image's embedding takes its prompts in pixels of any copy of the photo that has its proportions; see `at_size`.
Browsers disagree about which files to rotate. Where the size that a browser shows fits only the photo in the other
orientation, prompts are rotated to the embedding's orientation and its masks are rotated back, so that no image is
encoded twice.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.embeddings.encode import is_out_of_memory
from backend.errors import BackendError, ImageError, Reason, RequestError, RetryLater
from backend.labeling.config_types import OutputTag
from backend.metrics import Metrics
from backend.segmentation import regions
from backend.shapes import DEFAULT_DETAIL, Detail, ShapeKind
from backend.types import ObjectPrompt, Region
from model.errors import CapabilityError
from model.images import orientation
from model.types import Embedding, FloatArray, Mask, Masks, Prompt

logger = logging.getLogger(__name__)

SCALE_TOLERANCE = 0.01
"""Maximum relative difference between the scales of the two sides; beyond it the size is another picture's."""

SHOWN_PIXELS = 1 << 25
"""Pixels that a browser may show of a photo of any size: a camera's picture, of which a thumbnail was fetched."""

SHOWN_TIMES = 4
"""How many times the photo's pixels a browser may show, if that is more than `SHOWN_PIXELS`: twice width and height."""


@dataclass(frozen=True, eq=False)
class DecodedObject:
    """What the decoder found for one object."""

    mask: Mask  # in pixels of the object's ``original_size``
    score: float | None  # the predicted IoU; None where the weights predict none
    # (low_res_size, low_res_size) float32 logits in the frame of the image's embedding, whichever way a browser rotates
    # the photo; fit for ``Prompt.mask_input`` of the same image
    low_res_mask: FloatArray


class Decoder(Protocol):
    """Turns prompts about an embedding into masks; see `backend.decoders.lazy_decoder.LazyDecoder`."""

    model_version: str

    def wait(self, within_s: float, /) -> None:
        """Return once it is loaded, and raise if that takes longer."""

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt], multimask_output: bool | None = None, /) -> Masks:
        """Return one entry per prompt, in order."""


class MaskService:
    """Decodes prompts and converts their masks to regions; thread-safe.

    ``decoder_of`` returns the decoder that serves a project now; a request asks once and keeps it to its end. ``slots``
    bounds the threads that decode. ``detail`` is how closely regions follow their masks, where the labeling config does
    not say.
    """

    def __init__(
        self,
        decoder_of: Callable[[int | None], Decoder],
        metrics: Metrics,
        decodes_at_once: int,
        detail: Detail = DEFAULT_DETAIL,
    ) -> None:
        """Create the service around the decoders, which ``decodes_at_once`` threads may use at a time."""
        self.decoder_of = decoder_of
        self.slots = FifoLimiter(decodes_at_once)
        self._metrics, self._detail = metrics, detail

    @contextmanager
    def slot(self, decoder: Decoder, deadline: float = math.inf) -> Iterator[None]:
        """Hold a slot around `decode` until ``deadline`` (monotonic, in s): few threads decode, in order.

        No slot is held while ``decoder`` is being loaded.

        Raises:
            RetryLater: the decoder was not loaded in time (``model_not_ready``), or no slot became free
                (``budget_exceeded``).
            BackendError: the decoder cannot be loaded.
        """
        decoder.wait(max(0.0, deadline - time.monotonic()))
        with self.slots.slot(deadline - time.monotonic()):
            yield

    def decode(self, decoder: Decoder, objects: Sequence[ObjectPrompt], embedding: Embedding) -> list[DecodedObject]:
        """Return what the model finds for each object on one image, all decoded together; raises `BackendError`."""
        answers: dict[int, DecodedObject] = {}
        for size in dict.fromkeys(prompt.original_size for prompt in objects):  # one, unless pictures are mixed
            indexes = [index for index, prompt in enumerate(objects) if prompt.original_size == size]
            turn = turn_of(embedding, size)
            prompts = [objects[index].prompt for index in indexes]
            if turn != 1:
                back = orientation.inverse(turn)
                prompts = [orientation.turned_prompt(prompt, back, size) for prompt in prompts]
            masks = self._decode(decoder, at_size(embedding, size), prompts)
            for row, index in enumerate(indexes):
                mask = masks.masks[row][0]
                score = None if masks.iou_predictions is None else masks.iou_predictions[row][0]
                mask = mask if turn == 1 else orientation.turned_mask(mask, turn)
                answers[index] = DecodedObject(mask, score, masks.low_res_masks[row][0])
        return [answers[index] for index in range(len(objects))]

    def draw(self, mask: Mask, prompt: ObjectPrompt, output: OutputTag, score: float | None) -> tuple[Region, ...]:
        """Return the regions that show a mask, see `backend.segmentation.regions.draw`, and time that as a stage.

        The score of a detector, where one found the object, comes before the model's.
        """
        score = score if prompt.score is None else prompt.score
        with self._metrics.stage("rle" if output.control.kind is ShapeKind.BRUSH else "postprocess"):
            return regions.draw(mask, prompt, output, score, self._detail)

    def _decode(self, decoder: Decoder, embedding: Embedding, prompts: Sequence[Prompt]) -> Masks:
        try:
            with self._metrics.stage("decoder"):
                return decoder.decode(embedding, prompts)
        except BackendError:
            raise
        except CapabilityError as error:
            raise RequestError(str(error), Reason.UNSUPPORTED_PROMPT) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise RetryLater("not enough memory to decode", Reason.OUT_OF_MEMORY) from error
            logger.exception("event=decode_failed")
            raise BackendError(f"the prompts cannot be decoded: {error}", Reason.DECODE_FAILED) from error


def at_size(embedding: Embedding, size: tuple[int, int]) -> Embedding:
    """Return the embedding as if the photo had ``size`` (height, width), the size that the annotator's browser reports.

    A browser may show a scaled copy of the photo; prompts and masks are then in pixels of that copy. The embedding
    keeps its own orientation: where the browser rotates the photo the other way, its height is the copy's width. Raises
    as `check_size`.
    """
    own = orientation.turned_size(size, check_size(embedding, size))
    return embedding if embedding.original_size == own else embedding.at_size(own)


def check_size(embedding: Embedding, size: tuple[int, int], max_pixels: int | None = None) -> int:
    """Check that a browser may show the photo at ``size`` (height, width); return its orientation, see `turn_of`.

    The memory and time of masks grow with that size, which the caller chooses freely, so a copy that is larger than the
    photo is limited to `SHOWN_TIMES` its sides and ``max_pixels``.

    Raises:
        ImageError: the copy does not have the photo's proportions in any orientation, or it has more pixels than
            allowed (``size_mismatch``).
    """
    turn = turn_of(embedding, size)
    photo_pixels = math.prod(embedding.original_size)
    most = max(SHOWN_PIXELS, SHOWN_TIMES * photo_pixels)
    most = max(photo_pixels, most if max_pixels is None else min(most, max_pixels))
    if math.prod(size) > most:
        raise _mismatch(embedding, size, f"; expected at most {most:,} pixels")
    return turn


def turn_of(embedding: Embedding, size: tuple[int, int]) -> int:
    """Return the EXIF orientation that takes the photo to a picture of ``size`` (height, width): 1 for a scaled copy.

    If no orientation of the photo has these proportions, it is an `ImageError` (``size_mismatch``).
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
