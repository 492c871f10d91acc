"""The HTTP routes of Label Studio's ML backend contract: who may call, how much, and what an error looks like.

A click is never answered with an error status where an empty answer is possible: Label Studio hides error answers
from the annotator and leaves the prompt behind. The reason goes to the log, the metrics and the status page.
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
"""Of every answer. What the status page may load and do, it says itself; framing only a header can forbid."""

CHUNK = 1 << 16
ADMITS = "ADMITS"
"""Where the application's ``config`` has what tells a server whose bodies are worth keeping."""

DROP_AT_MOST = 8
"""How many times the largest body is read and dropped, for the caller to hear why it was not taken."""


@dataclass(frozen=True)
class Access:
    """Who may call, with how large a body, and how many at once.

    Attributes:
        max_body_bytes: a larger request is not taken in, only read to its end and dropped.
        max_predicts: how many predictions may be in hand, most of them waiting; what comes beyond them is answered
            empty at once, so that the threads left over go on answering that the service is up.
        user: Basic auth user, None to let everybody in.
        password: Basic auth password.
    """

    max_body_bytes: int
    max_predicts: int = 32
    user: str | None = None
    password: Secret | None = None

    def admits(self, user: str | None, password: str | None) -> bool:
        """Whether these credentials open the door; compared in constant time."""
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
    places = threading.BoundedSemaphore(access.max_predicts)

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
        asked = messages.parse_predict(body)
        if asked.context is not None:  # a click waits for seconds, and needs nothing of its body then
            del body
            _let_go()
        predictions = _predictions(asked, segmenter, places)
        answer = messages.dump_predictions(predictions)
        took = time.perf_counter() - start
        answers.note(metrics, asked, predictions, received_s=received - start, total_s=took, body_bytes=body_bytes)
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
    asked: PredictRequest, segmenter: Segmenter, places: threading.BoundedSemaphore
) -> tuple[Prediction, ...]:
    """Return an answer, an empty one where all places are taken; whole tasks are then to be asked for again."""
    if not places.acquire(blocking=False):
        is_click = asked.context is not None
        empty = Prediction((), 0.0, segmenter.model_version, (Reason.OVERLOADED,), should_store=is_click)
        return (empty,) * max(1, len(asked.tasks))
    try:
        return segmenter.predict(asked)
    finally:
        places.release()


def _guard(app: Flask, access: Access, segmenter: Segmenter, metrics: Metrics) -> None:
    """Check credentials before every route, and give every error its answer."""
    told = threading.Event()

    def one_empty(reason: Reason) -> Response:
        # It is what a click expects; for many tasks Label Studio then asks again, one by one.
        return _json(messages.dump_predictions([Prediction((), 0.0, segmenter.model_version, (reason,))]))

    @app.before_request
    def check_access() -> Response | None:
        if request.path == "/health" or access.admits(*_credentials(request.headers.get("Authorization", ""))):
            return None
        if request.path == "/webhook" and request.method == "POST" and "Authorization" not in request.headers:
            return _ignore_webhook(told)
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
    def hear_out(response: Response) -> Response:
        # Hung up on in the middle of its body, a caller sees a broken connection and never the answer.
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


def _ignore_webhook(told: threading.Event) -> Response:
    """Answer a webhook without credentials: Label Studio registers it so, and calls it for every saved annotation."""
    logger.log(
        logging.DEBUG if told.is_set() else logging.WARNING,
        "event=webhook_ignored detail='no credentials; to have new tasks encoded ahead, add an Authorization header "
        "under Settings > Webhooks of the project in Label Studio'",
    )
    told.set()
    return _json(b'{"status":"ignored"}')


def _credentials(header: str) -> tuple[str | None, str | None]:
    """Return the user and password of an ``Authorization`` header, None where it is not a well-formed Basic one.

    Werkzeug's own reading raises at letters that are not ASCII, and takes a user and password of any scheme.
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
    """Return the request's body; what is not taken raises, and is answered, as an ``HTTPException``."""
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
    except Exception as error:  # servers have errors of their own for chunks that are none
        raise ProtocolError(f"body: expected all of it, got {type(error).__name__}") from error
    if request.content_length is None and len(body) >= access.max_body_bytes:
        raise RequestEntityTooLarge  # Werkzeug cuts a body of unknown length off without a word
    return body


def _let_go() -> None:
    """Keep the request's body no longer, where the server leaves that to be said."""
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        stream.drop()


def _drop_body(limit: int) -> None:
    """Read what is left of the request's body, at most ``limit`` bytes of it."""
    if not request.environ.get("wsgi.input_terminated"):
        return  # the server does not say where the body ends, and reading on would wait for ever
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        return  # it was received before this was called
    try:
        while limit > 0 and (part := stream.read(min(CHUNK, limit))):
            limit -= len(part)
    except Exception as error:  # noqa: BLE001 - servers have errors of their own for a caller that is gone
        logger.debug("event=body_ended path=%s detail=%r", request.path, str(error))


def _json(body: bytes, code: int = 200) -> Response:
    return Response(body, code, content_type=JSON)
