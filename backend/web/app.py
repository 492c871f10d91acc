"""The HTTP routes of Label Studio's ML backend contract.

A click is never answered with an error status where an empty answer is possible: Label Studio hides error answers
from the annotator and leaves the prompt on the image. The reason goes to the log, the metrics and the status page.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, current_app, request

from backend import answer_log
from backend.errors import Reason, RetryLater
from backend.metrics import Metrics
from backend.protocol import messages
from backend.segmentation.service import Segmenter
from backend.types import Prediction, PredictRequest, WebhookEvent
from backend.web import pages, request_body, try_page
from backend.web.access import JSON, Access, Gate, json_response, protected
from backend.web.error_answers import ErrorAnswers
from backend.web.http_requests import DROP_AT_MOST
from backend.web.status.view import Status

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

GATE = "GATE"  # key in the application's ``config`` of its `Gate`, which a server asks before a request takes a thread
BODIES = "BODIES"  # key in the application's ``config`` of the `Bodies` in which a server keeps the bodies of requests


def create_app(
    segmenter: Segmenter,
    metrics: Metrics,
    status: Callable[[], Status],
    access: Access,
    unready: Callable[[], str] = lambda: "",
    samples: Path | None = None,
    on_event: Callable[[WebhookEvent], None] = lambda event: None,
    *,
    finds_words: bool = False,
) -> Flask:
    """Return the WSGI application.

    ``status`` returns what the status page shows, ``unready`` why clicks cannot be answered now. ``samples`` is the
    folder of the pictures that the page at ``/try`` offers; None for no such page; it has a field for words if the
    segmenter ``finds_words``. ``on_event`` is called with the events of webhooks; it raises `RetryLater` where the
    caller has to repeat one.
    """
    app = Flask(__name__)
    health = messages.dump_health(segmenter.model_version)
    probes = {"/health": lambda: json_response(health), "/ready": lambda: _readiness(unready())}
    gate = app.config[GATE] = Gate(access, metrics, probes)
    app.config["MAX_CONTENT_LENGTH"] = access.max_body_bytes
    app.before_request(lambda: gate.answer(request.method, request.path, request.headers.get("Authorization", "")))
    app.after_request(protected)
    app.after_request(_drop_body)
    ErrorAnswers(segmenter.model_version, metrics, access.max_body_bytes).register(app)
    for path, probe in probes.items():
        app.add_url_rule(path, path, probe)
    app.add_url_rule(
        "/", "index", lambda: pages.render("status", status=status()) if _wants_page() else json_response(health)
    )
    app.add_url_rule("/metrics", "metrics", lambda: Response(metrics.exposition(), content_type=PROMETHEUS))
    _add_contract(app, segmenter, metrics, access, on_event)
    if samples is not None:
        try_page.add(app, samples, access.max_body_bytes, finds_words=finds_words)
    return app


def _add_contract(
    app: Flask, segmenter: Segmenter, metrics: Metrics, access: Access, on_event: Callable[[WebhookEvent], None]
) -> None:
    predict_slots = threading.BoundedSemaphore(access.max_predicts)

    @app.post("/setup")
    def setup() -> Response:
        setup_request = messages.parse_setup(request_body.read(access.max_body_bytes))
        segmenter.setup(setup_request)
        return json_response(messages.dump_setup(segmenter.version_of(setup_request.project_id)))

    @app.get("/versions")
    def versions() -> Response:
        return json_response(messages.dump_versions([segmenter.model_version]))

    @app.post("/predict")
    def predict() -> Response:
        start = time.perf_counter()
        body = request_body.read(access.max_body_bytes)
        received, body_bytes = time.perf_counter(), len(body)
        predict_request = messages.parse_predict(body)
        if predict_request.context is not None:  # a click may wait for seconds, and does not need its body meanwhile
            del body
            request_body.release()
        predictions = _predictions(predict_request, segmenter, predict_slots)
        answer = messages.dump_predictions(predictions)
        total_s = time.perf_counter() - start
        answer_log.record(
            metrics, predict_request, predictions, received_s=received - start, total_s=total_s, body_bytes=body_bytes
        )
        return json_response(answer)

    @app.post("/webhook")
    def webhook() -> Response:
        event = messages.parse_webhook(request_body.read(access.max_body_bytes))
        segmenter.webhook(event)
        try:
            on_event(event)
        except RetryLater as error:  # Label Studio shows it beside the button
            return json_response(messages.dump_error(str(error)), 503)
        return json_response(b'{"status":"ok"}')


def _predictions(
    predict_request: PredictRequest, segmenter: Segmenter, slots: threading.BoundedSemaphore
) -> tuple[Prediction, ...]:
    """Return the answers; empty ones if all slots are taken, not to be stored for whole tasks: the caller retries."""
    if not slots.acquire(blocking=False):
        is_click = predict_request.context is not None
        version = segmenter.version_of(predict_request.project_id)
        empty = Prediction((), 0.0, version, (Reason.OVERLOADED,), should_store=is_click)
        return (empty,) * max(1, len(predict_request.tasks))
    try:
        return segmenter.predict(predict_request)
    finally:
        slots.release()


def _drop_body(response: Response) -> Response:
    request_body.drop(DROP_AT_MOST * int(current_app.config["MAX_CONTENT_LENGTH"]))
    return response


def _wants_page() -> bool:
    """Whether the caller is a browser; Label Studio and probes accept anything."""
    accepted = request.accept_mimetypes.best_match([JSON, "text/html"])
    return accepted == "text/html" and "text/html" in request.headers.get("Accept", "")


def _readiness(reason: str) -> Response:
    answer = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
    return json_response(json.dumps(answer).encode(), 503 if reason else 200)
