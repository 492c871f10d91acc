"""Answers requests about whole tasks: those of an opened task and of the button "Retrieve predictions".

Label Studio sends the same request for both: no click, and tasks with their annotations and predictions. Label Studio
1.23.2 handles the answers as follows:

- The page of an opened task waits for the answer, and the button for the answers of all selected tasks, at most 100 s.
- An answer is stored as a prediction, even an empty one, and a task that has a prediction of the current model version
  is never requested again. An empty prediction would therefore prevent masks for boxes that an annotator draws later,
  so a task without masks is answered with no prediction at all. The exception is a task that holds megabytes of masks
  and no prompts: without a stored prediction it would be sent at every opening.
- A task is requested at its opening as long as it has no prediction of any version.

Annotators' shapes become masks in a request for several tasks, which always comes from the button. A request for a
single task may come from opening it. An annotator who opens a task on which a colleague drew boxes must neither see
predictions for them nor be influenced by them, unless the button was pressed in that project before. Another model's
predictions are used even then: a task with predictions is not requested at its opening, except where the project
prelabels tasks with this backend.

Tasks whose images are encoded are answered first. Tasks that are not ready in time are processed in the background and
stored through Label Studio's API if an API key is set; without one, the next press of the button finds them encoded.
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
from backend.labeling.task_prompts import PromptSource, TaskPrompts
from backend.segmentation.recently_answered import RecentlyAnswered
from backend.segmentation.tasks import TaskSegmenter
from backend.types import Prediction, PredictRequest, Task

AT_ONCE = 8
"""Tasks processed at a time: enough for several workers, few enough for their image files to fit into memory."""

HEAVY_BYTES = 1 << 20
"""A task with larger annotations and no prompts is answered with an empty prediction, so that it is not sent again."""

_ANNOTATED = (PromptSource.BOXES, PromptSource.KEYPOINTS)


@dataclass(frozen=True)
class DeferredTask:
    """A task that was not ready in time."""

    task: Task  # its id and data; its annotations and predictions are left out
    prompts: TaskPrompts
    controls: LabelConfig
    project_id: int | None
    requested_at: float  # time of the request, see `backend.segmentation.recently_answered.RecentlyAnswered`

    @property
    def key(self) -> Hashable:
        """Identifies the task: its project's id and its own."""
        return self.project_id, self.task.id


class DeferredQueue(Protocol):
    """Makes predictions after the answer was sent; see `backend.segmentation.deferred.DeferredPredictions`."""

    def add(self, tasks: Iterable[DeferredTask], /) -> None:
        """Queue these tasks."""

    def answered(self, project_id: int, /) -> None:
        """Schedule the deletion of duplicate predictions in a project."""


