"""``segment``: pictures in; masks, overlays, JSON and COCO's file out."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.cli.choice import Choice, model_options
from model.cli.detection import DetectorChoice, detector_options, named
from model.cli.everything import everything_options, settings_of
from model.cli.jobs import Job, find_jobs
from model.cli.progress import Progress, Silent, showing
from model.cli.refusal import os_sentence, refusing
from model.cli.writing import Files, Segmented

if TYPE_CHECKING:  # at run time they would make ``--help`` wait for numpy
    from model.automatic import AutomaticSettings
    from model.paddlex.inputs import Picture
    from model.paddlex.model import SamModel
    from model.paddlex.prompts import Request

Find = Callable[["Picture", Progress], Segmented]

Values = tuple[str, ...]


def _numbers(pattern: str, *counts: int) -> Callable[[click.Context, click.Parameter, Values], list[list[float]]]:
    """Return what turns the texts of a repeated option into as many numbers each, or refuses them."""

    def parse(_: click.Context, option: click.Parameter, values: Values) -> list[list[float]]:
        rows = []
        for value in values:
            try:
                numbers = [float(part) for part in value.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) not in counts:
                raise click.BadParameter(f"expected {pattern}, got {value!r}", param=option)
            rows.append(numbers)
        return rows

    return parse


@click.command(short_help="Segment pictures.")
@click.argument("inputs", metavar="IMAGE|DIR|URL...", nargs=-1, required=True)
@click.option("--box", "boxes", callback=_numbers("x1,y1,x2,y2", 4), metavar="x1,y1,x2,y2", multiple=True,
              help="A box around an object, in pixels; repeat for more objects.")  # fmt: skip
@click.option("--point", "points", callback=_numbers("x,y or x,y,0|1", 2, 3), metavar="x,y[,0|1]", multiple=True,
              help="A point on the object, or off it with 0. Points in a box refine it; the others mark one object.",
              )  # fmt: skip
@click.option("--everything", is_flag=True, help="Find all objects without a prompt; the next options say which.")
@everything_options
@click.option(
    "--text", metavar="WORDS", help='What to find, such as "cat, walking man"; with --detector.  [default: none]'
)
@detector_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where to write masks, overlays and JSON; made if it is not there.  [default: nowhere]")  # fmt: skip
@click.option("--coco-out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the masks of all pictures into one COCO file, as run lengths.  [default: none]")  # fmt: skip
@model_options
def segment(
    inputs: Sequence[str],
    boxes: Sequence[list[float]],
    points: Sequence[list[float]],
    everything: bool,
    limits: Mapping[str, object],
    text: str | None,
    detection: DetectorChoice,
    out: Path | None,
    coco_out: Path | None,
    choice: Choice,
) -> None:
    """Segment pictures with the same boxes and points, what words name in them, or everything; without any of these,
    what lies at the centre of each.

    For PHOTO.jpg DIR gets PHOTO_mask_1.png and so on (white on the object), PHOTO_res.jpg (the masks over the
    photo) and PHOTO_res.json. A picture that is not there or cannot be read is reported, the others are still done,
    and the exit code is 1.
    """
    _check_options(boxes, points, everything, limits, out, coco_out)
    words = _words(text, detection, bool(boxes or points or everything))
    with refusing(), ExitStack() as stack:
        from model.paddlex.prompts import of_boxes_and_points

        requests = of_boxes_and_points(boxes, points)
        if everything:
            settings_of("", limits)  # checked before the weights are loaded
        jobs, missing = find_jobs(inputs, out, coco_out)
        detector = detection.load(words, choice) if words else None  # first: its mistakes need no weights
        model = choice.model()
        if detector is not None:
            find = named(model, detector, words, detection)
        else:
            find = _everything(model, settings_of(model.network, limits)) if everything else _prompted(model, requests)
        coco = None
        if coco_out is not None:
            from model.coco.writer import CocoFile

            categories = [{"id": index, "name": word, "supercategory": ""} for index, word in enumerate(words, 1)]
            about = f"Masks made by {model.model_version}" + (f" and {detector.version}" if detector else "")
            coco = stack.enter_context(CocoFile(coco_out, about, categories or None))
        for problem in missing:
            click.echo(f"Error: {problem}", err=True)
        progress = stack.enter_context(showing(len(jobs), sys.stderr)) if everything or len(jobs) > 1 else Silent()
        failed = _do_all(jobs, find, Files(out, coco, model.model_version), progress) + len(missing)
    places = " and ".join(str(path) for path in (out, coco_out) if path is not None)
    count = len(jobs) + len(missing)
    click.echo(f"{count - failed} of {count} pictures segmented, see {places}")
    if failed:
        raise SystemExit(1)


def _check_options(
    boxes: Sequence[list[float]],
    points: Sequence[list[float]],
    everything: bool,
    limits: Mapping[str, object],
    out: Path | None,
    coco_out: Path | None,
) -> None:
    """Refuse options that do not go together."""
    if everything and (boxes or points):
        raise click.UsageError("--everything: expected no --box and no --point beside it")
    if limits and not everything:
        raise click.UsageError(f"--{next(iter(limits)).replace('_', '-')}: expected --everything beside it")
    if out is None and coco_out is None:
        raise click.UsageError("expected --out DIR, --coco-out FILE or both")


def _words(text: str | None, detection: DetectorChoice, has_prompts: bool) -> tuple[str, ...]:
    """Return what ``--text`` names; refuse options that do not go together."""
    if text is None:
        if detection != DetectorChoice():
            raise click.UsageError('--detector, --min-score, --max-objects: expected --text "WORDS" beside them')
        return ()
    from model.detection.word_list import split_text

    words = split_text(text)
    if has_prompts:
        raise click.UsageError("--text: expected no --box, --point or --everything beside it")
    if not words:
        raise click.UsageError(f'--text: expected words such as "cat, walking man", got {text!r:.60}')
    if detection.name is None:
        raise click.UsageError("--text: expected --detector beside it, a name such as GroundingDINO-T or a directory")
    return words


def _do_all(jobs: Sequence[Job], find: Find, files: Files, progress: Progress) -> int:
    """Do every picture; return how many could not be done."""
    from tqdm import tqdm

    failed = 0
    for job in jobs:
        progress.begin(job.name)
        problem = _do(job, find, files, progress)
        progress.end()
        if problem:
            failed += 1
            tqdm.write(f"Error: {problem}", file=sys.stderr)
    return failed


def _do(job: Job, find: Find, files: Files, progress: Progress) -> str | None:
    """Segment one picture; return what went wrong, if it is the picture's fault."""
    from model.paddlex.inputs import InputError
    from model.paddlex.prompts import PromptError

    try:
        files.write(job, find(job.source.open(), progress))
    except (InputError, PromptError) as error:
        return str(error)
    except OSError as error:
        return os_sentence(error)
    return None


