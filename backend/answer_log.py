"""Records answers in the metrics and in one log line each."""

import logging
from collections import Counter
from collections.abc import Sequence

from backend.metrics import AnsweredRequest, Metrics
from backend.shapes import Brush, KeyPoint
from backend.types import Prediction, PredictRequest, PromptRegion

logger = logging.getLogger(__name__)


def note(
    metrics: Metrics,
    request: PredictRequest,
    predictions: Sequence[Prediction],
    *,
    received_s: float = 0.0,
    total_s: float,
    body_bytes: int = 0,
) -> None:
    """Record an answer, one prediction per task; reading the request took ``received_s``, all of it ``total_s``."""
    record = metrics.answered(request, predictions, received_s=received_s, total_s=total_s, body_bytes=body_bytes)
    if request.context is None:
        logger.info("tasks answered: task=%s tasks=%d %s", record.task_id, record.tasks, _outcome(record, predictions))
    else:
        prompts = describe_prompts(request.context, len(request.texts))
        logger.info("click answered: task=%s prompts=%r %s", record.task_id, prompts, _outcome(record, predictions))


def describe_prompts(context: Sequence[PromptRegion], texts: int = 0) -> str:
    """Return the prompts of a click in words, and of how many ``texts`` with words.

    >>> from backend.shapes import Rectangle
    >>> point, box = KeyPoint(50, 50), Rectangle(10, 10, 30, 30)
    >>> describe_prompts([PromptRegion("a", point, "tool", "image"), PromptRegion("b", box, "box", "image")])
    '1 point, 1 rectangle'
    """
    counts = Counter(_kind(region) for region in context) + Counter(text=texts)
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()) or "none"


def _kind(region: PromptRegion) -> str:
    if isinstance(region.shape, KeyPoint):
        return "negative point" if region.is_positive is False else "point"
    return "brush stroke" if isinstance(region.shape, Brush) else type(region.shape).__name__.lower()


def _outcome(record: AnsweredRequest, predictions: Sequence[Prediction]) -> str:
    scores = [prediction.score for prediction in predictions if prediction.result]
    fields = {
        "regions": record.regions,
        "score": f"{sum(scores) / len(scores):.2f}" if scores else "-",
        "reasons": ",".join(record.reasons) or "-",
        "ms": f"{record.total_ms:.0f}",
        "embedding": record.tier or ("waited" if not record.is_warm else "-"),
        "project": record.project_id,
        "bytes": record.body_bytes,
        "event": "predicted",
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())
