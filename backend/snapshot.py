"""Takes the snapshot that the status page shows: what one process' parts say of themselves, put into words."""

import time
from collections.abc import Sequence
from typing import Protocol

from backend.loading_decoder import LoadingDecoder
from backend.metrics import Metrics
from backend.settings import MB, Settings
from backend.status import Request, Row, Status
from backend.store import EmbeddingStore
from model.weights import Checkpoint


class Work(Protocol):
    """What is being encoded; see `backend.embeddings.LocalEmbeddings` and `backend.queued_embeddings`."""

    @property
    def is_ready(self) -> bool:
        """Whether an image that nobody has encoded yet can be."""
        ...

    @property
    def encoding(self) -> int:
        """How many images this process encodes or waits for."""
        ...

    @property
    def ahead(self) -> int:
        """How many images wait to be encoded ahead."""
        ...


def take(
    settings: Settings,
    checkpoint: Checkpoint,
    embeddings: Work,
    decoder: LoadingDecoder,
    store: EmbeddingStore,
    metrics: Metrics,
    more: Sequence[Row],
) -> Status:
    """Return how a process is now; ``more`` is what else is to be said of its encodes."""
    is_ready = embeddings.is_ready and bool(decoder.device)
    headline = "ready" if is_ready else "the model cannot be loaded" if decoder.failure else "loading the model"
    config = checkpoint.config
    model = (
        Row("version", checkpoint.model_version),
        Row("device", decoder.device or settings.device),
        Row("input", f"{config.image_size} x {config.image_size} pixels"),
        Row("takes", ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")),
    )
    tiers = store.stats()
    cache = tuple(
        Row(
            one.name,
            one.trouble or f"{one.entries} images, {one.nbytes / MB:.0f} of {one.max_bytes / MB:.0f} MB",
            is_problem=bool(one.trouble),
        )
        for one in tiers
    )
    queue = (
        Row("being encoded or waiting", str(embeddings.encoding)),
        Row("to be encoded ahead", str(embeddings.ahead)),
        *more,
    )
    problems = [
        Row(f"project {project}", text, is_problem=True)
        for project, texts in metrics.config_problems().items()
        for text in texts
    ]
    if decoder.failure:
        problems.insert(0, Row("model", decoder.failure, is_problem=True))
    if settings.label_studio_api_key is None:
        text = "LABEL_STUDIO_API_KEY is not set: images uploaded to Label Studio cannot be fetched"
        problems.append(Row("API key", text, is_problem=True))
    requests = tuple(
        Request(
            time.strftime("%H:%M:%S", time.gmtime(one.at)),
            one.tasks,
            one.regions,
            one.total_ms,
            ", ".join(f"{name} {took:.0f}" for name, took in one.stages_ms.items() if name != "total" and took >= 0.5),
            tuple(str(reason) for reason in one.reasons),
        )
        for one in metrics.recent()
    )
    return Status(headline, is_ready, model, cache, queue, tuple(problems), requests)
