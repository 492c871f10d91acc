"""Notes that an answer was given: in the metrics, and in one line of the log."""

import logging
from collections.abc import Sequence

from backend.metrics import Metrics
from backend.types import Prediction, PredictRequest

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
    """Note an answer.

    Args:
        metrics: counts it.
        asked: the request.
        predictions: one per task.
        received_s: how long reading the request took.
        total_s: how long everything took.
        body_bytes: size of the request.
    """
    metrics.answered(asked, predictions, received_s=received_s, total_s=total_s, body_bytes=body_bytes)
    logger.info(
        "event=predicted project=%s tasks=%d regions=%d reasons=%s ms=%.1f bytes=%d",
        asked.project_id,
        len(predictions),
        sum(len(one.result) for one in predictions),
        ",".join(dict.fromkeys(str(reason) for one in predictions for reason in one.reasons)) or "-",
        total_s * 1000,
        body_bytes,
    )
