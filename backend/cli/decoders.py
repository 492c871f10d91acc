"""``python -m backend decoders``: the fine-tuned decoders of projects, and which one serves each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from backend.cli.commands import refuse, settings_of

if TYPE_CHECKING:
    from backend.decoders.folder import DecoderFolder, Record

BASE = "base"
project_option = click.option("--project", type=click.IntRange(1), required=True, help="Number of the project.")
decoder_argument = click.argument("decoder", metavar="DECODER|base")


@click.group("decoders")
def command() -> None:
    """List, compare, pin and roll back the fine-tuned decoders of projects.

    A running service takes up a change within seconds. DECODER is the beginning of a digest, as `list` shows it.
    """


@command.command("list")
@click.option("--project", type=click.IntRange(1), help="Only this project.")
def show(project: int | None) -> None:
    """List the decoders of all projects; the one that serves is marked with *."""
    with _folder() as folder:
        numbers = folder.projects() if project is None else (project,)
        records = {number: record for number in numbers if (record := folder.record(number)).digests}
        for number, record in records.items():
            mark = ", pinned" if record.is_pinned else ""
            click.echo(f"project {number}{mark}:")
            click.echo("\n".join(_line(folder, number, record, digest) for digest in (*record.digests, None)))
        if not records:
            of = "" if project is None else f" of project {project}"
            click.echo(f"no decoders{of} in {folder.root}; `finetune --project {project or 'N'}` trains one", err=True)


@command.command()
@project_option
@click.argument("decoders", nargs=-1, metavar="DECODER...")
def compare(project: int, decoders: tuple[str, ...]) -> None:
    """Compare decoders of a project: the mean IoU on the images that each kept aside, before and after."""
    with _folder() as folder:
        record = folder.record(project)
        digests = [_digest_of(record, name) for name in decoders] or list(record.digests)
        for digest in filter(None, digests):
            figures = folder.read(project, digest).info.figures
            click.echo(f"{_line(folder, project, record, digest)}, {figures.annotations} annotations")
            for kind in {**figures.before, **figures.after}:
                before, after = figures.before.get(kind), figures.after.get(kind)
                change = "" if before is None or after is None else f"  {after - before:+.3f}"
                click.echo(f"    {kind:12} {_iou(before)} → {_iou(after)}{change}")


@command.command()
@project_option
@decoder_argument
def pin(project: int, decoder: str) -> None:
    """Activate this decoder, and keep it when another one is trained; base is that of the weights."""
    _change(project, lambda record: replace(record, active=_digest_of(record, decoder), is_pinned=True))


@command.command()
@project_option
def unpin(project: int) -> None:
    """Let the next trained decoder become the active one."""
    _change(project, lambda record: replace(record, is_pinned=False))


@command.command()
@project_option
def rollback(project: int) -> None:
    """Activate the decoder that was trained before the active one; before the oldest comes the base."""
    _change(project, _rolled_back)


def _rolled_back(record: "Record") -> "Record":
    if record.active is None:
        raise ValueError("expected a fine-tuned decoder that serves, got the base; pin one to have it serve again")
    older = record.digests[record.digests.index(record.active) + 1 :]
    return replace(record, active=older[0] if older else None)


def _change(project: int, change: "Callable[[Record], Record]") -> None:
    with _folder() as folder:
        if not folder.record(project).digests:
            raise ValueError(f"project {project}: expected one with fine-tuned decoders, got none in {folder.root}")

        def checked(record: "Record") -> "Record":
            after = change(record)
            if after.active is not None and not folder.file(project, after.active).is_file():
                raise ValueError(
                    f"decoder {after.active[:8]}: expected its file in {folder.root}, got none; "
                    "run this on a machine where it has served"
                )
            return after

        record = folder.change(project, checked)
        click.echo(_line(folder, project, record, record.active).removeprefix("* "))


def _digest_of(record: "Record", name: str) -> str | None:
    """Return the digest that begins with a name, None for `BASE`."""
    if name == BASE:
        return None
    name = name.rpartition("-")[2]  # also of p12-9f8e7d6c, as in a model version
    matches = [digest for digest in record.digests if digest.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(digest[:8] for digest in record.digests)
        raise ValueError(f"decoder {name}: expected the beginning of one of {known}, or base")
    return matches[0]


def _line(folder: "DecoderFolder", project: int, record: "Record", digest: str | None) -> str:
    from model.weights.errors import WeightsError

    mark = "*" if digest == record.active else " "
    if digest is None:
        return f"{mark} {BASE}"
    try:
        info = folder.read(project, digest).info
    except WeightsError as error:
        return f"{mark} {digest[:8]}  {error}"
    return f"{mark} {digest[:8]}  {info.created}  for {info.base_version}, from {info.figures.images} images"


def _iou(value: float | None) -> str:
    return "–    " if value is None else f"{value:.3f}"


@contextmanager
def _folder() -> "Iterator[DecoderFolder]":
    from backend.composition.decoders import exchanged
    from backend.errors import BackendError
    from model.weights.errors import WeightsError

    try:
        with exchanged(settings_of({}, is_local=True)) as folder:
            yield folder
    except (BackendError, WeightsError, ValueError, OSError) as error:
        refuse(str(error))
