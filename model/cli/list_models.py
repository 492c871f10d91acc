"""``list``: the weights that are known by name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.cli.choice import weights_dir_option
from model.cli.refusal import refusing

if TYPE_CHECKING:  # at run time it would make ``--help`` wait for numpy
    from model.weights.catalogue import DetectorEntry, Entry

    Known = Entry | DetectorEntry


@click.command("list", short_help="List the weights that are known by name.")
@weights_dir_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_models(weights_dir: str | None, as_json: bool) -> None:
    """List the weights that --weights, --model and PADDLE_SAM_WEIGHTS know by name, the detectors that --detector
    knows, and which of them are here.
    """
    with refusing():
        from model.weights.catalogue import DETECTORS, NAMED
        from model.weights.download import default_folder

        folder = Path(weights_dir) if weights_dir else default_folder()
        known: list[Known] = [*NAMED.values(), *DETECTORS.values()]
        entries = [(entry, _path(entry, folder)) for entry in known]
    click.echo(_as_json(entries) if as_json else _as_table(entries, folder))


def _path(entry: "Known", folder: Path) -> Path | None:
    from model.weights.catalogue import SHIPPED
    from model.weights.download import downloaded

    return SHIPPED[entry.name] if entry.source is None else downloaded(entry.name, folder, {entry.name: entry.source})


def _as_json(entries: "list[tuple[Known, Path | None]]") -> str:
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "megabytes": entry.megabytes,
            "input_size": entry.input_size,
            "capabilities": entry.capabilities,
            "licence": entry.licence,
            "url": entry.source and entry.source.url,
            "sha256": entry.source and entry.source.sha256,
            "path": None if path is None else str(path),
        }
        for entry, path in entries
    ]
    return json.dumps(rows, indent=2)


def _as_table(entries: "list[tuple[Known, Path | None]]", folder: Path) -> str:
    head = ("name", "family", "MB", "input", "takes", "licence", "here")
    rows = [head]
    for entry, path in entries:
        takes = ", ".join(word.replace("_", " ") for word in entry.capabilities if word != "score")
        is_downloaded = "ships" if entry.source is None else "no" if path is None else "yes"
        size = "as in the file" if entry.input_size is None else str(entry.input_size)
        rows.append((entry.name, entry.family, f"{entry.megabytes:,.1f}", size, takes, entry.licence, is_downloaded))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if title == "MB" else cell.ljust(width)
            for title, cell, width in zip(head, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, f"downloads are kept in {folder}"])
