"""The command line: ``python -m backend serve | worker | precompute | preannotate | export-coco | doctor | demo``."""

import itertools
import logging
import sys

import click

from backend.cli import export_coco, health, preannotate, precompute
from backend.cli.commands import GOOD, PROBLEMS_FOUND, refuse, settings_of, weights_option
from backend.cli.settings_help import CommandWithSettings
from backend.demo import command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """PaddlePaddle SAM as a machine-learning backend for Label Studio.

    Every setting is an environment variable; `serve --help` and `worker --help` list them.
    """


@main.command(cls=CommandWithSettings)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [env: PORT; default: 9090]")
@click.option("--host", help="Address to listen on.  [env: HOST; default: 0.0.0.0]")
@weights_option
@click.option("--check", is_flag=True, help="Only tell, by the exit code, whether the service at this address is up.")
def serve(port: int | None, host: str | None, weights: str | None, check: bool) -> None:
    """Serve Label Studio until stopped."""
    settings = settings_of({"PORT": port, "HOST": host, "PADDLE_SAM_WEIGHTS": weights})
    if check:
        sys.exit(GOOD if health.is_up(settings.host, settings.port) else PROBLEMS_FOUND)
    from backend import logs
    from backend.composition import cluster, web
    from backend.web import gunicorn_server  # imported here, so that --help is fast

    logs.configure(settings.log_level)
    try:
        gunicorn_server.check_temporary_folder()
        gunicorn_server.check_port(settings.host, settings.port)
        cluster.require_usable(settings)
        checkpoint = web.read_weights(settings)
    except (ValueError, OSError) as error:
        refuse(str(error))
    shown = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - only for showing
    click.echo(f"{checkpoint.model_version} on http://{shown}:{settings.port}, its status page too", err=True)
    if settings.weights == "demo":
        click.echo("This is the demo model: for trying things out, not for labelling photographs.", err=True)
        click.echo(
            "On photographs draw rectangles, or take real weights: PADDLE_SAM_WEIGHTS=mobile_sam (41 MB).", err=True
        )
    gunicorn_server.Server(settings, lambda: web.build(settings, checkpoint)).run()


@main.command(cls=CommandWithSettings)
@weights_option
@click.option(
    "--device", help="auto, cpu, gpu or gpu:N; one worker per device.  [env: PADDLE_SAM_DEVICE, DEVICE; default: auto]"
)
@click.option("--check", is_flag=True, help="Only tell, by the exit code, whether this machine's worker is alive.")
def worker(weights: str | None, device: str | None, check: bool) -> None:
    """Encode images for the web processes that share REDIS_URL, until stopped."""
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device})
    if settings.redis_url is None:
        refuse("a worker shares its work over Redis: set REDIS_URL, here and for the web processes")
    from backend import logs
    from backend.composition import cluster, web
    from backend.errors import RetryLater

    if check:
        try:
            sys.exit(GOOD if cluster.has_worker(settings) else PROBLEMS_FOUND)
        except RetryLater as error:
            refuse(str(error))
    logs.configure(settings.log_level)
    try:
        cluster.require_usable(settings)
        checkpoint = web.read_weights(settings)
    except (ValueError, OSError) as error:
        refuse(str(error))
    sys.exit(web.build_worker(settings, checkpoint).run())


@main.command()
@click.option(
    "--project", type=int, help="Also look at this project's model, labeling config and first image.  [default: none]"
)
def doctor(project: int | None) -> None:
    """Look for what keeps the backend from working, and say how to put it right."""
    settings = settings_of({})
    logging.getLogger("backend").addHandler(logging.NullHandler())  # its problems are printed once, below
    from backend import logs
    from backend.cli.doctor import examine
    from backend.cli.doctor_redis import examine as examine_redis
    from backend.cli.findings import Level
    from backend.composition import web
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.http import LabelStudioHttp

    logs.quiet_libraries()

    def weights() -> str:
        checkpoint = web.read_weights(settings)
        return f"{checkpoint.model_version}, {checkpoint.format} format, from {checkpoint.path}"

    label_studio = LabelStudio(LabelStudioHttp(settings.label_studio_url, settings.label_studio_api_key, attempts=1))
    images = web.image_source(settings, label_studio)
    marks = {Level.OK: "ok     ", Level.HINT: "hint   ", Level.PROBLEM: "PROBLEM"}
    code = GOOD
    findings = itertools.chain(examine(settings, label_studio, images, project, weights), examine_redis(settings))
    for finding in findings:
        click.echo(f"{marks[finding.level]} {finding.subject}: {finding.text}")
        if finding.fix:
            click.echo(f"        -> {finding.fix}")
        code = PROBLEMS_FOUND if finding.level is Level.PROBLEM else code
    label_studio.http.close()
    sys.exit(code)


main.add_command(precompute.command)
main.add_command(preannotate.command)
main.add_command(export_coco.command)
main.add_command(command.command, "demo")

if __name__ == "__main__":
    main(prog_name="python -m backend")
