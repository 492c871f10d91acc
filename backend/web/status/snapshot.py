"""Takes the snapshot that the status page shows: the state of one process' parts, and of the workers."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from backend.cluster.monitor import ClusterState
from backend.concurrency.byte_budget import ByteBudget, Use
from backend.decoders.folder import Record
from backend.decoders.lazy_decoder import LazyDecoder
from backend.decoders.project_decoders import ProjectDecoders
from backend.decoders.training import State, Training, TrainingLog
from backend.embeddings.stores import EmbeddingStore
from backend.errors import Kind, Reason
from backend.label_studio.tokens import NEW_API_KEY, NO_API_KEY
from backend.metrics import AnsweredRequest, Metrics
from backend.settings import ABOUT_DEMO, Settings
from backend.web import readiness
from backend.web.readiness import Work
from backend.web.status import view
from backend.web.status.formatting import Speed, format_bytes, format_clock, format_ms
from model.weights import Checkpoint

SHOWN_REQUESTS = 20
SHOWN_PROJECTS = 20


@dataclass(frozen=True)
class StatusSources:
    """The parts of a web process whose state the status page shows."""

    settings: Settings
    checkpoint: Checkpoint
    work: Work
    decoder: LazyDecoder  # its device is empty while it is loading; its failure is set if it could not be loaded
    store: EmbeddingStore
    metrics: Metrics
    cluster: Callable[[], view.ClusterView | None]  # returns the workers; None without Redis
    budget: ByteBudget
    decoders: ProjectDecoders
    trainings: TrainingLog


def take(sources: StatusSources) -> view.Status:
    """Return the current state of a process."""
    cluster, recent = sources.cluster(), sources.metrics.recent()
    answered = sum(request.regions > 0 for request in recent)
    failed = sum(request.is_failure for request in recent)
    taken = ", ".join(f"{format_bytes(sources.budget.taken_for(use))} {use.value}" for use in Use)
    reason = readiness.obstacle(sources.work, sources.decoder, cluster)
    return view.Status(
        headline=reason or "ready",
        is_ready=not reason,
        is_broken=bool(reason) and readiness.is_broken(sources.work, sources.decoder, cluster),
        process=_process(sources),
        problems=_problems(sources, cluster),
        speeds=_speeds(recent, sources.metrics.times.encodes_ms(), has_encoder=cluster is None),
        outcomes=view.Outcomes(answered, len(recent) - answered - failed, failed),
        causes=_causes(sources.metrics, recent),
        model=_model(sources),
        tiers=tuple(sources.store.stats()),
        cache=_cache(sources),
        work=(
            view.Field("being encoded or waiting", str(sources.work.encoding)),
            view.Field("to be encoded ahead", str(sources.work.ahead)),
            view.Field("memory for what waits", f"{taken}, of {format_bytes(sources.budget.max_bytes)}"),
        ),
        cluster=cluster,
        projects=_projects(sources),
        requests=recent[:SHOWN_REQUESTS],
    )


def cluster_view(state: ClusterState, outage: str = "") -> view.ClusterView:
    """Return the state of the cluster with its problems; ``outage`` says why Redis cannot be reached, if it cannot.

    >>> cluster_view(ClusterState(), "Redis cannot be reached").headline
    'Redis does not answer'
    """
    if outage:
        problem = view.Problem("Redis", outage, Reason.STORE_UNAVAILABLE.remedy)
        return view.ClusterView(problems=(problem,), headline="Redis does not answer")
    problems = []
    if state.is_known and not state.workers:
        text = "none is running that could encode an image"
        problems.append(view.Problem("workers", text, "start one with python -m backend worker"))
    if state.other_models:
        names = ", ".join(state.other_models)
        problems.append(
            view.Problem("workers", f"with other weights: {names}", "give all of them one PADDLE_SAM_WEIGHTS")
        )
    headline = "no worker is running" if state.is_known and not state.workers else ""
    return view.ClusterView(state, tuple(problems), headline)


def _process(sources: StatusSources) -> str:
    workers = sources.settings.workers
    process = f"process {os.getpid()}" + (f", one of {workers}, each with figures of its own" if workers > 1 else "")
    return f"{process}, up {format_ms(1000 * sources.metrics.up_s)}"


def _problems(sources: StatusSources, cluster: view.ClusterView | None) -> tuple[view.Problem, ...]:
    problems = [
        view.Problem("model", failure, "check PADDLE_SAM_WEIGHTS and PADDLE_SAM_DEVICE")
        for failure in dict.fromkeys((sources.decoder.failure, sources.work.failure))
        if failure
    ]
    problems += cluster.problems if cluster is not None else ()
    fix = "take its weights back, fine-tune again, or roll back with python -m backend decoders"
    problems += [view.Problem(f"project {number}", text, fix) for number, text in sources.decoders.problems.items()]
    if sources.settings.label_studio_api_key is None:
        problems.append(view.Problem("API key", NO_API_KEY, NEW_API_KEY))
    return tuple(problems)


def _speeds(
    recent: tuple[AnsweredRequest, ...], encodes_ms: tuple[float, ...], *, has_encoder: bool
) -> tuple[Speed, ...]:
    clicks = [request for request in recent if request.is_click and request.regions]
    warm = tuple(click.total_ms for click in clicks if click.is_warm)
    first = tuple(click.total_ms for click in clicks if not click.is_warm)
    speeds = (
        Speed("Warm clicks", "on images that were encoded before", warm),
        Speed("First clicks", "which waited for their image", first),
    )
    return (*speeds, Speed("Encodes", "once per image", encodes_ms)) if has_encoder else speeds


def _causes(metrics: Metrics, recent: tuple[AnsweredRequest, ...]) -> tuple[view.Cause, ...]:
    last: dict[Reason, float] = {}
    for request in recent:
        for reason in request.reasons:
            last.setdefault(reason, request.at)
    causes = [view.Cause(reason, count, last.get(reason)) for reason, count in metrics.reason_counts().items()]
    return tuple(sorted(causes, key=lambda cause: (cause.reason.kind is Kind.HARMLESS, -cause.count, cause.reason)))


def _model(sources: StatusSources) -> tuple[view.Field, ...]:
    checkpoint, side = sources.checkpoint, sources.checkpoint.config.image_size
    return (
        view.Field("version", checkpoint.model_version),
        *((view.Field("note", ABOUT_DEMO),) if sources.settings.weights == "demo" else ()),
        view.Field("weights", f"{checkpoint.format} format"),
        view.Field("device", sources.decoder.device or f"{sources.settings.device}, not loaded yet"),
        view.Field("input", f"{side} × {side} pixels"),
        view.Field("takes", ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")),
    )


def _cache(sources: StatusSources) -> tuple[view.Field, ...]:
    hits = dict(sources.metrics.lookups())
    missed = hits.pop("miss", 0)
    total = sum(hits.values()) + missed
    share = f"{100 * (total - missed) / total:.0f} % of {total}" if total else "none yet"
    return (view.Field("look-ups that found one", share), view.Field("numbers", sources.settings.embedding_dtype))


def _projects(sources: StatusSources) -> tuple[view.ProjectRow, ...]:
    opened, refused = sources.metrics.configs.by_project(), sources.decoders.problems
    records, trainings = sources.decoders.records, sources.trainings.all()
    projects = [view.ProjectRow("unnamed", opened[None])] if None in opened else []
    numbers = [*(number for number in reversed(list(opened)) if number is not None), *records, *trainings]
    projects += [
        view.ProjectRow(
            str(number),
            (*opened.get(number, ()), *((refused[number],) if number in refused else ())),
            number in opened,
            _decoder(records.get(number, Record()), number in refused),
            _training(trainings.get(number, Training()), sources.trainings.now()),
        )
        for number in dict.fromkeys(numbers)
    ]
    return tuple(sorted(projects, key=lambda project: not project.problems)[:SHOWN_PROJECTS])


def _decoder(record: Record, is_refused: bool) -> str:
    name = "" if record.active is None or is_refused else record.active[:8]
    return f"{name or 'of the weights'}, pinned" if record.is_pinned else name


def _training(training: Training, now: float) -> str:
    state = training.state_at(now)
    if state is State.NONE:
        return ""
    return f"{state.value} since {format_clock(training.at)}{': ' if training.text else ''}{training.text}"
