"""``python -m backend erase``: what is kept of a project, here and in Redis."""

from contextlib import closing

import click

from backend.cli.commands import refuse, settings_of

WAIT_S = 30.0


@click.command("erase")
@click.option("--project", type=click.IntRange(1), required=True, help="Number of the project.")
def command(project: int) -> None:
    """Erase what this machine and Redis keep of a project; Label Studio keeps what it has.

    These are the embeddings of its images, what was found on them, the addresses that were seen, the last answers, the
    fine-tuned decoders, the state of a training and one that waits. An image file that other projects have too, or that
    is listed for no project, is encoded again when it is needed. Delete the project in Label Studio first, and restart
    web processes and workers afterwards: they hold embeddings in memory.
    """
    settings = settings_of({}, is_local=True)
    from backend.cluster import erase  # here: --help must not wait for them
    from backend.composition import cluster
    from backend.composition.decoders import exchanged
    from backend.decoders.folder import erase as erase_decoders
    from backend.decoders.training import STATES, State, TrainingLog
    from backend.embeddings.content_records import ContentDatabase
    from backend.embeddings.stores import FileStore
    from backend.errors import BackendError

    folder, in_redis = settings.cache_dir, 0
    try:
        with exchanged(settings) as decoders:
            decoder_count = erase_decoders(decoders, project)
            log = TrainingLog(decoders)
            if project in log.all():
                log.write(project, State.NONE)
        if settings.redis_url is not None:
            with closing(cluster.connect(settings, cluster.ANY_MODEL)) as parts:
                in_redis = erase.erase(parts.link, parts.keys, project)
        database = ContentDatabase(folder / "contents.db", settings.label_studio_url, locked_s=WAIT_S)
        kept = database.files_of_others(project)
        on_disk = 0 if kept is None else FileStore(folder, 0).keep_only(kept)
        # The list of files goes last, so that a run that was cut off can be repeated.
        if kept is None or not database.erase(project):
            raise OSError(f"{folder / 'contents.db'} cannot be written, or another process uses it: stop the service")
        (folder / STATES / f"{project}.safetensors").unlink(missing_ok=True)
    except (BackendError, ValueError, OSError) as error:
        refuse(str(error))
    click.echo(f"erased of project {project}:")
    click.echo(f"  embeddings on disk: {on_disk}\n  entries in Redis: {in_redis}\n  decoders: {decoder_count}")
    click.echo("restart web processes and workers: they hold embeddings in memory")
