"""Builds what keeps, chooses and trains the decoders of projects."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from backend.composition import cluster
from backend.decoders import training
from backend.decoders.exchange import DecoderExchange, QueuedTrainings
from backend.decoders.folder import DecoderFolder
from backend.decoders.lazy_decoder import LazyDecoder
from backend.decoders.project_decoders import DecoderWatch, ProjectDecoders
from backend.decoders.training import LocalTrainings, State, TrainingLog, TrainingRunner, Trainings
from backend.errors import RetryLater
from backend.metrics import Metrics
from backend.settings import Settings
from model.weights import Checkpoint
from model.weights.decoder_weights import DecoderWeights, apply
from model.weights.errors import WeightsError


@dataclass(frozen=True)
class DecoderParts:
    """The decoders of a web process."""

    projects: ProjectDecoders  # chooses the decoder of a request
    trainings: Trainings
    log: TrainingLog
    start: Callable[[], None]  # begins to look for new decoders; after a fork, not before
    close: Callable[[], None]  # ends that, and the training that runs in this process


def web(settings: Settings, checkpoint: Checkpoint, base: LazyDecoder, metrics: Metrics) -> DecoderParts:
    """Return the decoders of a web process; ``base`` is the decoder of the checkpoint."""
    folder = DecoderFolder(settings.decoders_dir)
    projects, log = ProjectDecoders(base, checkpoint, folder, settings.device), TrainingLog(folder)
    _watch(metrics, projects, log)
    trainings: Trainings
    local: LocalTrainings | None = None
    if settings.redis_url is None:
        runner = TrainingRunner(training.command(settings.weights, settings.device), log)
        trainings = local = LocalTrainings(runner, log)
        watch, close_trainings = DecoderWatch(projects.refresh), local.close
    else:
        parts = cluster.connect(settings, checkpoint.model_version)
        trainings = queued = QueuedTrainings(parts, log)
        sync = DecoderExchange(parts.link, parts.keys, folder).sync
        watch, close_trainings = DecoderWatch(sync, queued.enqueue_lost, projects.refresh), parts.close

    def start() -> None:
        projects.refresh()  # so that the first answer is that of the project's decoder
        watch.start()
        if local is not None:
            local.end_lost()

    def close() -> None:
        watch.close()
        close_trainings()

    return DecoderParts(projects, trainings, log, start, close)


def publish(settings: Settings, project_id: int, data: bytes) -> DecoderWeights:
    """Add a new decoder to a project, and activate it unless another one is pinned; see `DecoderFolder.publish`.

    While Redis does not answer, the decoder is in this machine's folder; any process here shares it later.
    """
    with exchanged(settings, needs_redis=False) as folder:
        return folder.publish(project_id, data)


def tuned(settings: Settings, checkpoint: Checkpoint, project_id: int, say: Callable[[str], None]) -> Checkpoint:
    """Return the weights that serve a project now: with its active decoder, or as they are.

    A decoder that cannot be used is reported with ``say``, as is a Redis that does not answer.
    """
    try:
        with exchanged(settings) as folder:
            active = folder.record(project_id).active
            return checkpoint if active is None else apply(checkpoint, folder.read(project_id, active))
    except (WeightsError, RetryLater) as error:
        say(f"{error}; {checkpoint.model_version} is used")
        return checkpoint


@contextmanager
def exchanged(settings: Settings, *, needs_redis: bool = True) -> Iterator[DecoderFolder]:
    """Yield the folder of decoders, as new as that in Redis, and share what is changed in it.

    Raises:
        RetryLater: Redis does not answer, and ``needs_redis``.
        OSError: the folder cannot be written.
    """
    folder = DecoderFolder(settings.decoders_dir)
    if settings.redis_url is None:
        yield folder
        return
    tolerated = () if needs_redis else (RetryLater,)
    with closing(cluster.connect(settings, cluster.ANY_MODEL)) as parts:
        exchange = DecoderExchange(parts.link, parts.keys, folder)
        with suppress(*tolerated):
            exchange.sync()
        yield folder
        with suppress(*tolerated):
            exchange.sync()


def _watch(metrics: Metrics, projects: ProjectDecoders, log: TrainingLog) -> None:
    def count(state: State) -> int:
        return sum(each.state_at(log.now()) is state for each in log.all().values())

    def tuned_projects() -> int:
        return sum(record.active is not None for record in projects.records.values())

    metrics.watch("decoders_active", "Projects with a fine-tuned decoder that serves.", tuned_projects)
    metrics.watch("decoders_refused", "Projects whose decoder cannot be used.", lambda: len(projects.problems))
    metrics.watch("decoders_bytes", "Memory that loaded decoders of projects take.", lambda: projects.loaded_bytes)
    for state in (State.WAITING, State.RUNNING, State.DONE, State.FAILED):
        text = f"Projects whose last training is {state.value}."
        metrics.watch(f"trainings_{state.value}", text, partial(count, state))
