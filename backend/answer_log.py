"""Records answers in the metrics and in one log line each."""

import logging
from collections import Counter
from collections.abc import Sequence

from backend.metrics import AnsweredRequest, Metrics
from backend.shapes import Brush, KeyPoint
from backend.types import Prediction, PredictRequest, PromptRegion

logger = logging.getLogger(__name__)


def record(
    metrics: Metrics,
    request: PredictRequest,
    predictions: Sequence[Prediction],
    *,
    received_s: float = 0.0,
    total_s: float,
    body_bytes: int = 0,
) -> None:
    """Record an answer, which has one prediction per task.

    ``received_s`` is the time that reading the request took, ``total_s`` the time from its first byte to the answer.
    """
    answered = metrics.record_answer(
        request, predictions, received_s=received_s, total_s=total_s, body_bytes=body_bytes
    )
    if request.context is None:
        logger.info(
            "tasks answered: task=%s tasks=%d %s", answered.task_id, answered.tasks, _outcome(answered, predictions)
        )
    else:
        prompts = describe_prompts(request.context, len(request.texts))
        logger.info("click answered: task=%s prompts=%r %s", answered.task_id, prompts, _outcome(answered, predictions))


def describe_prompts(context: Sequence[PromptRegion], texts: int = 0) -> str:
    """Return a click's prompts in words; ``texts`` is how many of them are typed.

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
