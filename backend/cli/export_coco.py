"""``python -m backend export-coco``: the masks of a project's annotations as one COCO file."""

import sys
import time
from pathlib import Path

import click

from backend.cli.batch_options import tasks_of_a_project
from backend.cli.commands import settings_of

RLE, POLYGONS = "rle", "polygons"


@click.command("export-coco")
@tasks_of_a_project
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="The file to write, once everything is read; a COCO file of that name is replaced, nothing else is.",
)
@click.option(
    "--segmentation",
    type=click.Choice((RLE, POLYGONS)),
    default=RLE,
    show_default=True,
    help="How masks are written: rle (run lengths, every pixel) or polygons (outlines; of painted masks, simplified).",
)
def command(project: int, view: int | None, limit: int | None, out: Path, segmentation: str) -> None:
    """Write the masks of a project's annotations into a COCO file.

    Masks are what people have submitted, whatever it is drawn with: brush, bitmask, polygon, vector, rectangle or
    ellipse. Of several annotations of a task one counts: a ground truth, else the one that was changed last. Labels are
    the categories, in the order of the labeling config. No image is fetched, and no model is needed.

    Exit status: 0 if every mask is in the file, 1 if some are not or it was not written (the summary says why), 2 if
    nothing could be begun, 130 if stopped with Ctrl-C.
    """
    settings = settings_of({})
    from backend.cli import run as cli_run  # here: --help must not wait for them
    from backend.projects import coco_export, progress
    from backend.projects.run import TaskQuery

    cli_run.exit_on_error(lambda: coco_export.check_out(out))
    began = time.monotonic()
    with cli_run.open_run(settings, TaskQuery(project, view, limit, annotated=True)) as run:
        context = coco_export.ExportContext(run.client.annotations, run.controls, run.retry, segmentation == POLYGONS)
        description = f"Masks of Label Studio project {run.project.id} {run.project.title!r}"
        with progress.showing("export-coco", run.total, sys.stderr) as shown:
            report = cli_run.exit_on_error(
                lambda: coco_export.run(run.tasks, context, out, description, run.stop, shown)
            )
        code = cli_run.finish(run, str(out), report, began)
    cli_run.leave(run, code)
