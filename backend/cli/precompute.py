"""``python -m backend precompute``: the embeddings of a whole project."""

import sys
from typing import TYPE_CHECKING

import click

from backend.cli.commands import refuse, settings_of, task_and_model_options

if TYPE_CHECKING:
    from backend.projects.report import RunReport
    from model.weights import Checkpoint


@click.command("precompute")
@task_and_model_options
def command(project: int, view: int | None, limit: int | None, weights: str | None, device: str | None) -> None:
    """Encode a project's images, so that every first click finds its image ready.

    The newest unlabelled tasks come first. Images in the cache are skipped, so a run that was stopped or killed
    continues where it ended. Without REDIS_URL this process encodes, into the cache folder that the service on this
    machine reads; with it the workers do, whenever they have nothing more urgent to do.

    Exit status: 0 if every image is ready, 1 if some are not (the summary says why), 2 if nothing could be begun, 130
    if stopped with Ctrl-C.
    """
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device})
    if not settings.redis_url and not settings.disk_cache_mb:
        refuse("what is made would be lost with this process: expected PADDLE_SAM_DISK_CACHE_MB above 0, or REDIS_URL")
    from backend.cli.run import execute_with_engine, exit_on_error  # here: --help must not wait for them
    from backend.projects import engine, precompute, progress
    from backend.projects.run import BatchRun, TaskQuery

    if not settings.redis_url:
        exit_on_error(lambda: engine.check_cache(settings))

    def encode(batch: BatchRun, _: "Checkpoint", started: engine.Engine) -> "RunReport":
        with progress.showing("precompute", batch.total, sys.stderr) as shown:
            return precompute.run(batch, started, shown)

    execute_with_engine(settings, TaskQuery(project, view, limit), encode)
