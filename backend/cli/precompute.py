"""``python -m backend precompute``: the embeddings of a whole project."""

import sys
import time

import click

from backend.cli.batch_options import of_a_project
from backend.cli.commands import refuse, settings_of


@click.command("precompute")
@of_a_project
def command(project: int, view: int | None, limit: int | None, weights: str | None, device: str | None) -> None:
    """Encode a project's images, so that every first click finds its image ready.

    The newest unlabelled tasks come first. What is in the cache is passed over, so a run that was stopped, killed or
    made yesterday is taken up where it was left. Without REDIS_URL this process encodes, into the cache folder that the
    service on this machine reads; with it the workers do, whenever they have nothing more urgent to do.

    Exit status: 0 if every image is ready, 1 if some are not (the summary says why), 2 if nothing could be begun, 130
    if stopped with Ctrl-C.
    """
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device})
    if not settings.redis_url and not settings.disk_cache_mb:
        refuse("what is made would be lost with this process: expected PADDLE_SAM_DISK_CACHE_MB above 0, or REDIS_URL")
    from backend.cli import run as cli_run
    from backend.composition import web  # here: --help must not wait for them
    from backend.projects import engine as project_engine
    from backend.projects import precompute, progress
    from backend.projects.run import TaskQuery

    if not settings.redis_url:
        cli_run.exit_on_error(lambda: project_engine.check_cache(settings))
    began = time.monotonic()
    with cli_run.open_run(settings, TaskQuery(project, view, limit)) as run:
        checkpoint = cli_run.exit_on_error(lambda: web.read_weights(settings))
        engine = cli_run.exit_on_error(lambda: project_engine.engine(settings, checkpoint, run.client))
        context = precompute.PrecomputeContext(
            engine.ensure, run.client.version, run.retry, engine.at_once, engine.room, engine.close
        )
        run.stop.listen()
        try:
            with progress.showing("precompute", run.total, sys.stderr) as shown:
                report = precompute.run(run.tasks, project, run.controls, context, run.stop, shown)
        finally:
            engine.close()
        code = cli_run.finish(run, checkpoint.model_version, report, began)
    cli_run.leave(run, code)
