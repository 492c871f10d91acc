"""Finds the accepted mask that a negative point lies in: among the last answers, and in the request.

An accepted mask is in the request's drafts only after some seconds: Label Studio 1.23.2 saves a draft five seconds
after a change, and sends each annotator their own drafts only. The newest draft at the time of an answer is remembered
with it, so:

- While that is still the newest draft, nothing has been saved since: the answer counts, and it is the same annotator's.
- A newer draft that holds a prompt of the answer was saved before the answer was accepted or rejected, so the answer
  counts, too.
- Any other newer draft was saved after the answer was accepted or rejected. Only what it holds counts, as edited.
- Without a draft, before and now, an answer counts for `UNSAVED_S`: its annotator has a draft by then.

Answers with a prompt that the click holds too are not accepted yet, and answers with a prompt of a newer answer were
replaced by that. Masks of submitted annotations count where there is no draft and they are all of one annotator; the
request does not say which of several annotations is open.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from backend.errors import PromptError
from backend.protocol import annotations, json_fields
from backend.protocol import regions as protocol_regions
from backend.protocol.annotations import Saved
from backend.segmentation import shape_masks, shape_prompts
from backend.shapes import ShapeKind
from backend.types import PromptRegion, RecentAnswer, Task
from model.types import Mask

KINDS = frozenset((ShapeKind.BRUSH, ShapeKind.BITMASK, ShapeKind.POLYGON, ShapeKind.VECTOR))
"""Kinds of regions that hold a mask."""

UNSAVED_S = 10.0
"""How long an annotator may have no draft after an answer: five seconds, the request, and Label Studio's work."""


@dataclass(frozen=True, eq=False)
class AcceptedMask:
    """A region that an annotator accepted or drew, or may have accepted just now."""

    region: PromptRegion  # as it was saved, or answered
    mask: Mask  # its pixels, of the region's ``original_size``
    low_res_mask: npt.NDArray[np.float16] | None = None  # see `RecentAnswer`; None for a saved region

    def holds(self, x: int, y: int) -> bool:
        """Whether the pixel in column x and row y belongs to it."""
        left, top = self.mask.offset
        height, width = self.mask.crop.shape
        return 0 <= x - left < width and 0 <= y - top < height and bool(self.mask.crop[y - top, x - left])


_Candidate: TypeAlias = tuple[PromptRegion, npt.NDArray[np.float16] | None]


class _Id(msgspec.Struct):
    id: object = None


def draft_stamp(task: Task) -> str:
    """Return what identifies the newest draft of a task and its state, empty where there is none."""
    draft = _newest(task.drafts)
    return "" if draft is None else draft.stamp


def newest_first(
    task: Task,
    recent: Sequence[RecentAnswer],
    prompt_ids: Collection[str],
    fits: Callable[[PromptRegion], bool],
    now: float,
) -> Iterator[AcceptedMask]:
    """Yield the masks that an annotator may mean, the last answered or drawn first.

    Args:
        task: of the click.
        recent: the last answers about the task, oldest first.
        prompt_ids: of the click's prompts.
        fits: whether a region may be meant; the masks of others are not decoded.
        now: seconds since 1970.
    """
    draft = _newest(task.drafts)
    saved = _by_id(_submitted(task) if draft is None else draft.result)
    candidates = chain(_answered(recent, prompt_ids, draft, saved, now), _saved(saved))
    work_left = shape_prompts.MOST_WORK
    for region, low_res_mask in candidates:
        if region.original_size is None or not fits(region):
            continue
        if work_left <= 0:
            return
        if shape_prompts.outline_work(region.shape, region.original_size) > shape_prompts.MOST_WORK:
            continue
        in_full = shape_prompts.MASK_WORK * math.prod(region.original_size)  # polygons, too
        work_left -= max(in_full, shape_prompts.work(region.shape, region.original_size))
        with suppress(PromptError):  # damaged
            yield AcceptedMask(region, shape_masks.mask(region.shape, region.original_size), low_res_mask)


def _answered(
    recent: Sequence[RecentAnswer],
    prompt_ids: Collection[str],
    draft: Saved | None,
    saved: Mapping[str, object],
    now: float,
) -> Iterator[_Candidate]:
    """Yield the answers that count beside what is saved, newest first."""
    for answer in _current(recent, prompt_ids):
        if draft is None:
            counts = not answer.draft and now - answer.answered_at < UNSAVED_S
        else:
            counts = answer.draft == draft.stamp or not saved.keys().isdisjoint(answer.prompt_ids)
        if counts:
            yield answer.region, answer.low_res_mask


def _saved(saved: dict[str, list[msgspec.Raw]]) -> Iterator[_Candidate]:
    """Yield the saved regions that hold a mask, the last drawn first."""
    for entries in reversed(saved.values()):
        regions, _ = protocol_regions.read(entries, KINDS)
        yield from ((region, None) for region in regions)


def _current(recent: Sequence[RecentAnswer], prompt_ids: Collection[str]) -> Iterator[RecentAnswer]:
    """Yield the answers that no newer click replaced and that are about none of these prompts, newest first."""
    newer = set(prompt_ids)
    for _, answers_of_a_click in groupby(reversed(recent), key=lambda answer: answer.answered_at):
        answers = list(answers_of_a_click)
        yield from (answer for answer in answers if newer.isdisjoint(answer.prompt_ids))
        newer.update(*(answer.prompt_ids for answer in answers))


def _newest(saved: msgspec.Raw) -> Saved | None:
    return next(iter(annotations.newest_first(annotations.read(saved))), None)


def _submitted(task: Task) -> tuple[msgspec.Raw, ...]:
    """Return the regions of the newest annotation, none where there are several annotators'."""
    submitted = [annotation for annotation in annotations.read(task.annotations) if not annotation.is_cancelled]
    authors = {annotation.author for annotation in submitted}
    if len(authors) != 1 or (None in authors and len(submitted) > 1):  # some are of unknown annotators
        return ()
    return max(submitted, key=lambda annotation: annotation.changed_at).result


def _by_id(result: Iterable[msgspec.Raw]) -> dict[str, list[msgspec.Raw]]:
    """Return the entries of each region, in the order of the regions."""
    entries: dict[str, list[msgspec.Raw]] = {}
    for raw in result:
        try:
            name = json_fields.text(msgspec.json.decode(raw, type=_Id).id)
        except json_fields.DECODE_ERRORS:
            continue
        if name:
            entries.setdefault(name, []).append(raw)
    return entries
