"""The values that the backend's folders exchange, from requests to regions: frozen and validated.

Frames: *percent* is percent of the image as the browser shows it before the view is rotated (x of the width, y of the
height), *original pixels* are (x, y) in the image as the browser shows it. Sizes are (height, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

from backend.errors import Reason
from backend.shapes import Bitmask, Brush, KeyPoint, Polygon, Shape, Vector
from backend.words import TypedText, WordQuery

if TYPE_CHECKING:  # NumPy takes a tenth of a second to import, for which --help must not wait
    import numpy as np
    import numpy.typing as npt

    from model.types import Prompt


def _nothing() -> msgspec.Raw:
    return msgspec.Raw(b"[]")


def _check_size(name: str, size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: expected (height, width) of at least 1, got {size}")


@dataclass(frozen=True)
class PromptRegion:
    """One region of a click's context: a shape an annotator drew to say where the object is."""

    id: str
    shape: Shape
    from_name: str  # the control tag it was drawn with
    to_name: str  # the object tag it was drawn on
    labels: tuple[str, ...] = ()  # its labels, most specific source first; empty when it has none
    # whether it marks the object (True) or what is not the object (False); None where the editor gave no sign
    is_positive: bool | None = None
    # (H, W) of the image as the browser shows it, None where the editor gave none
    original_size: tuple[int, int] | None = None
    image_rotation: int = 0  # degrees clockwise by which the annotator has turned the view, 0, 90, 180 or 270
    item_index: int | None = None  # which image of a list it was drawn on, None on single images
    score: float | None = None  # of the detector that drew it, 0 to 1, which the object's mask gets

    def __post_init__(self) -> None:
        if self.original_size is not None:
            _check_size("original_size", self.original_size)


def lone_negative_points(regions: Sequence[PromptRegion]) -> tuple[PromptRegion, ...]:
    """Return the negative points of a click that has no other prompt; none where it has one.

    Points without a sign are no prompts beside signed ones.
    """
    if not all(isinstance(region.shape, KeyPoint) and region.is_positive is not True for region in regions):
        return ()
    return tuple(region for region in regions if region.is_positive is False)


@dataclass(frozen=True)
class Skipped:
    """A region of the context that is not used as a prompt, with the reason."""

    region_id: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Task:
    """One Label Studio task."""

    id: int | None
    data: object = None  # the task's data, any JSON value; only ``backend.labeling.config`` looks inside
    # what annotators saved, as unread JSON; megabytes of masks, so it is parsed only where needed
    annotations: msgspec.Raw = field(default_factory=_nothing)
    drafts: msgspec.Raw = field(default_factory=_nothing)  # as `annotations`, what they have not submitted yet
    predictions: msgspec.Raw = field(default_factory=_nothing)  # as `annotations`, what models answered


@dataclass(frozen=True)
class PredictRequest:
    """A request for masks: of a click (``context`` given), or of whole tasks (``context`` None)."""

    tasks: tuple[Task, ...]  # in the order that the answer must have
    project_id: int | None = None
    label_config: str = ""
    # the prompts of a click, oldest first; None when this is not a click
    context: tuple[PromptRegion, ...] | None = None
    skipped: tuple[Skipped, ...] = ()
    texts: tuple[TypedText, ...] = ()


@dataclass(frozen=True)
class SetupRequest:
    """What Label Studio sends when it connects or opens a project, as far as it is read."""

    project_id: int | None
    label_config: str


@dataclass(frozen=True, repr=False)
class Secret:
    """A credential whose value is hidden when it is printed.

    >>> Secret("s3cret")
    Secret(***)
    """

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class WebhookEvent:
    """An event in a project, as a webhook delivers it."""

    action: str  # Label Studio's name of the event, e.g. ``TASKS_CREATED``; empty where the caller gave none
    project_id: int | None = None
    label_config: str = ""  # the project's labeling config, empty where the event does not carry it
    tasks: tuple[Task, ...] = ()  # the tasks it is about, with their data where the event carries them
    annotations: int = 0  # how many were submitted in the project; 0 where the event does not say


class Priority(IntEnum):
    """The order in which waiting work is done; the lowest value first."""

    INTERACTIVE = 0
    PREFETCH = 1
    BULK = 2


