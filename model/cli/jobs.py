"""Which pictures to do, and what the files about each are called."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time it would make ``--help`` wait for numpy
    from model.inputs import Source


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


def find_jobs(given: Sequence[str], out: Path | None) -> list[Job]:
    """Return one job per picture; directories keep their structure, and no two jobs write the same file.

    What an earlier run wrote below a directory is left out. No job writes over a picture that is among the jobs.

    Args:
        given: files, directories and addresses.
        out: the output directory, if there is one.

    Raises:
        InputError: one of them does not exist, a directory holds no picture, or ``out`` is the directory of the
            pictures itself or has one of them where a file about another would go.
    """
    from model.inputs import InputError, find

    jobs: list[Job] = []
    names: set[str] = set()
    targets: set[Path] = set()
    for argument in given:
        is_directory = Path(argument).is_dir()
        if is_directory and out is not None and Path(argument).resolve() == out.resolve():
            raise InputError(f"{out}: expected another directory to write to than that of the pictures (--out)")
        written = out.resolve() if out is not None and Path(argument).resolve() in out.resolve().parents else None
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
    if out is not None:
        _check_kept(jobs, out)
    return jobs


def _check_kept(jobs: Sequence[Job], out: Path) -> None:
    """Refuse jobs of which one would write its mask, overlay or JSON over the picture of another, or its own."""
    from model.inputs import InputError

    pictures: dict[Path, list[str]] = {}
    for job in jobs:
        path = Path(job.source.path or "").resolve()
        pictures.setdefault(path.parent, []).append(path.name)
    for job in jobs:
        target = out / job.target
        written = re.compile(rf"{re.escape(target.name)}_(mask_[0-9]+\.png|res\.jpg|res\.json)", re.IGNORECASE)
        for name in pictures.get(target.parent.resolve(), ()):
            if written.fullmatch(name):
                raise InputError(
                    f"{target.with_name(name)}: expected another directory to write to (--out), got one where this "
                    f"picture would be overwritten by what is found in {job.name}"
                )


def _candidates(path: Path) -> Iterator[Path]:
    """Yield names less suffix: ``photo``, and if that is taken ``photo_png``, ``photo_png_2`` ..."""
    yield path.with_suffix("")
    longer = f"{path.stem}_{path.suffix.removeprefix('.')}"
    yield path.with_name(longer)
    count = 2
    while True:
        yield path.with_name(f"{longer}_{count}")
        count += 1
