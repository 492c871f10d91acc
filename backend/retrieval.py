"""Whole tasks: what Label Studio asks when a task is opened, and when somebody presses "Retrieve predictions".

Both look alike: no click, and tasks with the annotations and predictions they hold. As Label Studio 1.23.2 does it:

- The page of an opened task waits for the answer, and the button for that of all selected tasks, 100 s at most.
- An answer is stored as a prediction, an empty one too, and a task that has one of the current model version is never
  asked for again. An empty one would cost the task its masks for good when somebody draws boxes later. So a task that
  gets none is answered with no prediction at all. The exception are tasks that hold megabytes of masks and nothing to
  be made a mask: those would be sent with every opening.
- A task is asked for at its opening as long as it has no prediction whatever.

What people drew becomes masks only where several tasks are asked for, which is always the button. One task alone may
be an opening, and whoever opens a task on which a colleague drew boxes must neither find predictions of them nor be
led by them. What another model predicted is used even then: a task with predictions is not asked for at its opening,
unless the project prelabels tasks with this backend.

Tasks whose images are encoded are answered first. What is not ready in time goes on in the background and is stored
through Label Studio's API, where there is a key for it; without one, the button finds it encoded the next time.
"""

import logging
import time
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from backend import label_config, saved_prompts
from backend.claims import Claims
from backend.errors import BackendError, Reason, RetryLater
from backend.saved_prompts import Source, TaskPrompts
from backend.task_segmenter import TaskSegmenter
from backend.types import Controls, Prediction, PredictRequest, Task

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Tasks in hand at a time: enough for several workers, few enough for their image files to fit into memory."""

HEAVY_BYTES = 1 << 20
"""Annotations larger than this are not to be sent with every opening of their task."""

_DRAWN = (Source.BOXES, Source.KEYPOINTS)


@dataclass(frozen=True)
class Late:
    """A task that was not ready in time.

    Attributes:
        task: its id and data; what it held is in ``asked``.
        asked: its prompts.
        controls: the project's labeling config.
        project_id: its project.
        asked_at: when it was asked for, see `backend.claims.Claims`.
    """

    task: Task
    asked: TaskPrompts
    controls: Controls
    project_id: int | None
    asked_at: float

    @property
    def key(self) -> Hashable:
        """Tells tasks apart."""
        return self.project_id, self.task.id


class Later(Protocol):
    """Makes predictions after the answer has gone out; see `backend.pushing.Pushing`."""

    def add(self, late: Iterable[Late], /) -> None:
        """See to these tasks soon."""


@dataclass(frozen=True)
class RetrievalPolicy:
    """How requests about whole tasks are answered.

    Attributes:
        budget_s: how long one of them may take; below Label Studio's own 100 s.
        answers_opened: whether what people drew becomes masks even where one task alone is asked for, as at its
            opening.
    """

    budget_s: float = 60.0
    answers_opened: bool = False


class Retrieval:
    """Answers requests about whole tasks; safe from many threads."""

    def __init__(self, segmenter: TaskSegmenter, claims: Claims, later: Later | None, policy: RetrievalPolicy) -> None:
        """Put the parts together.

        Args:
            segmenter: makes the predictions.
            claims: sees to it that a task is answered once; shared with ``later``.
            later: makes those that are not ready in time; None where they cannot be stored.
            policy: how to answer.
        """
        self._segmenter, self._claims, self._later, self._policy = segmenter, claims, later, policy

    def answer(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one prediction per task, in order; those that are empty have their reasons."""
        try:
            controls = label_config.parse(request.label_config)
        except BackendError:  # a click will say so
            return tuple(self._none(Reason.NO_CONTEXT) for _ in request.tasks)
        asked_at, deadline = self._claims.now(), time.monotonic() + self._policy.budget_s
        answers: dict[int, Prediction] = {}
        marked: dict[int, Late] = {}
        for place, task in enumerate(request.tasks):
            found = self._prompts(task, is_alone=len(request.tasks) == 1)
            if isinstance(found, Prediction):
                answers[place] = found
            else:
                light = Task(task.id, task.data)
                marked[place] = Late(light, found, controls, request.project_id, asked_at)
        answers |= self._segmented(marked, deadline, waits=len(request.tasks) > 1)
        late = [one for place, one in marked.items() if place not in answers]
        if late:
            logger.info("event=late project=%s tasks=%d of=%d", request.project_id, len(late), len(request.tasks))
            if self._later is not None:
                self._later.add(late)
        return tuple(answers.get(place) or self._left_over() for place in range(len(request.tasks)))

    def _prompts(self, task: Task, is_alone: bool) -> TaskPrompts | Prediction:
        """Return what a task is to be asked for, or its answer where that is nothing."""
        version = self._segmenter.model_version
        drawn = saved_prompts.read(task, _DRAWN, version)
        if drawn.regions and (not is_alone or self._policy.answers_opened):
            return drawn
        predicted = saved_prompts.read(task, (Source.PREDICTIONS,), version)
        if predicted.regions:
            return predicted
        if drawn.regions:
            return self._none(Reason.NO_CONTEXT, Reason.OPENED_TASK)
        is_heavy = memoryview(task.annotations).nbytes > HEAVY_BYTES
        return Prediction((), 0.0, version, (Reason.NO_CONTEXT,), is_final=is_heavy)

    def _segmented(self, marked: Mapping[int, Late], deadline: float, waits: bool) -> dict[int, Prediction]:
        """Return the answers that are ready in time, by their place; those of encoded images are made first."""
        answers: dict[int, Prediction] = {}
        for place, one in marked.items():
            answers |= self._tried(place, one, deadline, wait=False)
        rest = [(place, one) for place, one in marked.items() if place not in answers]
        if rest and waits:
            with ThreadPoolExecutor(min(AT_ONCE, len(rest)), thread_name_prefix="retrieve") as pool:
                for found in pool.map(lambda one: self._tried(one[0], one[1], deadline, wait=True), rest):
                    answers |= found
        return answers

    def _tried(self, place: int, late: Late, deadline: float, wait: bool) -> dict[int, Prediction]:
        """Return a task's answer; none where it takes longer, or what is wrong may pass."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return {}
        try:
            made = self._segmenter.segment(late.task, late.asked, late.controls, late.project_id, left_s, wait=wait)
        except RetryLater:
            return {}
        if not made.result:
            return {place: self._none(*made.reasons)}
        if late.task.id is not None and not self._claims.take(late.key, late.asked_at):
            return {place: self._none(Reason.SUPERSEDED)}
        return {place: made}

    def _left_over(self) -> Prediction:
        if self._later is None:
            return self._none(Reason.BUDGET_EXCEEDED, Reason.LABEL_STUDIO_NOT_CONFIGURED)
        return self._none(Reason.BUDGET_EXCEEDED)

    def _none(self, *reasons: Reason) -> Prediction:
        return Prediction((), 0.0, self._segmenter.model_version, tuple(dict.fromkeys(reasons)), is_final=False)
