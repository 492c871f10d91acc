"""Whole tasks: what Label Studio asks when a task is opened, and when somebody presses "Retrieve predictions".

Both look alike: no click, and tasks with the annotations and predictions they hold. As Label Studio 1.23.2 does it:

- The page of an opened task waits for the answer, and the button for that of all selected tasks, 100 s at most.
- An answer is stored as a prediction, an empty one too, and a task that has one of the current model version is never
  asked for again. An empty one would cost the task its masks for good when somebody draws boxes later. So a task that
  gets none is answered with no prediction at all. The exception are tasks that hold megabytes of masks and nothing to
  be made a mask: those would be sent with every opening.
- A task is asked for at its opening as long as it has no prediction whatever.

What people drew becomes masks where several tasks are asked for, which is always the button. One task alone may be an
opening, and whoever opens a task on which a colleague drew boxes must neither find predictions of them nor be led by
them, unless somebody wants predictions in that project: pressed the button there, or had some stored before. What
another model predicted is used even then: a task with predictions is not asked for at its opening, except where the
project prelabels tasks with this backend.

Tasks whose images are encoded are answered first. What is not ready in time goes on in the background and is stored
through Label Studio's API, where there is a key for it; without one, the button finds it encoded the next time.
"""

import time
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from backend.errors import BackendError, Reason, RetryLater
from backend.labeling import config, task_prompts
from backend.labeling.config_types import LabelConfig
from backend.labeling.task_prompts import Source, TaskPrompts
from backend.segmentation.claims import RecentlyAnswered
from backend.segmentation.tasks import TaskSegmenter
from backend.types import Prediction, PredictRequest, Task

AT_ONCE = 8
"""Tasks in hand at a time: enough for several workers, few enough for their image files to fit into memory."""

HEAVY_BYTES = 1 << 20
"""Annotations larger than this are not to be sent with every opening of their task."""

_DRAWN = (Source.BOXES, Source.KEYPOINTS)


@dataclass(frozen=True)
class DeferredTask:
    """A task that was not ready in time.

    Attributes:
        task: its id and data; what it held is in ``asked``.
        asked: its prompts.
        controls: the project's labeling config.
        project_id: its project.
        asked_at: when it was asked for, see `backend.segmentation.claims.RecentlyAnswered`.
        only_if_predictions_in_use: whether its masks are wanted only where the project holds this model's predictions.
    """

    task: Task
    asked: TaskPrompts
    controls: LabelConfig
    project_id: int | None
    asked_at: float
    only_if_predictions_in_use: bool = False

    @property
    def key(self) -> Hashable:
        """Tells tasks apart."""
        return self.project_id, self.task.id


class DeferredQueue(Protocol):
    """Makes predictions after the answer has gone out; see `backend.segmentation.deferred.DeferredPredictions`."""

    def add(self, late: Iterable[DeferredTask], /) -> None:
        """See to these tasks soon."""

    def answered(self, project_id: int, /) -> None:
        """See in a while that no task of a project was answered twice."""


