"""``download``: published weights into the folder where the other commands look for them."""

from pathlib import Path

import click

from model.cli.refusal import refusing


@click.command(short_help="Download published weights.")
@click.argument("name", metavar="NAME")
@click.option(
    "--weights-dir",
    metavar="DIR",
    envvar="MODEL_DIR",
    help="Where to keep them.  [env: MODEL_DIR; default: the user's cache folder]",
)
@click.option(
    "--mirror",
    metavar="URL",
    envvar="MODEL_MIRROR",
    help="A folder with the published files, instead of their publishers'.  [env: MODEL_MIRROR; default: none]",
)
def download(name: str, weights_dir: str | None, mirror: str | None) -> None:
    """Download weights or a detector that `list` names, and verify them; go on where a download was cut off."""
    with refusing():
        from model.weights import download as weights
        from model.weights.catalogue import DETECTOR_SOURCES, SOURCES

        folder = Path(weights_dir) if weights_dir else weights.default_folder()
        click.echo(weights.download(name, folder, mirror=mirror, sources={**SOURCES, **DETECTOR_SOURCES}))
