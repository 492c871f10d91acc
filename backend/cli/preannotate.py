"""``python -m backend preannotate``: masks for a whole project."""

import time
from pathlib import Path

import click
from click.core import ParameterSource

from backend.cli.batch_options import of_a_project
from backend.cli.commands import refuse, settings_of
from backend.projects.preannotate_options import EVERYTHING, SOURCES, Choice

_OF_EVERYTHING = ("points_per_side", "max_masks", "min_score", "min_area")


@click.command("preannotate")
@of_a_project
@click.option(
    "--from",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    help="What to make masks of: boxes (rectangles, ellipses, polygons) or keypoints in the annotations, another "
    "model's predictions, or everything on the image. Of several, predictions count where annotations mark nothing.  "
    "[required without --coco]",
)
@click.option(
    "--coco",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make masks of the boxes in a COCO file instead; its images are found by their file names, its categories are "
    "the labels.  [default: none]",
)
@click.option("--replace", "replaces", is_flag=True, help="Make predictions of this model anew where there are some.")
@click.option(
    "--dry-run",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Store nothing; draw the masks over their images, into this folder.  [default: store]",
)
@click.option(
    "--points-per-side",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    help="With everything: points of the grid along each side of the image.",
)
@click.option(
    "--max-masks", type=click.IntRange(1), default=100, show_default=True, help="With everything: masks per image."
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="With everything: least predicted IoU of a mask.  [default: 0.88; for the demo model 0.65]",
)
@click.option(
    "--min-area",
    type=click.FloatRange(0, 100),
    default=0.05,
    show_default=True,
    help="With everything: least size of a mask, in percent of the image.",
)
def command(
    project: int,
    view: int | None,
    limit: int | None,
    weights: str | None,
    device: str | None,
    **choice: object,
) -> None:
    """Turn what a project's tasks hold into masks, stored as predictions.

    All objects of an image are decoded together, labels are kept, and the labeling config says what masks are drawn as.
    Every task gets exactly one prediction of this model, however often this is run, killed, or run by two people at
    once; a task that has one is passed over. The newest unlabelled tasks come first.

    Exit status: 0 if every task went well, 1 if some did not (the summary says why), 2 if nothing could be begun, 130
    if stopped with Ctrl-C.
    """
    chosen = Choice(**choice)  # type: ignore[arg-type]  # click has seen to the types
    if EVERYTHING in chosen.sources and len(set(chosen.sources)) > 1:
        refuse("--from everything takes no prompts: expected it alone")
    if bool(chosen.sources) == bool(chosen.coco):
        refuse("expected --from or --coco, one of the two, to say what to make masks of")
    if EVERYTHING not in chosen.sources:
        for name in _OF_EVERYTHING:
            if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
                refuse(f"--{name.replace('_', '-')}: expected --from everything beside it")
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device})
    from backend.cli import run as cli_run
    from backend.composition import web
    from backend.projects import engine as project_engine
    from backend.projects import preannotate_run, sinks
    from backend.projects.run import TaskQuery

    if (folder := chosen.dry_run) is not None:
        cli_run.exit_on_error(lambda: sinks.check_folder(folder))
    began = time.monotonic()
    with cli_run.open_run(settings, TaskQuery(project, view, limit)) as run:
        checkpoint = cli_run.exit_on_error(lambda: web.read_weights(settings))
        engine = cli_run.exit_on_error(lambda: project_engine.engine(settings, checkpoint, run.client, run.retry))
        try:
            report = cli_run.exit_on_error(lambda: preannotate_run.run(settings, checkpoint, run, engine, chosen))
        finally:
            engine.close()
        code = cli_run.finish(run, checkpoint.model_version, report, began)
    cli_run.leave(run, code)
