"""``python -m backend worker``: encodes images for the web processes that share its Redis."""

import sys

import click

from backend.cli.commands import GOOD, PROBLEMS_FOUND, refuse, settings_of, weights_option
from backend.cli.settings_help import CommandWithSettings


@click.command("worker", cls=CommandWithSettings)
@weights_option
@click.option(
    "--device", help="auto, cpu, gpu or gpu:N; one worker per device.  [env: PADDLE_SAM_DEVICE, DEVICE; default: auto]"
)
@click.option("--check", is_flag=True, help="Only report, by the exit code, whether this machine's worker is alive.")
def command(weights: str | None, device: str | None, check: bool) -> None:
    """Encode images for the web processes that share REDIS_URL, until stopped."""
    settings = settings_of({"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_DEVICE": device}, is_local=check)
    if settings.redis_url is None:
        refuse("a worker shares its work over Redis: set REDIS_URL, here and for the web processes")
    from backend import logs
    from backend.composition import cluster, parts
    from backend.errors import RetryLater

    if check:
        try:
            sys.exit(GOOD if cluster.has_worker(settings) else PROBLEMS_FOUND)
        except RetryLater as error:
            refuse(str(error))
    logs.configure(settings.log_level)
    try:
        cluster.require_usable(settings)
        checkpoint = parts.read_weights(settings)
        parts.read_detector(settings)
    except (ValueError, OSError) as error:
        refuse(str(error))
    sys.exit(parts.build_worker(settings, checkpoint).run())
