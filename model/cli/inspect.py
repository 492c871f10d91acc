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
        location, name = _place(path, weights_dir)
        summary, rows = _of_detector(location) if _is_detector(location) else _of_weights(location, name)
    click.echo(json.dumps({**asdict(summary), "path": str(summary.path)}, indent=2) if as_json else _as_table(rows))


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
    location = SHIPPED.get(given) or downloaded(given, folder, {**SOURCES, **DETECTOR_SOURCES})
    if location is None:
        raise WeightsError(
            f"{given}: expected its weights in {folder}, got none there; python -m model download {given} fetches them"
        )
    return location, given


def _of_detector(path: Path) -> tuple["DetectorSummary", Rows]:
    from model.detection import summary

    described = summary.inspect(path)
    words = (
        "any words" if described.classes is None else f"{len(described.classes)} words: {', '.join(described.classes)}"
    )
    return described, (
        ("path", described.path),
        ("format", f"paddlex detector ({described.kind})"),
        ("model version", described.model_version),
        ("sha256", described.digest),
        ("can take", words),
        ("least score", f"{described.threshold:g}"),
        ("program", f"is executed; its {len(described.operators)} operators only compute"),
        ("size on disk", f"{described.nbytes / 1e6:.1f} MB"),
    )


def _of_weights(path: Path, name: str | None) -> tuple["Summary", Rows]:
    from model.weights import summary

    described = summary.inspect(path, name)
    height, width = described.input_size
    encoder = ", ".join(
        f"{key} {value}" for key, value in asdict(described.config.image_encoder).items() if key != "kind"
    )
    return described, (
        ("path", described.path),
        ("format", described.format),
        ("model version", described.model_version),
        ("sha256", described.digest),
        ("input size", f"{height} × {width}"),
        ("can take", ", ".join(word.replace("_", " ") for word in described.capabilities if word != "score")),
        ("gives a score", "yes" if "score" in described.capabilities else "no"),
        ("parameters", f"{described.parameter_count / 1e6:.1f} million"),
        ("size on disk", f"{described.nbytes / 1e6:.1f} MB"),
        ("image encoder", f"{described.config.image_encoder.kind}: {encoder}"),
        ("embedding", ", ".join(" × ".join(map(str, shape)) for shape in described.config.embedding_shapes.values())),
        ("low-res masks", f"{described.config.low_res_size} × {described.config.low_res_size}"),
    )


def _as_table(rows: Rows) -> str:
    width_of_names = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width_of_names}}  {value}" for name, value in rows)
