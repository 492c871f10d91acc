"""``inspect``: what weights are, before they are used."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.cli.choice import weights_dir_option
from model.cli.refusal import refusing

if TYPE_CHECKING:
    from model.detection.summary import DetectorSummary
    from model.weights.summary import Summary

Rows = tuple[tuple[str, object], ...]


@click.command(short_help="Say what weights are.")
@click.argument("path", metavar="PATH|NAME")
@weights_dir_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(path: str, weights_dir: str | None, as_json: bool) -> None:
    """Say which format weights have, what they can do and how they are configured; refuse what is not SAM's or a
    detector's.

    PATH is a file or a directory, NAME a model or detector that has been downloaded, or the demo model. A detector's
    program is checked, and not executed.
    """
    with refusing():
        place, name = _place(path, weights_dir)
        found, rows = _of_detector(place) if _is_detector(place) else _of_weights(place, name)
    click.echo(json.dumps({**asdict(found), "path": str(found.path)}, indent=2) if as_json else _as_table(rows))


def _is_detector(path: Path) -> bool:
    from model.detection import directory

    return directory.is_detector(path)


def _place(given: str, weights_dir: str | None) -> tuple[Path, str | None]:
    """Return the file or directory that is meant, and the model's name if that was given.

    Raises:
        WeightsError: a known model that has not been downloaded.
    """
    from model.weights import WeightsError
    from model.weights.catalogue import DETECTOR_SOURCES, DETECTORS, NAMED, SHIPPED, SOURCES
    from model.weights.download import default_folder, downloaded

    if Path(given).exists() or given not in {**NAMED, **DETECTORS}:
        return Path(given), None
    folder = Path(weights_dir) if weights_dir else default_folder()
    place = SHIPPED.get(given) or downloaded(given, folder, {**SOURCES, **DETECTOR_SOURCES})
    if place is None:
        raise WeightsError(
            f"{given}: expected its weights in {folder}, got none there; python -m model download {given} fetches them"
        )
    return place, given


def _of_detector(path: Path) -> tuple["DetectorSummary", Rows]:
    from model.detection import summary

    found = summary.inspect(path)
    words = "any words" if found.classes is None else f"{len(found.classes)} words: {', '.join(found.classes)}"
    return found, (
        ("path", found.path),
        ("format", f"paddlex detector ({found.kind})"),
        ("model version", found.model_version),
        ("sha256", found.digest),
        ("can take", words),
        ("least score", f"{found.threshold:g}"),
        ("program", f"is executed; its {len(found.operators)} operators only compute"),
        ("size on disk", f"{found.nbytes / 1e6:.1f} MB"),
    )


def _of_weights(path: Path, name: str | None) -> tuple["Summary", Rows]:
    from model.weights import summary

    found = summary.inspect(path, name)
    height, width = found.input_size
    encoder = ", ".join(f"{key} {value}" for key, value in asdict(found.config.image_encoder).items() if key != "kind")
    return found, (
        ("path", found.path),
        ("format", found.format),
        ("model version", found.model_version),
        ("sha256", found.digest),
        ("input size", f"{height} × {width}"),
        ("can take", ", ".join(word.replace("_", " ") for word in found.capabilities if word != "score")),
        ("gives a score", "yes" if "score" in found.capabilities else "no"),
        ("parameters", f"{found.parameter_count / 1e6:.1f} million"),
        ("size on disk", f"{found.nbytes / 1e6:.1f} MB"),
        ("image encoder", f"{found.config.image_encoder.kind}: {encoder}"),
        ("embedding", ", ".join(" × ".join(map(str, shape)) for shape in found.config.embedding_shapes.values())),
        ("low-res masks", f"{found.config.low_res_size} × {found.config.low_res_size}"),
    )


def _as_table(rows: Rows) -> str:
    width_of_names = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width_of_names}}  {value}" for name, value in rows)
