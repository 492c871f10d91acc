"""Where the predictions of a run go: into Label Studio, or as pictures into a folder and nowhere else."""

from collections.abc import Callable, Sequence
from pathlib import Path

from backend import images, label_config, overlays, task_images
from backend.direct_embeddings import Source
from backend.errors import BackendError, Reason
from backend.preannotate import GONE, MADE, THERE, Made, Settled
from backend.prediction_writer import PredictionWriter, Ready, Written
from backend.tally import Failure
from backend.types import Controls, Region

_KINDS = {Written.STORED: MADE, Written.THERE: THERE, Written.GONE: GONE}


def into_label_studio(writer: PredictionWriter) -> Callable[[Sequence[Made]], Sequence[Settled]]:
    """Return what stores predictions."""

    def deliver(chunk: Sequence[Made]) -> Sequence[Settled]:
        written = writer.write([Ready(made.new, made.replaced) for made in chunk])
        settled = []
        for made, (_, verdict) in zip(chunk, written, strict=True):
            if isinstance(verdict, Written):
                settled.append(Settled(_KINDS[verdict], made.failures))
            else:
                settled.append(Settled(failures=(*made.failures, Failure.of(made.task.id, verdict))))
        return settled

    return deliver


class OverlayFolder:
    """Draws predictions over their images: ``task-12.jpg``, or ``task-12-0.jpg`` and so on where there are several."""

    def __init__(
        self, folder: Path, source: Source, limits: images.Limits, controls: Controls, project_id: int
    ) -> None:
        """Write nothing yet.

        Args:
            folder: is made if it is not there.
            source: where image files come from.
            limits: of the images.
            controls: the project's labeling config.
            project_id: whose tasks they are.
        """
        self._folder, self._source, self._limits = folder, source, limits
        self._controls, self._project_id = controls, project_id

    def __call__(self, chunk: Sequence[Made]) -> Sequence[Settled]:
        """Draw the predictions of a chunk."""
        return [self._settled(made) for made in chunk]

    def _settled(self, made: Made) -> Settled:
        try:
            self._draw(made)
        except BackendError as error:
            return Settled(failures=(*made.failures, Failure.of(made.task.id, error)))
        return Settled(MADE, made.failures)

    def _draw(self, made: Made) -> None:
        places: dict[tuple[str, int | None], list[Region]] = {}
        for region in made.prediction.result:
            places.setdefault((region.to_name, region.item_index), []).append(region)
        for number, ((to_name, item_index), regions) in enumerate(places.items()):
            [image] = label_config.on_image(self._controls, to_name).images
            fetched = self._source.fetch(task_images.image_ref(image, made.task, self._project_id, item_index))
            assert fetched is not None  # no version was given
            picture = images.decode(fetched.data, self._limits)
            name = f"task-{made.task.id}" + (f"-{number}" if len(places) > 1 else "")
            self._write(f"{name}.jpg", overlays.jpeg(overlays.over(picture.pixels, tuple(regions))))

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(data)
        except OSError as error:
            text = f"{self._folder / name} cannot be written: {error.strerror or error}"
            raise BackendError(text, Reason.STORE_UNAVAILABLE) from error
