"""``python -m backend preannotate``: masks for a whole project."""

from pathlib import Path

import click
from click.core import ParameterSource

from backend.cli.commands import refuse, settings_of, task_and_model_options
from backend.projects.preannotate_options import EVERYTHING, LABELS, SOURCES, TEXT, Choice

_OF_EVERYTHING = ("points_per_side", "min_area")
_OF_EVERYTHING_AND_WORDS = ("max_masks", "min_score")


@click.command("preannotate")
@task_and_model_options
@click.argument("words", required=False)
@click.option(
    "--from",
    "sources",
    type=click.Choice(SOURCES),
    multiple=True,
    help="What to make masks of: boxes (rectangles, ellipses, polygons) or keypoints in the annotations, another "
    "model's predictions, everything on the image, the objects that the config's labels name, or those that WORDS name "
    '(text), such as "walking man=Person, bus". Of several, predictions count where annotations mark nothing.  '
    "[required without --coco]",
)
@click.option(
    "--coco",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make masks of the boxes in a COCO file instead; its images are found by their file names, its categories are "
    "the labels.  [default: none]",
)
@click.option(
    "--detector",
    metavar="NAME|DIR",
    help="With labels and text: what finds them, GroundingDINO-T, YOLO-Worldv2-L, the demo's YOLO-World-demo, or "
    "PaddleX's inference directory of a detector.  [env: PADDLE_SAM_DETECTOR; default: unset]",
)
@click.option("--replace", "replaces", is_flag=True, help="Make predictions of this model again where there are some.")
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
    "--max-masks",
    type=click.IntRange(1),
    metavar="N",
    help="With everything, labels and text: masks per image.  [default: 100; with labels and text all]",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="With everything: least predicted IoU of a mask; with labels and text: least score of a box.  [default: 0.88; "
    "for the demo model 0.65; with labels and text the detector's own]",
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
    detector: str | None,
    **choice: object,
) -> None:
    """Turn what a project's tasks hold, or what words name in their images, into masks, stored as predictions.

    All objects of an image are decoded together, labels are kept, and the labeling config says what masks are drawn as.
    Every task gets exactly one prediction of this model, however often this is run, killed, or run by two people at
    once; a task that has one is skipped. The newest unlabelled tasks come first.

    Exit status: 0 if every task went well, 1 if some did not (the summary says why), 2 if nothing could be begun, 130
    if stopped with Ctrl-C.
    """
    chosen = Choice(**choice)  # type: ignore[arg-type]  # click has checked the types
    settings = settings_of(
        {"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device, "PADDLE_SAM_DETECTOR": detector}
    )
    _check(chosen, detector, settings.detector)
    from backend.cli.run import execute_with_engine, exit_on_error  # here: --help must not wait for them
    from backend.projects import preannotate_setup, sinks
    from backend.projects.run import TaskQuery

    if (folder := chosen.dry_run) is not None:
        exit_on_error(lambda: sinks.check_folder(folder))
    execute_with_engine(
        settings,
        TaskQuery(project, view, limit),
        lambda batch, checkpoint, engine: preannotate_setup.run(settings, checkpoint, batch, engine, chosen),
    )


def _check(chosen: Choice, option: str | None, configured: str | None) -> None:
    """Refuse options that do not go together; ``option`` and ``configured`` name a detector."""
    for source in (EVERYTHING, LABELS, TEXT):
        if source in chosen.sources and len(set(chosen.sources)) > 1:
            refuse(f"--from {source} takes no prompts: expected it alone")
    if bool(chosen.sources) == bool(chosen.coco):
        refuse("expected --from or --coco, one of the two, to say what to make masks of")
    for names, fitting in ((_OF_EVERYTHING, (EVERYTHING,)), (_OF_EVERYTHING_AND_WORDS, (EVERYTHING, LABELS, TEXT))):
        for name in names if set(fitting).isdisjoint(chosen.sources) else ():
            if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
                beside = " or ".join(", ".join(fitting).rsplit(", ", 1))
                refuse(f"--{name.replace('_', '-')}: expected --from {beside} beside it")
    if (TEXT in chosen.sources) != (chosen.words is not None):
        refuse('expected --from text "WORDS", with both or neither of them')
    if option is not None and not chosen.names_objects:
        refuse("--detector: expected --from labels or --from text beside it")
    if chosen.names_objects and configured is None:
        refuse("expected --detector or PADDLE_SAM_DETECTOR: GroundingDINO-T, YOLO-Worldv2-L, or a detector's directory")
