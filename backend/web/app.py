"""The HTTP routes of Label Studio's ML backend contract, with access control, limits and error answers.

A click is never answered with an error status where an empty answer is possible: Label Studio hides error answers
from the annotator and leaves the prompt on the image. The reason goes to the log, the metrics and the status page.
"""

import base64
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from backend import answers
from backend.errors import ProtocolError, Reason, RequestError
from backend.metrics import Metrics
from backend.protocol import messages
from backend.segmentation.service import Segmenter
from backend.types import Prediction, PredictRequest, Secret
from backend.web.bodies import Body
from backend.web.status.view import Status

logger = logging.getLogger(__name__)

JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

RETRY_AFTER_S = 5

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer. The status page sets its own policy in a meta element, which cannot forbid framing."""

CHUNK = 1 << 16
ADMITS = "ADMITS"
"""Key in the application's ``config`` of a function: whether a server keeps the body of a caller with this header."""

BODIES = "BODIES"
"""Key in the application's ``config`` of the `Bodies` in which a server keeps the bodies of requests."""

DROP_AT_MOST = 8
"""How many times the largest body size is read and dropped, so that the caller receives the reason for the refusal."""


@dataclass(frozen=True)
class Access:
    """Credentials, and limits on the size and number of requests.

    Attributes:
        max_body_bytes: a larger request is refused: its body is only read to its end and dropped.
        max_predicts: how many predictions may run at a time, most of them waiting; further ones are answered empty at
            once, so that the remaining threads still answer ``/health``.
        user: Basic auth user; None admits every caller.
        password: Basic auth password.

    >>> Access(1000).admits(None, None)
    True
    >>> Access(1000, user="ada", password=Secret("key")).admits("ada", "guess")
    False
    """

    max_body_bytes: int
    max_predicts: int = 32
    user: str | None = None
    password: Secret | None = None

    def admits(self, user: str | None, password: str | None) -> bool:
        """Whether a caller with these credentials is admitted; compared in constant time."""
        if self.user is None or self.password is None:
            return True
        same_user = hmac.compare_digest((user or "").encode(), self.user.encode())
        same_password = hmac.compare_digest((password or "").encode(), self.password.value.encode())
        return same_user and same_password


