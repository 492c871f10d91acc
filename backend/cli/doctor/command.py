"""``python -m backend doctor``: prints the findings of all checks."""

import itertools
import logging
import sys

import click

from backend.cli.commands import GOOD, PROBLEMS_FOUND, settings_of


@click.command("doctor")
@click.option(
    "--project", type=int, help="Also look at this project's model, labeling config and first image.  [default: none]"
)
def command(project: int | None) -> None:
    """Look for what keeps the backend from working, and say how to put it right."""
    settings = settings_of({})
    logging.getLogger("backend").addHandler(logging.NullHandler())  # its problems are printed once, below
    from backend import logs
    from backend.cli.doctor import examination, redis
    from backend.cli.doctor.findings import Level
    from backend.composition import parts
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.http import LabelStudioHttp

    logs.quiet_libraries()

    def weights() -> str:
        checkpoint = parts.read_weights(settings)
        return f"{checkpoint.model_version}, {checkpoint.format} format, from {checkpoint.path}"

    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key, attempts=1))
    images = parts.image_source(settings, label_studio)
    marks = {Level.OK: "ok     ", Level.HINT: "hint   ", Level.PROBLEM: "PROBLEM"}
    code = GOOD
    checks = examination.examine(settings, label_studio, images, project, weights)
    for finding in itertools.chain(checks, redis.examine(settings)):
        click.echo(f"{marks[finding.level]} {finding.subject}: {finding.text}")
        if finding.fix:
            click.echo(f"        -> {finding.fix}")
        code = PROBLEMS_FOUND if finding.level is Level.PROBLEM else code
    label_studio.http.close()
    sys.exit(code)
