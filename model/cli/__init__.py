"""The command line, ``python -m model COMMAND``. Commands import what they need when they run: help is quick."""

import click

from model.cli.benchmark import benchmark
from model.cli.download import download
from model.cli.export import export
from model.cli.inspect import inspect
from model.cli.list_models import list_models
from model.cli.segment import segment


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Segment Anything on PaddlePaddle: mark an object with a box or a point, get its mask."""


for _command in (segment, list_models, download, inspect, export, benchmark):
    main.add_command(_command)