def create_app(segmenter: Segmenter, metrics: Metrics, status: Callable[[], Status], access: Access) -> Flask:
    """Return the WSGI application.

    Args:
        segmenter: answers the requests.
        metrics: counts and times them.
        status: what the status page shows, taken at each call.
        access: who may call.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = access.max_body_bytes
    app.config[ADMITS] = lambda authorization: access.admits(*_credentials(authorization))
    _guard(app, access, segmenter, metrics)
    version = segmenter.model_version
    predict_slots = threading.BoundedSemaphore(access.max_predicts)

    @app.get("/health")
    def health() -> Response:
        return _json(messages.dump_health(version))

    @app.get("/")
    def index() -> Response:
        if request.accept_mimetypes.best_match([JSON, "text/html"]) != "text/html" or "text/html" not in (
            request.headers.get("Accept", "")
        ):
            return _json(messages.dump_health(version))
        page = render_template("status.html", status=status(), nonce=secrets.token_urlsafe(16))
        return Response(page, mimetype="text/html")

    @app.post("/setup")
    def setup() -> Response:
        segmenter.setup(messages.parse_setup(_body(access)))
        return _json(messages.dump_setup(version))

    @app.get("/versions")
    def versions() -> Response:
        return _json(messages.dump_versions([version]))

    @app.post("/predict")
    def predict() -> Response:
        start = time.perf_counter()
        body = _body(access)
        received, body_bytes = time.perf_counter(), len(body)
        predict_request = messages.parse_predict(body)
        if predict_request.context is not None:  # a click may wait for seconds, and does not need its body meanwhile
            del body
            _release_body()
        predictions = _predictions(predict_request, segmenter, predict_slots)
        answer = messages.dump_predictions(predictions)
        total_s = time.perf_counter() - start
        answers.note(
            metrics, predict_request, predictions, received_s=received - start, total_s=total_s, body_bytes=body_bytes
        )
        return _json(answer)

    @app.post("/webhook")
    def webhook() -> Response:
        segmenter.webhook(messages.parse_webhook(_body(access)))
        return _json(b'{"status":"ok"}')

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(), content_type=PROMETHEUS)

    return app


def _predictions(
    predict_request: PredictRequest, segmenter: Segmenter, slots: threading.BoundedSemaphore
) -> tuple[Prediction, ...]:
    """Return the answers; empty ones if all slots are taken, not to be stored for whole tasks: the caller retries."""
    if not slots.acquire(blocking=False):
        is_click = predict_request.context is not None
        empty = Prediction((), 0.0, segmenter.model_version, (Reason.OVERLOADED,), should_store=is_click)
        return (empty,) * max(1, len(predict_request.tasks))
    try:
        return segmenter.predict(predict_request)
    finally:
        slots.release()


def _guard(app: Flask, access: Access, segmenter: Segmenter, metrics: Metrics) -> None:
    """Check credentials before every route, and register an answer for every kind of error."""
    has_warned = threading.Event()

    def one_empty(reason: Reason) -> Response:
        # A click expects one answer; a request for many tasks is then repeated by Label Studio, one by one.
        return _json(messages.dump_predictions([Prediction((), 0.0, segmenter.model_version, (reason,))]))

    @app.before_request
    def check_access() -> Response | None:
        if request.path == "/health" or access.admits(*_credentials(request.headers.get("Authorization", ""))):
            return None
        if request.path == "/webhook" and request.method == "POST" and "Authorization" not in request.headers:
            return _ignore_webhook(has_warned)
        metrics.refused(Reason.AUTH_FAILED)
        return Response(
            b'{"detail":"wrong or missing credentials"}',
            401,
            {"WWW-Authenticate": 'Basic realm="paddle-sam"'},
            content_type=JSON,
        )

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

    @app.after_request
    def read_to_end(response: Response) -> Response:
        # If the connection closes while the caller is still sending, the caller sees an error and not the answer.
        _drop_body(DROP_AT_MOST * access.max_body_bytes)
        return response

    @app.errorhandler(ProtocolError)
    def bad_request(error: ProtocolError) -> Response:
        metrics.refused(error.reason)
        logger.warning("event=bad_request path=%s detail=%r", request.path, str(error))
        return _json(messages.dump_error(str(error)), 400)

    @app.errorhandler(RequestError)
    def too_complex(error: RequestError) -> Response:
        metrics.refused(error.reason)
        logger.warning("event=bad_request path=%s reason=%s detail=%r", request.path, error.reason, str(error))
        return one_empty(error.reason)

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(_: RequestEntityTooLarge) -> Response:
        logger.warning("event=body_too_large path=%s limit=%d", request.path, access.max_body_bytes)
        return unread(Reason.BODY_TOO_LARGE, f"expected at most {access.max_body_bytes} bytes", 413)

    @app.errorhandler(ServiceUnavailable)
    def overloaded(_: ServiceUnavailable) -> Response:
        logger.warning("event=bodies_full path=%s", request.path)
        answer = unread(Reason.OVERLOADED, "too many large requests at once; try again", 503)
        answer.headers["Retry-After"] = RETRY_AFTER_S
        return answer

    def unread(reason: Reason, text: str, code: int) -> Response:
        metrics.refused(reason)
        if request.path != "/predict":
            return _json(messages.dump_error(text), code)
        return one_empty(reason)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        answer = _json(messages.dump_error(error.description or error.name), error.code or 500)
        answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return answer

    @app.errorhandler(Exception)
    def defect(error: Exception) -> Response:
        metrics.refused(Reason.INTERNAL_ERROR)
        logger.exception("event=defect path=%s", request.path, exc_info=error)
        return _json(messages.dump_error("internal error; the log has the details"), 500)


def _ignore_webhook(has_warned: threading.Event) -> Response:
    """Answer a webhook without credentials: that is how Label Studio registers it, and calls it for each annotation."""
    logger.log(
        logging.DEBUG if has_warned.is_set() else logging.WARNING,
        "event=webhook_ignored detail='no credentials; to have new tasks encoded ahead, add an Authorization header "
        "under Settings > Webhooks of the project in Label Studio'",
    )
    has_warned.set()
    return _json(b'{"status":"ignored"}')


def _credentials(header: str) -> tuple[str | None, str | None]:
    """Return the user and password of an ``Authorization`` header, None where it is not a well-formed Basic one.

    Werkzeug's own parser raises at characters that are not ASCII, and accepts a user and password of any scheme.
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        user, _, password = base64.b64decode(rest.strip(" \t"), validate=True).decode().partition(":")
    except ValueError:
        return None, None
    return user, password


def _body(access: Access) -> bytes:
    """Return the request's body.

    Raises:
        HTTPException: the body is refused; it becomes the answer.
        ProtocolError: the body cannot be read to its end.
    """
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        if stream.refusal is Reason.BODY_TOO_LARGE:
            raise RequestEntityTooLarge
        if stream.refusal is not None:
            raise ServiceUnavailable
        return stream.take()
    try:
        body = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception as error:  # servers raise their own errors for malformed chunks
        raise ProtocolError(f"body: expected all of it, got {type(error).__name__}") from error
    if request.content_length is None and len(body) >= access.max_body_bytes:
        raise RequestEntityTooLarge  # Werkzeug truncates a body of unknown length without an error
    return body


def _release_body() -> None:
    """Free the memory of the request's body, where the server keeps it as a `Body`."""
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        stream.drop()


def _drop_body(limit: int) -> None:
    """Read what is left of the request's body, at most ``limit`` bytes of it."""
    if not request.environ.get("wsgi.input_terminated"):
        return  # the server does not mark the end of the body, and reading further would block for ever
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        return  # it was received before this was called
    try:
        while limit > 0 and (part := stream.read(min(CHUNK, limit))):
            limit -= len(part)
    except Exception as error:  # noqa: BLE001 - servers raise their own errors when the caller has disconnected
        logger.debug("event=body_ended path=%s detail=%r", request.path, str(error))


def _json(body: bytes, code: int = 200) -> Response:
    return Response(body, code, content_type=JSON)