def _prompted(model: "SamModel", requests: "Sequence[Request]") -> Find:
    """Return what answers the same prompts, or one at the centre, in any picture.

    Raises:
        CapabilityError: the weights cannot take them.
    """
    from model.coco import rle as coco
    from model.paddlex.prompts import of_boxes_and_points

    model.check(requests or of_boxes_and_points([], [[0, 0]]))
    if not requests:
        click.echo("No --box or --point: segmenting what lies at the centre of each picture.", err=True)

    def find(picture: "Picture", _: Progress) -> Segmented:
        height, width = picture.original_size
        wanted = requests or of_boxes_and_points([], [[width / 2, height / 2]])
        result = model.segment(picture, wanted)
        infos = result["mask_infos"]
        return Segmented(
            picture,
            result.fields(),
            [coco.encode(row[0]) for row in result.outputs.masks],
            infos,
            [info["score"] for info in infos],
            [{} for _ in infos],
            [request.prompt for request in wanted],
        )

    return find


def _everything(model: "SamModel", settings: "AutomaticSettings") -> Find:
    """Return what finds everything in any picture.

    Raises:
        CapabilityError: the weights take no points.
    """
    from tqdm import tqdm

    from model.types import Embedding

    generator = model.generator(settings)

    def find(picture: "Picture", progress: Progress) -> Segmented:
        assert not isinstance(picture.content, Embedding)  # pictures are files and addresses here
        masks = generator.generate(picture.content, progress.advance)
        if not masks:
            tqdm.write(
                f"{picture.path}: nothing passes the filters; --pred-iou-thresh {settings.pred_iou_thresh:g} and "
                f"--stability-score-thresh {settings.stability_score_thresh:g} can be lowered",
                file=sys.stderr,
            )
        facts = [mask.facts() for mask in masks]
        return Segmented(
            picture,
            {"input_path": picture.path},
            [mask.rle for mask in masks],
            facts,
            [mask.score for mask in masks],
            [{name: value for name, value in fields.items() if name not in ("area", "bbox")} for fields in facts],
        )

    return find
