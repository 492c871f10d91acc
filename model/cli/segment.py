"""``segment``: pictures in; masks, overlays and JSON out."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.cli.choice import Choice, model_options
from model.cli.refusal import os_sentence, refusing

if TYPE_CHECKING:  # at run time they would make ``--help`` wait for numpy
    from model.api import SamModel
    from model.inputs import Source
    from model.prompts import Request
    from model.result import SamResult


Values = tuple[str, ...]


def _numbers(pattern: str, *counts: int) -> Callable[[click.Context, click.Parameter, Values], list[list[float]]]:
    """Return what turns the texts of a repeated option into as many numbers each, or refuses them."""

    def parse(_: click.Context, option: click.Parameter, values: Values) -> list[list[float]]:
        found = []
        for value in values:
            try:
                numbers = [float(part) for part in value.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) not in counts:
                raise click.BadParameter(f"expected {pattern}, got {value!r}", param=option)
            found.append(numbers)
        return found

    return parse


@dataclass(frozen=True)
class Job:
    """One picture to segment, and the path, less suffix, of the files that will hold its masks."""

    source: "Source"
    target: Path


@click.command(short_help="Segment pictures.")
@click.argument("inputs", metavar="IMAGE|DIR|URL...", nargs=-1, required=True)
@click.option("--box", "boxes", callback=_numbers("x1,y1,x2,y2", 4), metavar="x1,y1,x2,y2", multiple=True,
              help="A box around an object, in pixels; repeat for more objects.")  # fmt: skip
@click.option("--point", "points", callback=_numbers("x,y or x,y,0|1", 2, 3), metavar="x,y[,0|1]", multiple=True,
              help="A point on the object, or off it with 0. Points in a box refine it; the others mark one object.",
              )  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR",
              help="Where to write; made if it is not there.")  # fmt: skip
@model_options
def segment(
    inputs: Sequence[str], boxes: Sequence[list[float]], points: Sequence[list[float]], out: Path, choice: Choice
) -> None:
    """Segment pictures with the same boxes and points; without any, what lies at the centre of each.

    For PHOTO.jpg DIR gets PHOTO_mask_1.png and so on (white on the object), PHOTO_res.jpg (the masks over the
    photo) and PHOTO_res.json. A picture that cannot be read is reported, the others are still done, and the exit
    code is 1.
    """
    from tqdm import tqdm

    from model.prompts import of_boxes_and_points

    with refusing():
        requests = of_boxes_and_points(boxes, points)
        jobs = _jobs(inputs, out)
        model = choice.model()
        if not requests:
            click.echo("No --box or --point: segmenting what lies at the centre of each picture.", err=True)
        model.check(requests or of_boxes_and_points([], [[0, 0]]))
    failed = 0
    for job in tqdm(jobs, unit="picture", disable=None if len(jobs) > 1 else True):
        problem = _do(model, job, requests)
        if problem:
            failed += 1
            tqdm.write(f"Error: {problem}", file=sys.stderr)
    click.echo(f"{len(jobs) - failed} of {len(jobs)} pictures segmented, see {out}")
    if failed:
        raise SystemExit(1)


def _jobs(given: Sequence[str], out: Path) -> list[Job]:
    """Return one job per picture; directories keep their structure, and no two jobs write the same file.

    What an earlier run wrote below a directory is not segmented again.
    """
    from model.inputs import find

    jobs, taken = [], set()
    for argument in given:
        is_directory = Path(argument).is_dir()
        holds_out = Path(argument).resolve() in out.resolve().parents
        for source in find(argument):
            path = Path(source.path or "")
            if holds_out and out.resolve() in path.resolve().parents:
                continue
            relative = path.relative_to(argument) if is_directory else Path(source.name or "picture")
            target = next(name for name in _candidates(out / relative) if name not in taken)
            taken.add(target)
            jobs.append(Job(source, target))
    return jobs


def _candidates(path: Path) -> Iterator[Path]:
    """Yield names less suffix: ``photo``, and if that is taken ``photo_png``, ``photo_png_2`` ..."""
    yield path.with_suffix("")
    longer = f"{path.stem}_{path.suffix.removeprefix('.')}"
    yield path.with_name(longer)
    count = 2
    while True:
        yield path.with_name(f"{longer}_{count}")
        count += 1


def _do(model: "SamModel", job: Job, requests: "Sequence[Request]") -> str | None:
    """Segment one picture; return what went wrong, if it is the picture's fault."""
    from model.inputs import InputError
    from model.prompts import PromptError, of_boxes_and_points

    try:
        picture = job.source.open()
        if not requests:
            height, width = picture.original_size
            requests = of_boxes_and_points([], [[width / 2, height / 2]])
        _write(model.segment(picture, requests), model.model_version, job.target)
    except InputError as error:
        return str(error)
    except PromptError as error:
        return f"{job.source.path}: {error}"
    except OSError as error:
        return os_sentence(error)
    return None


def _write(result: "SamResult", model_version: str, target: Path) -> None:
    """Write masks, overlay and JSON; the JSON, which says that all is there, last."""
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    names = []
    for number, mask in enumerate(result["masks"], start=1):
        path = target.with_name(f"{target.name}_mask_{number}.png")
        Image.fromarray(mask.astype("uint8") * 255).save(path)
        names.append(path.name)
    result.save_to_img(target.with_name(f"{target.name}_res.jpg"))
    fields = {**result.fields(), "masks": names, "mask_infos": result["mask_infos"], "model_version": model_version}
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    target.with_name(f"{target.name}_res.json").write_text(text + "\n", encoding="utf-8")
