"""``python -m backend demo``: this backend beside a Label Studio of its own."""

import os
from pathlib import Path

import click

from model.demo import SAMPLES
from model.folders import cache_folder


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where its data is, and Label Studio.  [default: paddle-sam/demo in the user's cache folder]",
)
@click.option(
    "--label-studio-python",
    type=click.Path(path_type=Path),
    help="The interpreter of an environment that Label Studio is installed in.  [default: one is made in the folder]",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    default=SAMPLES,
    help="The folder of the images to label.  [default: those of the demo model]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="The backend's port.  [default: 9090 or the next]")
@click.option(
    "--label-studio-port", type=click.IntRange(1, 65535), help="Label Studio's port.  [default: 8080 or the next]"
)
@click.option("--weights", help="Model name or path.  [env: PADDLE_SAM_WEIGHTS; default: demo]")
def command(
    folder: Path | None,
    label_studio_python: Path | None,
    samples: Path,
    port: int | None,
    label_studio_port: int | None,
    weights: str | None,
) -> None:
    """Start this backend beside a Label Studio of its own, to try it in.

    The first start downloads Label Studio, about 150 MB, and installs it into an environment of its own.
    """
    from backend.demo.command import Demo, run  # here: --help must not wait for them
    from backend.demo.processes import DemoError

    folder = folder or cache_folder() / "demo"
    try:
        run(Demo(folder, label_studio_python, samples, port, label_studio_port, weights), os.environ, click.echo)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
