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
    asked: PredictRequest,
    predictions: Sequence[Prediction],
    *,
    received_s: float = 0.0,
    total_s: float,
    body_bytes: int = 0,
) -> None:
    """Record an answer.

    Args:
        metrics: counts the answer.
        asked: the request.
        predictions: one per task.
        received_s: how long reading the request took.
        total_s: how long the whole request took.
        body_bytes: size of the request.
    """
    noted = metrics.answered(asked, predictions, received_s=received_s, total_s=total_s, body_bytes=body_bytes)
    if asked.context is None:
        logger.info("tasks answered: task=%s tasks=%d %s", noted.task_id, noted.tasks, _outcome(noted, predictions))
    else:
        prompts = describe_prompts(asked.context)
        logger.info("click answered: task=%s prompts=%r %s", noted.task_id, prompts, _outcome(noted, predictions))


def describe_prompts(context: Sequence[PromptRegion]) -> str:
    """Return the prompts of a click in words.

    >>> from backend.shapes import Rectangle
    >>> point, box = KeyPoint(50, 50), Rectangle(10, 10, 30, 30)
    >>> describe_prompts([PromptRegion("a", point, "tool", "image"), PromptRegion("b", box, "box", "image")])
    '1 point, 1 rectangle'
    """
    counts = Counter(_kind(region) for region in context)
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()) or "none"


def _kind(region: PromptRegion) -> str:
    if isinstance(region.shape, KeyPoint):
        return "negative point" if region.is_positive is False else "point"
    return "brush stroke" if isinstance(region.shape, Brush) else type(region.shape).__name__.lower()


def _outcome(noted: AnsweredRequest, predictions: Sequence[Prediction]) -> str:
    scores = [prediction.score for prediction in predictions if prediction.result]
    fields = {
        "regions": noted.regions,
        "score": f"{sum(scores) / len(scores):.2f}" if scores else "-",
        "reasons": ",".join(noted.reasons) or "-",
        "ms": f"{noted.total_ms:.0f}",
        "embedding": noted.tier or ("waited" if not noted.is_warm else "-"),
        "project": noted.project_id,
        "bytes": noted.body_bytes,
        "event": "predicted",
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())
