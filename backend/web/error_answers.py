"""The answers to requests that fail; a click gets an empty one with a reason, never an error status if possible."""

import logging

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from backend.errors import ProtocolError, Reason, RequestError
from backend.metrics import Metrics
from backend.protocol import messages
from backend.types import Prediction
from backend.web.access import json_response

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5


class ErrorAnswers:
    """Makes, counts and logs the answer to each kind of error."""

    def __init__(self, model_version: str, metrics: Metrics, max_body_bytes: int) -> None:
        self._model_version, self._metrics, self._max_body_bytes = model_version, metrics, max_body_bytes

    def register(self, app: Flask) -> None:
        """Have an application answer errors with these methods."""
        app.register_error_handler(RequestError, self.refused)
        app.register_error_handler(RequestEntityTooLarge, self.too_large)
        app.register_error_handler(ServiceUnavailable, self.overloaded)
        app.register_error_handler(HTTPException, self.http_error)
        app.register_error_handler(Exception, self.defect)

    def refused(self, error: RequestError) -> Response:
        """Answer a body that cannot be understood, and empty one that asks for too much work."""
        self._metrics.record_refusal(error.reason)
        logger.warning("event=bad_request path=%s reason=%s detail=%r", request.path, error.reason, str(error))
        if isinstance(error, ProtocolError):
            return json_response(messages.dump_error(str(error)), 400)
        return self._empty(error.reason)

    def too_large(self, _: RequestEntityTooLarge) -> Response:
        """Answer a body above the limit."""
        logger.warning("event=body_too_large path=%s limit=%d", request.path, self._max_body_bytes)
        return self._unread(Reason.BODY_TOO_LARGE, f"expected at most {self._max_body_bytes} bytes", 413)

    def overloaded(self, _: ServiceUnavailable) -> Response:
        """Answer a body for which there is no memory now."""
        logger.warning("event=bodies_full path=%s", request.path)
        answer = self._unread(Reason.OVERLOADED, "too many large requests at once; try again", 503)
        answer.headers["Retry-After"] = RETRY_AFTER_S
        return answer

    def http_error(self, error: HTTPException) -> Response:
        """Answer an unknown route or a wrong method."""
        answer = json_response(messages.dump_error(error.description or error.name), error.code or 500)
        answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return answer

    def defect(self, error: Exception) -> Response:
        """Answer after an unexpected error."""
        self._metrics.record_refusal(Reason.INTERNAL_ERROR)
        logger.exception("event=defect path=%s", request.path, exc_info=error)
        return json_response(messages.dump_error("internal error; the log has the details"), 500)

    def _unread(self, reason: Reason, text: str, code: int) -> Response:
        self._metrics.record_refusal(reason)
        return self._empty(reason) if request.path == "/predict" else json_response(messages.dump_error(text), code)

    def _empty(self, reason: Reason) -> Response:
        # A click expects one answer; a request for many tasks is then repeated by Label Studio, one by one.
        empty = Prediction((), 0.0, self._model_version, (reason,))
        return json_response(messages.dump_predictions([empty]))
