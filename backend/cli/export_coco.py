"""``python -m backend export-coco``: the masks of a project's annotations as one COCO file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.cli.commands import settings_of, task_options

if TYPE_CHECKING:
    from backend.projects.report import RunReport

RLE, POLYGONS = "rle", "polygons"


@click.command("export-coco")
@task_options
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
    from backend.cli.run import execute, exit_on_error  # here: --help must not wait for them
    from backend.projects import coco_export, progress
    from backend.projects.run import BatchRun, TaskQuery

    def export(batch: BatchRun) -> "tuple[str, RunReport]":
        with progress.showing("export-coco", batch.total, sys.stderr) as shown:
            return str(out), coco_export.run(batch, out, shown, as_polygons=segmentation == POLYGONS)

    exit_on_error(lambda: coco_export.check_out(out))
    execute(settings, TaskQuery(project, view, limit, annotated=True), export)
