"""Where the predictions of a run go: into Label Studio, or as pictures into a folder and nowhere else."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backend.concurrency.retry import OutageError, OutageRetry, Stopped
from backend.embeddings.direct import Source
from backend.errors import BackendError, Reason
from backend.images import decode
from backend.label_studio.prediction_writer import PredictionWriter, WriteRequest, WriteResult
from backend.labeling import config, task_images
from backend.labeling.config_types import LabelConfig
from backend.projects import overlays
from backend.projects.preannotate import GONE, MADE, THERE, PendingPrediction, TaskOutcome
from backend.projects.report import Failure
from backend.types import ImageRef, Region

logger = logging.getLogger(__name__)

_NAME = re.compile(r"task-[0-9]+(-[0-9]+)?\.jpg", re.IGNORECASE)
_KINDS = {WriteResult.STORED: MADE, WriteResult.THERE: THERE, WriteResult.GONE: GONE}


def label_studio_sink(writer: PredictionWriter) -> Callable[[Sequence[PendingPrediction]], Sequence[TaskOutcome]]:
    """Return what stores predictions."""

    def deliver(chunk: Sequence[PendingPrediction]) -> Sequence[TaskOutcome]:
        written = writer.write([WriteRequest(made.new, made.replaced) for made in chunk])
        settled = []
        for made, (_, verdict) in zip(chunk, written, strict=True):
            if isinstance(verdict, WriteResult):
                settled.append(TaskOutcome(_KINDS[verdict], made.failures))
            else:
                settled.append(TaskOutcome(failures=(*made.failures, Failure.of(made.task.id, verdict))))
        return settled

    return deliver


def patiently(source: Source, patience: OutageRetry, look: Callable[[], object]) -> Callable[[ImageRef], bytes]:
    """Return what fetches an image file, through outages.

    Args:
        source: where image files come from.
        patience: waits while something is away.
        look: asks Label Studio for something small.
    """

    def fetch(ref: ImageRef) -> bytes:
        fetched = patience.call_for_image(partial(source.fetch, ref), look)
        assert fetched is not None  # no version was given
        return fetched.data

    return fetch


def check_folder(folder: Path) -> None:
    """Return if drawings may be put into a folder.

    Raises:
        ValueError: it holds a file that one of them would be written over, and that is none itself.
        OSError: it cannot be read.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and path.exists() and not overlays.is_overlay(path):
            raise ValueError(f"{path}: expected another folder (--dry-run), got one where this file may be overwritten")


class OverlayFolder:
    """Draws predictions over their images: ``task-12.jpg``, or ``task-12-0.jpg`` and so on where there are several."""

    def __init__(
        self,
        folder: Path,
        fetch: Callable[[ImageRef], bytes],
        limits: decode.Limits,
        controls: LabelConfig,
        project_id: int,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: is made if it is not there.
            fetch: returns an image file; see `patiently`.
            limits: of the images.
            controls: the project's labeling config.
            project_id: whose tasks they are.
        """
        self._folder, self._fetch, self._limits = folder, fetch, limits
        self._controls, self._project_id = controls, project_id

    def __call__(self, chunk: Sequence[PendingPrediction]) -> Sequence[TaskOutcome]:
        """Draw the predictions of a chunk."""
        return [self._settled(made) for made in chunk]

    def _settled(self, made: PendingPrediction) -> TaskOutcome:
        try:
            self._draw(made)
        except Stopped:
            return TaskOutcome()
        except OutageError:
            raise
        except BackendError as error:
            return TaskOutcome(failures=(*made.failures, Failure.of(made.task.id, error)))
        except Exception as error:  # one drawing must not end a run
            logger.exception("event=defect task=%s", made.task.id)
            failure = Failure(made.task.id, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
            return TaskOutcome(failures=(*made.failures, failure))
        return TaskOutcome(MADE, made.failures)

    def _draw(self, made: PendingPrediction) -> None:
        places: dict[tuple[str, int | None], list[Region]] = {}
        for region in made.prediction.result:
            places.setdefault((region.to_name, region.item_index), []).append(region)
        for number, ((to_name, item_index), regions) in enumerate(places.items()):
            [image] = config.on_image(self._controls, to_name).images
            data = self._fetch(task_images.image_ref(image, made.task, self._project_id, item_index))
            picture = decode.decode(data, replace(self._limits, model_side=overlays.LONGEST_SIDE))
            name = f"task-{made.task.id}" + (f"-{number}" if len(places) > 1 else "")
            self._write(f"{name}.jpg", overlays.jpeg(overlays.over(picture.pixels, tuple(regions))))

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(data)
        except OSError as error:
            text = f"{self._folder / name} cannot be written: {error.strerror or error}"
            raise BackendError(text, Reason.STORE_UNAVAILABLE) from error
