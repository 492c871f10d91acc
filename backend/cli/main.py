"""The command line, ``python -m backend``: one command for each module."""

import click

from backend.cli import decoders, demo, erase, export_coco, finetune, preannotate, precompute, serve, worker
from backend.cli.doctor import command as doctor
from model import machine


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """PaddlePaddle SAM as a machine-learning backend for Label Studio.

    Every setting is an environment variable; `serve --help` and `worker --help` list them.
    """
    machine.share_heap()  # before there are threads


for _module in (serve, worker, precompute, preannotate, export_coco, finetune, decoders, erase, doctor, demo):
    main.add_command(_module.command)
