"""Which pictures to do, and what the files about each are called."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time it would make ``--help`` wait for numpy
    from model.paddlex.inputs import Source


@dataclass(frozen=True)
class Job:
    """One picture.

    Attributes:
        source: the picture.
        name: what a list of pictures calls it: its path below the directory that was given, or its file name; the
            whole path or address where another picture has that name already.
        target: path below the output directory, less suffix, of the files about it.
    """

    source: "Source"
    name: str
    target: Path


def find_jobs(given: Sequence[str], out: Path | None, coco_out: Path | None = None) -> tuple[list[Job], list[str]]:
    """Return one job per picture, and of what is given a sentence about each that is not there or holds no picture.

    Directories keep their structure, and no two jobs write the same file.

    What an earlier run wrote below a directory is left out. No job writes over a picture that is among the jobs.

    Args:
        given: files, directories and addresses.
        out: the output directory, if there is one.
        coco_out: the file for the masks of all pictures, if there is one.

    Raises:
        InputError: there is no picture at all, ``out`` is the directory of the pictures itself or has one of them
            where a file about another would go, or ``coco_out`` is a picture.
    """
    from model.paddlex.inputs import SUFFIXES, InputError

    if out is not None and any(
        Path(argument).is_dir() and Path(argument).resolve() == out.resolve() for argument in given
    ):
        raise InputError(f"{out}: expected another directory to write to than that of the pictures (--out)")
    if coco_out is not None and coco_out.suffix.lower() in SUFFIXES:  # most likely its name was left out
        raise InputError(
            f"{coco_out}: expected another file to write to (--coco-out), such as masks.json, got a picture"
        )
    jobs: list[Job] = []
    missing: list[str] = []
    names, targets = set[str](), set[Path]()
    for argument in given:
        try:
            jobs += _jobs_of(argument, out, names, targets)
        except InputError as error:
            missing.append(str(error))
    if missing and not jobs:
        raise InputError("; ".join(missing))
    if out is not None:
        _check_kept(jobs, out)
    if coco_out is not None:
        _check_apart(jobs, coco_out)
    return jobs, missing


def _jobs_of(argument: str, out: Path | None, names: set[str], targets: set[Path]) -> list[Job]:
    """Return the jobs of one argument, and add their names and targets to those that are taken.

    Raises:
        InputError: there is no picture.
    """
    from model.paddlex.inputs import find

    root, jobs = Path(argument), list[Job]()
    is_directory = root.is_dir()
    written = out.resolve() if out is not None and root.resolve() in out.resolve().parents else None
    for source in find(argument):
        path = Path(source.path or "")
        if written is not None and written in path.resolve().parents:
            continue
        relative = path.relative_to(argument) if is_directory else Path(source.name or "picture")
        name = relative.as_posix() if relative.as_posix() not in names else str(source.path)
        target = next(target for target in _candidates(relative) if target not in targets)
        names.add(name)
        targets.add(target)
        jobs.append(Job(source, name, target))
    return jobs


def _check_kept(jobs: Sequence[Job], out: Path) -> None:
    """Refuse jobs of which one would write its mask, overlay or JSON over the picture of another, or its own."""
    from model.paddlex.inputs import InputError

    paths = [Path(job.source.path or "") for job in jobs]
    pictures = {path.resolve() for path in paths}
    names: dict[Path, set[str]] = {}  # of pictures, and of links to them, by their directories
    for picture in (*pictures, *(path.parent.resolve() / path.name for path in paths)):
        names.setdefault(picture.parent, set()).add(picture.name)
    for directory in {(out / job.target).parent.resolve() for job in jobs}:
        if directory.is_dir():
            links = {link.name for link in directory.iterdir() if link.is_symlink() and link.resolve() in pictures}
            names.setdefault(directory, set()).update(links)
    for job in jobs:
        target = out / job.target
        written = re.compile(rf"{re.escape(target.name)}_(mask_[0-9]+\.png|res\.jpg|res\.json)", re.IGNORECASE)
        for name in sorted(names.get(target.parent.resolve(), ())):
            if written.fullmatch(name):
                raise InputError(
                    f"{target.with_name(name)}: expected another directory to write to (--out), got one where this "
                    f"picture would be overwritten by what is found in {job.name}"
                )


def _check_apart(jobs: Sequence[Job], coco_out: Path) -> None:
    """Refuse jobs of which one has its picture where COCO's file, or its unfinished part, would be written."""
    from model.coco.writer import part_of
    from model.paddlex.inputs import InputError

    written = (coco_out, part_of(coco_out))
    for job in jobs:
        picture = Path(job.source.path or "")
        if any(_is_one_file(picture, path) for path in written):
            raise InputError(
                f"{coco_out}: expected another file to write to (--coco-out), got one where {job.source.path} would be "
                "overwritten"
            )


def _is_one_file(path: Path, other: Path) -> bool:
    """Whether two names may be those of one file: by links, or where upper and lower case are the same."""
    with suppress(OSError):  # one of them is not there
        if path.samefile(other):
            return True
    path, other = path.resolve(), other.resolve()
    return path.parent == other.parent and path.name.casefold() == other.name.casefold()


def _candidates(path: Path) -> Iterator[Path]:
    """Yield names less suffix: ``photo``, and if that is taken ``photo_png``, ``photo_png_2`` ..."""
    yield path.with_suffix("")
    longer = f"{path.stem}_{path.suffix.removeprefix('.')}"
    yield path.with_name(longer)
    count = 2
    while True:
        yield path.with_name(f"{longer}_{count}")
        count += 1
