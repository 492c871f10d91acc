"""``python -m backend serve``: one web service, or the check whether it is up."""

import http.client
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from backend.cli.commands import GOOD, PROBLEMS_FOUND, refuse, settings_of, weights_option
from backend.cli.settings_help import CommandWithSettings
from backend.settings import ABOUT_DEMO

if TYPE_CHECKING:
    from backend.web import gunicorn_server, single_process

CHECK_TIMEOUT_S = 5.0
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only looked up


def is_up(host: str, port: int) -> bool:
    """Return whether a service that listens on this address answers; the request never uses a proxy."""
    connection = http.client.HTTPConnection(EVERY_ADDRESS.get(host, host), port, timeout=CHECK_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def server_for(platform: str) -> "type[gunicorn_server.Server | single_process.Server]":
    """Return what serves on a platform, by its name in `sys.platform`."""
    from backend.web import single_process

    if platform != "darwin":
        with suppress(ImportError):  # gunicorn, or what it needs of the system
            from backend.web import gunicorn_server

            return gunicorn_server.Server
    return single_process.Server


@click.command("serve", cls=CommandWithSettings)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [env: PORT; default: 9090]")
@click.option("--host", help="Address to listen on.  [env: HOST; default: 0.0.0.0]")
@weights_option
@click.option("--check", is_flag=True, help="Only report, by the exit code, whether the service at this address is up.")
def command(port: int | None, host: str | None, weights: str | None, check: bool) -> None:
    """Serve Label Studio until stopped."""
    settings = settings_of({"PORT": port, "HOST": host, "PADDLE_SAM_WEIGHTS": weights}, is_local=check)
    if check:
        sys.exit(GOOD if is_up(settings.host, settings.port) else PROBLEMS_FOUND)
    from backend import logs
    from backend.composition import cluster, parts, web
    from backend.web import listening  # imported here, so that --help is fast

    logs.configure(settings.log_level)
    try:
        server = server_for(sys.platform)(settings, lambda: web.build(settings, checkpoint))
        listening.check_temporary_folder()
        listening.check_port(settings.host, settings.port)
        cluster.require_usable(settings)
        checkpoint = parts.read_weights(settings)
        parts.read_detector(settings)
    except (ValueError, OSError) as error:
        refuse(str(error))
    shown = "localhost" if settings.host in EVERY_ADDRESS else settings.host
    click.echo(f"{checkpoint.model_version} on http://{shown}:{settings.port}, its status page too", err=True)
    if settings.weights == "demo":
        click.echo(f"{ABOUT_DEMO[0].upper()}{ABOUT_DEMO[1:]}.", err=True)
        advice = "On photographs draw rectangles, or take real weights: PADDLE_SAM_WEIGHTS=mobile_sam (41 MB)."
        click.echo(advice, err=True)
    server.run()
