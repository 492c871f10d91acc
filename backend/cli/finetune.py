"""``python -m backend finetune``: a decoder that has learned from a project's annotations."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.cli.commands import settings_of, task_and_model_options

if TYPE_CHECKING:
    from backend.projects.engine import Engine
    from backend.projects.report import RunReport
    from model.weights import Checkpoint


@click.command("finetune")
@task_and_model_options
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the images kept aside, and the prompts.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How often each image is learned from, at most; it ends earlier when it gets no better.",
)
@click.option(
    "--mix",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.45,
    show_default=True,
    help="How much of what was learned is kept. More is better on images like these, and worse on all others.",
)
@click.option("--force", is_flag=True, help="Take the decoder even if it is no better than the one of the weights.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write an HTML page with the figures and the best and worst masks.  [default: beside the decoders]",
)
def command(
    project: int,
    view: int | None,
    limit: int | None,
    weights: str | None,
    device: str | None,
    seed: int,
    epochs: int,
    mix: float,
    force: bool,
    report: Path | None,
) -> None:
    """Fine-tune the decoder on the brush masks, bitmasks and polygons that were submitted in a project.

    The image encoder stays as it is, so embeddings in the cache are used, and missing ones are made. A fifth of the
    images is kept aside to judge the decoder. One that is better becomes the project's; the weights are not changed. A
    run that was stopped or killed goes on where it was.

    Exit status: 0 if the decoder was taken, 1 if it was not, or if an annotation could not be read, 2 if nothing could
    be begun, 130 if stopped with Ctrl-C, when the best decoder so far is kept.
    """
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device})
    from backend.cli.run import execute_with_engine  # here: --help must not wait for them
    from backend.decoders.folder import DecoderFolder
    from backend.projects.run import BatchRun, TaskQuery

    def learn(batch: BatchRun, checkpoint: "Checkpoint", engine: "Engine") -> "RunReport":
        from backend.projects import finetune  # here: Paddle logs a lot before logging is configured
        from model.finetuning.training import TrainingOptions

        options = finetune.FinetuneOptions(TrainingOptions(seed, epochs, mix=mix), force, report)
        with DecoderFolder(settings.decoders_dir).only_training(project):
            return finetune.run(settings, checkpoint, batch, engine, options)

    execute_with_engine(settings, TaskQuery(project, view, limit, annotated=True), learn)
