"""Remembers the last answers to clicks: an accepted mask is in Label Studio only seconds later.

Answers are remembered under project, task, image and region. Whose they are is known by the draft that the click came
with, see `backend.segmentation.corrections.accepted_masks`.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from cachetools import TTLCache

from backend.embeddings.content_index import source_key
from backend.shapes import Bitmask, Brush, Polygon, Vector
from backend.types import ImageRef, ObjectPrompt, PromptRegion, RecentAnswer, Region
from model.types import FloatArray

Answered: TypeAlias = tuple[Region, ObjectPrompt, FloatArray | None]
"""A region of an answer, what it was made of, and the decoder's logits; None where these are not known."""

TaskKey: TypeAlias = tuple[int, int, str]
"""A project's id, a task's, and a digest of the image's address."""

MAX_BYTES = 64_000_000
"""Memory of one process for all answers: about 450."""

LASTS_S = 1800.0
"""How long the answers on an image are remembered after the last click on it."""

MOST_ON_AN_IMAGE = 16
"""Answers on one image of a task; the oldest are forgotten first."""


class SharedAnswers(Protocol):
    """The answers of all web processes; see `backend.segmentation.corrections.redis_answers.RedisAnswers`."""

    def add(self, key: TaskKey, answers: Sequence[RecentAnswer], /) -> None:
        """Add answers, oldest first."""

    def on(self, key: TaskKey, /) -> tuple[RecentAnswer, ...]:
        """Return the answers on an image, oldest first; none while they cannot be read."""


class RecentAnswers:
    """The last answers on each image of a task; thread-safe.

    >>> RecentAnswers().on(ImageRef("/data/upload/1/photo.jpg", task_id=7, project_id=1))
    ()
    """

    def __init__(
        self,
        shared: SharedAnswers | None = None,
        later: Callable[[Callable[[], None]], None] = lambda task: task(),
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Remember up to ``max_bytes`` of answers.

        Args:
            shared: the answers of other processes, too.
            later: runs what passes an answer on to them, which may take as long as Redis takes to answer.
            max_bytes: memory of the answers.
            clock: seconds since 1970, which all processes share.
        """
        self.clock = clock
        self._shared, self._later, self._max_bytes = shared, later, max_bytes
        self._by_image: TTLCache[TaskKey, tuple[RecentAnswer, ...]] = TTLCache(max_bytes, LASTS_S, clock, _nbytes)
        self._lock = threading.Lock()

    def add(self, ref: ImageRef, answered: Sequence[Answered], draft: str) -> None:
        """Remember the masks that a click on an image of a task was answered with.

        ``draft`` is the stamp of the annotator's newest draft in the request.
        """
        key, now = _key(ref), self.clock()
        answers = tuple(_answer(*entry, draft, now) for entry in answered[-MOST_ON_AN_IMAGE:] if _is_kept(*entry))
        if key is None or not answers:
            return
        with self._lock:
            kept = (*self._by_image.pop(key, ()), *answers)[-MOST_ON_AN_IMAGE:]
            while kept and _nbytes(kept) > self._max_bytes:
                kept = kept[1:]
            self._by_image[key] = kept
        if (shared := self._shared) is not None:
            self._later(lambda: shared.add(key, answers))

    def on(self, ref: ImageRef) -> tuple[RecentAnswer, ...]:
        """Return the answers on an image of a task, oldest first."""
        key = _key(ref)
        if key is None:
            return ()
        with self._lock:
            own = self._by_image.get(key, ())
        others = () if self._shared is None else self._shared.on(key)
        by_id = {(answer.answered_at, answer.region.id): answer for answer in (*others, *own)}
        return tuple(sorted(by_id.values(), key=lambda answer: answer.answered_at))


def _key(ref: ImageRef) -> TaskKey | None:
    """Return what identifies an image of a task; None for a caller who does not name the task."""
    if ref.project_id is None or ref.task_id is None:
        return None
    return ref.project_id, ref.task_id, source_key(ref)[1]


def _answer(
    region: Region, prompt: ObjectPrompt, low_res_mask: FloatArray | None, draft: str, now: float
) -> RecentAnswer:
    limit = np.finfo(np.float16).max
    return RecentAnswer(
        PromptRegion(
            id=region.id,
            shape=region.shape,
            from_name=region.control,
            to_name=region.to_name,
            labels=region.labels,
            original_size=region.original_size,
            item_index=region.item_index,
        ),
        tuple(name for name in prompt.region_ids if name != prompt.replaces),
        draft,
        now,
        None if low_res_mask is None else low_res_mask.clip(-limit, limit).astype(np.float16),
    )


def _is_kept(region: Region, prompt: ObjectPrompt, _: FloatArray | None) -> bool:
    """Whether it is a mask whose prompts have ids of their own, from an editor."""
    is_mask = isinstance(region.shape, Brush | Bitmask | Polygon | Vector)
    return is_mask and not any(name.startswith("#") for name in prompt.region_ids)


def _nbytes(answers: Sequence[RecentAnswer]) -> int:
    return sum(answer.nbytes for answer in answers)
