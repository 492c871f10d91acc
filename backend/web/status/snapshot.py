"""Takes the snapshot that the status page shows: the state of one process' parts, as text."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from backend.concurrency.byte_budget import ByteBudget, Use
from backend.embeddings.stores import EmbeddingStore
from backend.errors import Kind, Reason
from backend.label_studio.tokens import NEW_API_KEY, NO_API_KEY
from backend.metrics import AnsweredRequest, Metrics
from backend.segmentation.lazy_decoder import LazyDecoder
from backend.settings import ABOUT_DEMO, Settings
from backend.web.status.formatting import Speed, format_bytes, format_ms
from backend.web.status.view import Cause, ClusterView, Field, Outcomes, Problem, Project, Request, Status, Tier
from model.weights import Checkpoint

SHOWN_REQUESTS = 20
SHOWN_PROJECTS = 20


class Work(Protocol):
    """The state of encoding; see `backend.embeddings.local.LocalEmbeddings` and `backend.cluster.remote`."""

    @property
    def is_ready(self) -> bool:
        """Whether a new image can be encoded."""
        ...

    @property
    def failure(self) -> str:
        """Why the encoder could not be loaded; empty if it could or was not tried."""
        ...

    @property
    def encoding(self) -> int:
        """How many images this process encodes or waits for."""
        ...

    @property
    def ahead(self) -> int:
        """How many images wait to be encoded ahead."""
        ...


@dataclass(frozen=True)
class StatusSources:
    """The parts of a web process whose state the status page shows.

    Attributes:
        settings: the settings it was built from.
        checkpoint: its weights.
        work: the state of encoding.
        decoder: its device is empty while it is loading; its failure is set if it could not be loaded.
        store: where embeddings are kept.
        metrics: counts and times.
        team: returns the workers; None without Redis.
        budget: the memory for bodies, ``data:`` addresses and files.
    """

    settings: Settings
    checkpoint: Checkpoint
    work: Work
    decoder: LazyDecoder
    store: EmbeddingStore
    metrics: Metrics
    team: Callable[[], ClusterView | None]
    budget: ByteBudget


def take(parts: StatusSources) -> Status:
    """Return the current state of a process."""
    team, recent, reason = parts.team(), parts.metrics.recent(), unready(parts)
    return Status(
        headline=reason or "ready",
        is_ready=not reason,
        is_broken=bool(reason) and _is_broken(parts, team),
        process=_process(parts),
        problems=_problems(parts, team),
        speeds=_speeds(recent, parts.metrics.times.encodes_ms(), has_encoder=team is None),
        outcomes=_outcomes(recent),
        causes=_causes(parts.metrics, recent),
        model=_model(parts),
        tiers=_tiers(parts),
        cache=_cache(parts),
        work=(
            Field("being encoded or waiting", str(parts.work.encoding)),
            Field("to be encoded ahead", str(parts.work.ahead)),
            Field("memory for what waits", _buffered(parts.budget)),
        ),
        team=team,
        projects=_projects(parts.metrics),
        requests=tuple(map(_request, recent[:SHOWN_REQUESTS])),
    )


def unready(parts: StatusSources) -> str:
    """Return why clicks cannot be answered now, in a few words; empty if they can."""
    if parts.work.is_ready and parts.decoder.device:
        return ""
    team = parts.team()
    if parts.decoder.failure or parts.work.failure:
        return "the model cannot be loaded"
    if team is not None and team.headline:
        return team.headline
    return "loading the model" if team is None or not parts.decoder.device else "looking for workers"


def _is_broken(parts: StatusSources, team: ClusterView | None) -> bool:
    return bool(parts.decoder.failure or parts.work.failure or (team is not None and team.headline))


def _process(parts: StatusSources) -> str:
    workers = parts.settings.workers
    which = f"process {os.getpid()}" + (f", one of {workers}, each with figures of its own" if workers > 1 else "")
    return f"{which}, up {format_ms(1000 * parts.metrics.up_s)}"


def _problems(parts: StatusSources, team: ClusterView | None) -> tuple[Problem, ...]:
    problems = [
        Problem("model", failure, "check PADDLE_SAM_WEIGHTS and PADDLE_SAM_DEVICE")
        for failure in dict.fromkeys((parts.decoder.failure, parts.work.failure))
        if failure
    ]
    problems += team.problems if team is not None else ()
    if parts.settings.label_studio_api_key is None:
        problems.append(Problem("API key", NO_API_KEY, NEW_API_KEY))
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


def _outcomes(recent: tuple[AnsweredRequest, ...]) -> Outcomes:
    answered, failed = sum(request.regions > 0 for request in recent), sum(map(_is_failure, recent))
    return Outcomes(answered, len(recent) - answered - failed, failed)


def _is_failure(request: AnsweredRequest) -> bool:
    """Whether a request that expected a mask got none."""
    return not request.regions and any(reason.kind is not Kind.HARMLESS for reason in request.reasons)


def _causes(metrics: Metrics, recent: tuple[AnsweredRequest, ...]) -> tuple[Cause, ...]:
    last: dict[Reason, float] = {}
    for request in recent:
        for reason in request.reasons:
            last.setdefault(reason, request.at)
    causes = [
        Cause(
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


def _model(parts: StatusSources) -> tuple[Field, ...]:
    checkpoint, side = parts.checkpoint, parts.checkpoint.config.image_size
    return (
        Field("version", checkpoint.model_version),
        *((Field("note", ABOUT_DEMO),) if parts.settings.weights == "demo" else ()),
        Field("weights", f"{checkpoint.format} format"),
        Field("device", parts.decoder.device or f"{parts.settings.device}, not loaded yet"),
        Field("input", f"{side} × {side} pixels"),
        Field("takes", ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")),
    )


def _tiers(parts: StatusSources) -> tuple[Tier, ...]:
    hits = parts.metrics.lookups()
    return tuple(
        Tier(
            stats.name,
            stats.entries,
            format_bytes(stats.nbytes) + (f" of {format_bytes(stats.max_bytes)}" if stats.max_bytes else ""),
            min(1.0, stats.nbytes / stats.max_bytes) if stats.max_bytes else None,
            hits.get(stats.name, 0),
            stats.trouble,
        )
        for stats in parts.store.stats()
    )


def _buffered(budget: ByteBudget) -> str:
    taken = ", ".join(f"{format_bytes(budget.taken_for(use))} {use.value}" for use in Use)
    return f"{taken}, of {format_bytes(budget.max_bytes)}"


def _cache(parts: StatusSources) -> tuple[Field, ...]:
    hits = dict(parts.metrics.lookups())
    missed = hits.pop("miss", 0)
    total = sum(hits.values()) + missed
    share = f"{100 * (total - missed) / total:.0f} % of {total}" if total else "none yet"
    return (Field("look-ups that found one", share), Field("numbers", parts.settings.embedding_dtype))


def _projects(metrics: Metrics) -> tuple[Project, ...]:
    projects = [
        Project("unnamed" if number is None else str(number), problems)
        for number, problems in list(metrics.configs.by_project().items())[::-1]
    ]
    return tuple(sorted(projects, key=lambda project: not project.problems)[:SHOWN_PROJECTS])


def _request(answered: AnsweredRequest) -> Request:
    kind = "click" if answered.is_click else "opened" if answered.tasks == 1 else f"{answered.tasks} tasks"
    project = f"project {answered.project_id}" if answered.project_id is not None else ""
    task = f"task {answered.task_id}" if answered.task_id is not None and answered.tasks == 1 else ""
    return Request(
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
    """Return a Unix time as ``HH:MM:SS`` UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(at))