class OpenedTaskPolicy(str, Enum):
    """Whether what people drew on a task becomes masks when that task alone is asked for, as at its opening.

    ``AUTO``: where somebody wants predictions in its project.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class RetrievalPolicy:
    """How requests about whole tasks are answered.

    Attributes:
        budget_s: how long one of them may take; below Label Studio's own 100 s.
        opened: what is answered where one task alone is asked for.
    """

    budget_s: float = 60.0
    opened: OpenedTaskPolicy = OpenedTaskPolicy.AUTO


@dataclass(frozen=True)
class _Asked:
    """What a task is asked for.

    Attributes:
        prompts: what it holds.
        answer: where there is nothing to be segmented.
        only_if_predictions_in_use: whether it may have to be segmented all the same.
    """

    prompts: TaskPrompts
    answer: Prediction | None = None
    only_if_predictions_in_use: bool = False


class Retrieval:
    """Answers requests about whole tasks; safe from many threads."""

    def __init__(
        self, segmenter: TaskSegmenter, claims: RecentlyAnswered, later: DeferredQueue | None, policy: RetrievalPolicy
    ) -> None:
        """Put the parts together.

        Args:
            segmenter: makes the predictions.
            claims: sees to it that a task is answered once; shared with ``later``.
            later: makes those that are not ready in time; None where they cannot be stored.
            policy: how to answer.
        """
        self._segmenter, self._claims, self._later, self._policy = segmenter, claims, later, policy
        self._wanted_in: set[int | None] = set()

    def answer(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one prediction per task, in order; those that are empty have their reasons."""
        try:
            controls = config.parse(request.label_config)
        except BackendError:  # a click will say so
            return tuple(self._none(Reason.NO_CONTEXT) for _ in request.tasks)
        asked_at, deadline = self._claims.now(), time.monotonic() + self._policy.budget_s
        is_alone, project_id = len(request.tasks) == 1, request.project_id
        answers: dict[int, Prediction] = {}
        marked: dict[int, DeferredTask] = {}
        late: list[DeferredTask] = []
        for place, task in enumerate(request.tasks):
            asked = self._prompts(task, project_id, is_alone)
            one = DeferredTask(
                Task(task.id, task.data),
                asked.prompts,
                controls,
                project_id,
                asked_at,
                asked.only_if_predictions_in_use,
            )
            if asked.answer is None:
                marked[place] = one
            else:
                answers[place] = asked.answer
                late += [one] if asked.only_if_predictions_in_use else []
        answers |= self._segmented(marked, deadline, waits=not is_alone)
        late += [one for place, one in marked.items() if place not in answers]
        if self._later is not None:
            self._later.add(late)
            if project_id is not None and any(one.result for one in answers.values()):
                self._later.answered(project_id)
        return tuple(answers.get(place) or self._left_over() for place in range(len(request.tasks)))

    def _prompts(self, task: Task, project_id: int | None, is_alone: bool) -> _Asked:
        """Return what a task is to be asked for, or its answer where that is nothing."""
        version = self._segmenter.model_version
        drawn = task_prompts.read(task, _DRAWN, version)
        if drawn.regions and self._are_wanted(project_id, is_alone):
            return _Asked(drawn)
        predicted = task_prompts.read(task, (Source.PREDICTIONS,), version)
        if predicted.regions:
            return _Asked(predicted)
        if drawn.regions:
            none = self._none(Reason.NO_CONTEXT, Reason.OPENED_TASK)
            return _Asked(drawn, none, only_if_predictions_in_use=self._policy.opened is OpenedTaskPolicy.AUTO)
        is_heavy = memoryview(task.annotations).nbytes > HEAVY_BYTES
        return _Asked(drawn, Prediction((), 0.0, version, (Reason.NO_CONTEXT,), should_store=is_heavy))

    def _are_wanted(self, project_id: int | None, is_alone: bool) -> bool:
        """Whether masks of what people drew are wanted."""
        if not is_alone:
            self._wanted_in.add(project_id)
            return True
        if self._policy.opened is OpenedTaskPolicy.AUTO:
            return project_id in self._wanted_in
        return self._policy.opened is OpenedTaskPolicy.ALWAYS

    def _segmented(self, marked: Mapping[int, DeferredTask], deadline: float, waits: bool) -> dict[int, Prediction]:
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

    def _tried(self, place: int, late: DeferredTask, deadline: float, wait: bool) -> dict[int, Prediction]:
        """Return a task's answer; none where it takes longer, or what is wrong may pass."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return {}
        try:
            made = self._segmenter.segment(
                late.task, late.asked, late.controls, late.project_id, left_s, deadline_s=left_s, wait=wait
            )
        except RetryLater:
            return {}
        if not made.result or not made.is_complete:  # Label Studio would keep a half, and never ask again
            return {place: self._none(*made.reasons)}
        is_known = late.project_id is not None and late.task.id is not None
        if is_known and not self._claims.take(late.key, late.asked_at):
            return {place: self._none(Reason.JUST_ANSWERED)}
        return {place: made}

    def _left_over(self) -> Prediction:
        if self._later is None:
            return self._none(Reason.BUDGET_EXCEEDED, Reason.LABEL_STUDIO_NOT_CONFIGURED)
        return self._none(Reason.BUDGET_EXCEEDED)

    def _none(self, *reasons: Reason) -> Prediction:
        return Prediction((), 0.0, self._segmenter.model_version, tuple(dict.fromkeys(reasons)), should_store=False)