@dataclass(frozen=True)
class ImageRef:
    """The address of an image in a task's data, with its task and project; plain values, so that a queue can hold it.

    >>> ImageRef("/data/upload/1/photo.jpg", task_id=7, project_id=1).item_index is None
    True
    """

    uri: str  # as the task's data spells it: absolute, relative to Label Studio, ``data:`` or a cloud address
    task_id: int | None = None  # the task that shows it; cloud addresses are resolved through it
    project_id: int | None = None
    item_index: int | None = None  # its place in a list of images, None on single images
    words: WordQuery | None = None  # what a detector looks for on it; None where only its embedding is needed

    def __post_init__(self) -> None:
        if not self.uri:
            raise ValueError("uri: expected an address, got an empty string")


@dataclass(frozen=True)
class ObjectPrompt:
    """The prompts that mark one object, translated into the model's terms."""

    prompt: "Prompt"  # in pixels of the image it was translated for
    region_ids: tuple[str, ...]  # the context regions it was made of, oldest first; never empty
    labels: tuple[str, ...]
    from_name: str  # the control its newest positive region was drawn with
    to_name: str  # the object tag it lies on
    original_size: tuple[int, int]  # (H, W) of the image, the size an answer must have
    image_rotation: int = 0
    item_index: int | None = None
    replaces: str = ""  # id of the region that the answer replaces, empty where it replaces none
    score: float | None = None  # which the answer gets; None for the model's own

    def __post_init__(self) -> None:
        if not self.region_ids:
            raise ValueError("region_ids: expected at least one, got none")
        _check_size("original_size", self.original_size)


@dataclass(frozen=True)
class Region:
    """One region of an answer."""

    id: str
    control: str  # name of the control it belongs to, ``from_name`` on the wire
    type: str  # region type on the wire, e.g. ``brushlabels``
    to_name: str
    shape: Shape
    labels: tuple[str, ...]
    original_size: tuple[int, int]  # (H, W) of the image as the browser shows it
    # name of the separate ``<Labels>`` that holds its labels, None where the control itself does
    labels_control: str | None = None
    score: float | None = None  # in [0, 1], None where the model gives none
    image_rotation: int = 0
    item_index: int | None = None

    def __post_init__(self) -> None:
        _check_size("original_size", self.original_size)
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score: expected a number from 0 to 1, got {self.score}")


@dataclass(frozen=True, eq=False)
class RecentAnswer:
    """One region that a click was answered with, kept for corrections of it."""

    region: PromptRegion  # as it was answered; its control is the ``from_name``
    prompt_ids: tuple[str, ...]  # of the prompts that it was made of: random, so they belong to one annotator
    draft: str  # stamp of the annotator's newest draft when they clicked, empty where they had none
    answered_at: float  # seconds since 1970; the same for all regions of an answer
    # (low_res_size, low_res_size) logits in the frame of the image's embedding; None after a correction
    low_res_mask: "npt.NDArray[np.float16] | None" = None

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        match self.region.shape:
            case Brush(code):
                shape_bytes = len(code)
            case Bitmask(data_url):
                shape_bytes = len(data_url)
            case Polygon(points) | Vector(points):
                shape_bytes = 120 * len(points)
            case _:
                shape_bytes = 0
        return 1000 + shape_bytes + (0 if self.low_res_mask is None else self.low_res_mask.nbytes)


@dataclass(frozen=True)
class Prediction:
    """The answer for one task."""

    result: tuple[Region, ...]
    score: float  # of the whole answer, in [0, 1]
    model_version: str  # name and digest of the weights, as in the answer to /setup
    # why the result is empty or some prompts were not used; for the log and status page, not the wire
    reasons: tuple[Reason, ...] = ()
    # of whole tasks, each unused prompt with its reason and a message; for an image that failed, the ``region_id`` is
    # empty
    skipped: tuple[Skipped, ...] = ()
    # whether Label Studio should keep it. If not, it stores nothing and asks for the task again
    should_store: bool = True
    # whether every image of the task was segmented; an incomplete answer must not count as the whole
    is_complete: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score: expected a number from 0 to 1, got {self.score}")
        if self.result and not self.should_store:
            raise ValueError("should_store: expected a prediction with regions to be stored")
