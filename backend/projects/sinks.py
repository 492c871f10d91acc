"""The sinks for a run's predictions: Label Studio, or a folder of pictures."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backend.concurrency.retry import OutageRetry
from backend.embeddings.pipeline import Source
from backend.errors import BackendError, Reason
from backend.images import decode
from backend.label_studio.prediction_writer import PredictionWriter, WriteRequest, WriteResult
from backend.labeling import config, task_images
from backend.labeling.config_types import LabelConfig
from backend.projects import overlays
from backend.projects.preannotate_loop import GONE, MADE, THERE, PendingPrediction, Sink, TaskOutcome
from backend.projects.report import Failure, attempt
from backend.types import ImageRef, Region

_NAME = re.compile(r"task-[0-9]+(-[0-9]+)?\.jpg", re.IGNORECASE)
_KINDS = {WriteResult.STORED: MADE, WriteResult.ALREADY_STORED: THERE, WriteResult.GONE: GONE}


def label_studio_sink(writer: PredictionWriter) -> Sink:
    """Return a sink that stores predictions in Label Studio."""

    def deliver(chunk: Sequence[PendingPrediction]) -> Sequence[TaskOutcome]:
        written = writer.write([WriteRequest(pending.new, pending.replaced) for pending in chunk])
        outcomes = []
        for pending, (_, result) in zip(chunk, written, strict=True):
            if isinstance(result, WriteResult):
                outcomes.append(TaskOutcome(_KINDS[result], pending.failures))
            else:
                outcomes.append(TaskOutcome(failures=(*pending.failures, Failure.of(pending.task.id, result))))
        return outcomes

    return deliver


def retrying_fetch(source: Source, retry: OutageRetry, probe: Callable[[], object]) -> Callable[[ImageRef], bytes]:
    """Return a function that fetches an image file, with retries during an outage; ``probe`` asks Label Studio."""

    def fetch(ref: ImageRef) -> bytes:
        fetched = retry.call_for_image(partial(source.fetch, ref), probe)
        assert fetched is not None  # no version was given
        return fetched.data

    return fetch


def check_folder(folder: Path) -> None:
    """Raise a `ValueError` if a file in the folder that is not an overlay would be overwritten by one."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and path.exists() and not overlays.is_overlay(path):
            raise ValueError(f"{path}: expected another folder (--dry-run), got one where this file may be overwritten")


def overlay_sink(
    folder: Path,
    fetch: Callable[[ImageRef], bytes],
    limits: decode.PixelLimits,
    controls: LabelConfig,
    project_id: int,
) -> Sink:
    """Return a sink that draws predictions over their images, which ``fetch`` returns.

    It writes ``task-12.jpg``, or ``task-12-0.jpg`` and so on for several images, into ``folder``, which the first
    prediction creates.
    """

    def draw(pending: PendingPrediction) -> int:
        by_image: dict[tuple[str, int | None], list[Region]] = {}
        for region in pending.prediction.result:
            by_image.setdefault((region.to_name, region.item_index), []).append(region)
        for number, ((to_name, item_index), regions) in enumerate(by_image.items()):
            [image] = config.on_image(controls, to_name).images
            data = fetch(task_images.image_ref(image, pending.task, project_id, item_index))
            picture = decode.decode(data, replace(limits, model_side=overlays.LONGEST_SIDE))
            name = f"task-{pending.task.id}" + (f"-{number}" if len(by_image) > 1 else "")
            _write(folder / f"{name}.jpg", overlays.jpeg(overlays.over(picture.pixels, tuple(regions))))
        return len(by_image)

    def deliver(pending: PendingPrediction) -> TaskOutcome:
        outcome = attempt(pending.task.id, partial(draw, pending))
        if isinstance(outcome, Failure):
            return TaskOutcome(failures=(*pending.failures, outcome))
        return TaskOutcome() if outcome is None else TaskOutcome(MADE, pending.failures)

    return lambda chunk: [deliver(pending) for pending in chunk]


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        text = f"{path} cannot be written: {error.strerror or error}"
        raise BackendError(text, Reason.STORE_UNAVAILABLE) from error
