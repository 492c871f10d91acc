"""``benchmark``: how fast the model is here."""

import json
from dataclasses import asdict

import click

from model.cli.choice import Choice, model_options
from model.cli.refusal import refusing


@click.command(short_help="Measure speed and memory on this machine.")
@click.option("--runs", type=click.IntRange(min=1), default=3, help="Encodes to take the median of.  [default: 3]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@model_options
def benchmark(runs: int, as_json: bool, choice: Choice) -> None:
    """Measure encoder, decoder and memory with these weights on this device."""
    with refusing():
        from model.cli import measuring

        measured = measuring.measure(choice.checkpoint(), choice.device, choice.dtype, runs)
    click.echo(json.dumps(asdict(measured), indent=2) if as_json else measuring.as_table(measured))
