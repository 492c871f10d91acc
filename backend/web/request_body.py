"""Reads the body of the current request, whichever server received it."""

import logging

from flask import request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from backend.errors import ProtocolError, Reason
from backend.web.bodies import Body

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16


def read(max_bytes: int) -> bytes:
    """Return the request's body; raises `HTTPException`, which becomes the answer, or `ProtocolError` if it is cut."""
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
    if request.content_length is None and len(body) >= max_bytes:
        raise RequestEntityTooLarge  # Werkzeug truncates a body of unknown length without an error
    return body


def release() -> None:
    """Free the memory of the request's body, where the server keeps it as a `Body`."""
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        stream.drop()


def drop(max_bytes: int) -> None:
    """Read what is left of the request's body, at most ``max_bytes`` of it.

    If the connection closes while the caller is still sending, the caller sees an error and not the answer.
    """
    if not request.environ.get("wsgi.input_terminated"):
        return  # the server does not mark the end of the body, and reading further would block for ever
    stream = request.environ["wsgi.input"]
    if isinstance(stream, Body):
        return  # it was received before this was called
    try:
        while max_bytes > 0 and (part := stream.read(min(CHUNK_BYTES, max_bytes))):
            max_bytes -= len(part)
    except Exception as error:  # noqa: BLE001 - servers raise their own errors when the caller has disconnected
        logger.debug("event=body_ended path=%s detail=%r", request.path, str(error))
