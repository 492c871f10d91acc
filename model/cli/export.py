"""``export``: weights in a format that others read."""

from typing import TYPE_CHECKING

import click

from model.cli.choice import Choice, weights_options
from model.cli.refusal import refusing

if TYPE_CHECKING:
    from model.weights.export import ExportFormat, PromptKind


@click.command(short_help="Write weights in another format.")
@click.argument("directory", metavar="DIR")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["paddlex", "native", "meta"]),
    required=True,
    help="paddlex: an inference directory that PaddleX runs; native: one safetensors file; meta: one .pth as Meta's.",
)
@click.option(
    "--prompt",
    type=click.Choice(["box", "point"]),
    default="box",
    help="What a PaddleX directory shall take, as SAM-H_box or as SAM-H_point.  [default: box]",
)
@weights_options
def export(directory: str, file_format: "ExportFormat", prompt: "PromptKind", choice: Choice) -> None:
    """Write weights into DIR, whole or not at all."""
    with refusing():
        from model.weights.export import export as write

        click.echo(f"wrote {write(choice.checkpoint(), directory, file_format, prompt)}")