class OpenedTaskPolicy(str, Enum):
    """Whether annotators' shapes become masks in a request for a single task, as sent at its opening.

    ``AUTO``: if several tasks of its project were requested at once before.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class RetrievalPolicy:
    """Settings for requests about whole tasks."""

    wait_s: float = 60.0  # how long a request may take; below Label Studio's own timeout of 100 s
    opened: OpenedTaskPolicy = OpenedTaskPolicy.AUTO  # how a request for a single task is answered


class Retrieval:
    """Answers requests about whole tasks; thread-safe."""

    def __init__(
        self,
        segmenter: TaskSegmenter,
        answered: RecentlyAnswered,
        deferred: DeferredQueue | None,
        policy: RetrievalPolicy,
    ) -> None:
        """Take what makes predictions in time, and later (``deferred``; None if they cannot be stored then)."""
        self._segmenter, self._answered, self._deferred, self._policy = segmenter, answered, deferred, policy
        self._requested_projects: set[int | None] = set()

    def answer(self, request: PredictRequest) -> tuple[Prediction, ...]:
        """Return one prediction per task, in order; empty ones carry their reasons."""
        try:
            controls = config.parse(request.label_config)
        except BackendError:  # a click reports it
            return tuple(self._no_prediction(request.project_id, Reason.NO_CONTEXT) for _ in request.tasks)
        requested_at, deadline = self._answered.now(), time.monotonic() + self._policy.wait_s
        is_alone, project_id = len(request.tasks) == 1, request.project_id
        answers: dict[int, Prediction] = {}
        to_segment: dict[int, DeferredTask] = {}
        for index, task in enumerate(request.tasks):
            prompts = self._prompts(task, project_id, is_alone)
            if isinstance(prompts, Prediction):
                answers[index] = prompts
            else:
                to_segment[index] = DeferredTask(Task(task.id, task.data), prompts, controls, project_id, requested_at)
        answers |= self._segment_all(to_segment, deadline, waits=not is_alone)
        not_in_time = self._no_prediction(project_id, Reason.BUDGET_EXCEEDED, Reason.LABEL_STUDIO_NOT_CONFIGURED)
        if self._deferred is not None:
            not_in_time = self._no_prediction(project_id, Reason.BUDGET_EXCEEDED)
            self._deferred.add(task for index, task in to_segment.items() if index not in answers)
            if project_id is not None and any(answer.result for answer in answers.values()):
                self._deferred.answered(project_id)
        return tuple(answers.get(index, not_in_time) for index in range(len(request.tasks)))

    def _prompts(self, task: Task, project_id: int | None, is_alone: bool) -> TaskPrompts | Prediction:
        """Return the prompts to segment for a task, or its answer where there are none to segment."""
        version = self._segmenter.version_of(project_id)
        annotated = task_prompts.read(task, _ANNOTATED, version)
        if annotated.regions and self._uses_annotations(project_id, is_alone):
            return annotated
        predicted = task_prompts.read(task, (PromptSource.PREDICTIONS,), version)
        if predicted.regions:
            return predicted
        if annotated.regions:
            return self._no_prediction(project_id, Reason.NO_CONTEXT, Reason.OPENED_TASK)
        is_heavy = memoryview(task.annotations).nbytes > HEAVY_BYTES
        return Prediction((), 0.0, version, (Reason.NO_CONTEXT,), should_store=is_heavy)

    def _uses_annotations(self, project_id: int | None, is_alone: bool) -> bool:
        """Whether annotators' shapes become masks."""
        if not is_alone:
            self._requested_projects.add(project_id)
            return True
        if self._policy.opened is OpenedTaskPolicy.AUTO:
            return project_id in self._requested_projects
        return self._policy.opened is OpenedTaskPolicy.ALWAYS

    def _segment_all(self, tasks: Mapping[int, DeferredTask], deadline: float, waits: bool) -> dict[int, Prediction]:
        """Return the answers that are ready in time, by the task's index; those of encoded images are made first."""
        answers = {index: self._try(task, deadline, wait=False) for index, task in tasks.items()}
        rest = {index: task for index, task in tasks.items() if answers[index] is None}
        if rest and waits:
            with ThreadPoolExecutor(min(AT_ONCE, len(rest)), thread_name_prefix="retrieve") as pool:
                late = pool.map(lambda task: self._try(task, deadline, wait=True), rest.values())
                answers |= zip(rest, late, strict=True)
        return {index: answer for index, answer in answers.items() if answer is not None}

    def _try(self, task: DeferredTask, deadline: float, wait: bool) -> Prediction | None:
        """Return a task's answer; None where it takes longer or a later attempt may succeed."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return None
        try:
            prediction = self._segmenter.segment(
                task.task, task.prompts, task.controls, task.project_id, left_s, within_s=left_s, wait=wait
            )
        except RetryLater:
            return None
        if not prediction.result or not prediction.is_complete:  # Label Studio would store it, and never ask again
            return self._no_prediction(task.project_id, *prediction.reasons)
        has_ids = task.project_id is not None and task.task.id is not None
        if has_ids and not self._answered.try_claim(task.key, task.requested_at):
            return self._no_prediction(task.project_id, Reason.JUST_ANSWERED)
        return prediction

    def _no_prediction(self, project_id: int | None, *reasons: Reason) -> Prediction:
        version = self._segmenter.version_of(project_id)
        return Prediction((), 0.0, version, tuple(dict.fromkeys(reasons)), should_store=False)
