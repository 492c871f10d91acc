"""Takes the snapshot that the status page shows: the state of one process' parts, and of the workers, as text."""

import os
import time
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
from backend.web.status.formatting import Speed, format_bytes, format_ms
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
    answered, failed = sum(request.regions > 0 for request in recent), sum(map(_is_failure, recent))
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
        tiers=_tiers(sources),
        cache=_cache(sources),
        work=(
            view.Field("being encoded or waiting", str(sources.work.encoding)),
            view.Field("to be encoded ahead", str(sources.work.ahead)),
            view.Field("memory for what waits", f"{taken}, of {format_bytes(sources.budget.max_bytes)}"),
        ),
        cluster=cluster,
        projects=_projects(sources),
        requests=tuple(map(_request, recent[:SHOWN_REQUESTS])),
    )


def cluster_view(state: ClusterState, outage: str = "") -> view.ClusterView:
    """Return a snapshot of the cluster as text; ``outage`` says why Redis cannot be reached, if it cannot.

    >>> cluster_view(ClusterState(), "Redis cannot be reached").headline
    'Redis does not answer'
    """
    if outage:
        problem = view.Problem("Redis", outage, Reason.STORE_UNAVAILABLE.remedy)
        return view.ClusterView(problems=(problem,), headline="Redis does not answer")
    if not state.is_known:
        return view.ClusterView((view.Field("workers", "not looked yet"),))
    problems = []
    if not state.workers:
        text = "none is running that could encode an image"
        problems.append(view.Problem("workers", text, "start one with python -m backend worker"))
    if state.other_models:
        names = ", ".join(state.other_models)
        problems.append(
            view.Problem("workers", f"with other weights: {names}", "give all of them one PADDLE_SAM_WEIGHTS")
        )
    rows = (
        view.Field("Redis answers in", format_ms(1000 * state.round_trip_s)),
        view.Field("encoded by all workers", str(state.encodes)),
        view.Field("fetched by all workers", str(state.fetches)),
        view.Field("given up by all workers", str(state.failures)),
    )
    queues = tuple(
        view.Queue(queue.name, queue.depth, format_ms(1000 * queue.age_s) if queue.depth else "")
        for queue in state.queues
    )
    headline = "" if state.workers else "no worker is running"
    return view.ClusterView(rows, state.worker_names, queues, tuple(problems), headline)


def _process(sources: StatusSources) -> str:
    workers = sources.settings.workers
    which = f"process {os.getpid()}" + (f", one of {workers}, each with figures of its own" if workers > 1 else "")
    return f"{which}, up {format_ms(1000 * sources.metrics.up_s)}"


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


def _is_failure(request: AnsweredRequest) -> bool:
    return not request.regions and any(reason.kind is not Kind.HARMLESS for reason in request.reasons)


def _causes(metrics: Metrics, recent: tuple[AnsweredRequest, ...]) -> tuple[view.Cause, ...]:
    last: dict[Reason, float] = {}
    for request in recent:
        for reason in request.reasons:
            last.setdefault(reason, request.at)
    causes = [
        view.Cause(
            str(reason),
            count,
            _clock(last[reason]) if reason in last else "",
            reason.meaning,
            reason.remedy,
            reason.kind is Kind.HARMLESS,
        )
        for reason, count in metrics.reason_counts().items()
    ]
    return tuple(sorted(causes, key=lambda cause: (cause.is_harmless, -cause.count, cause.reason)))


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


def _tiers(sources: StatusSources) -> tuple[view.Tier, ...]:
    hits = sources.metrics.lookups()
    return tuple(
        view.Tier(
            stats.name,
            stats.entries,
            format_bytes(stats.nbytes) + (f" of {format_bytes(stats.max_bytes)}" if stats.max_bytes else ""),
            min(1.0, stats.nbytes / stats.max_bytes) if stats.max_bytes else None,
            hits.get(stats.name, 0),
            stats.trouble,
        )
        for stats in sources.store.stats()
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
    return f"{state.value} since {_clock(training.at)}{': ' if training.text else ''}{training.text}"


def _request(answered: AnsweredRequest) -> view.RequestRow:
    kind = "click" if answered.is_click else "opened" if answered.tasks == 1 else f"{answered.tasks} tasks"
    project = f"project {answered.project_id}" if answered.project_id is not None else ""
    task = f"task {answered.task_id}" if answered.task_id is not None and answered.tasks == 1 else ""
    return view.RequestRow(
        _clock(answered.at),
        kind,
        ", ".join(filter(None, (project, task))),
        answered.regions,
        format_ms(answered.total_ms),
        ", ".join(f"{name} {took:.0f}" for name, took in answered.stages_ms.items() if name != "total" and took >= 0.5),
        tuple(map(str, answered.reasons)),
        _is_failure(answered),
    )


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at))
