"""Keeps the log lines of the HTTP client to itself where the model fetches something.

Someone who calls ``logging.basicConfig(level=logging.INFO)`` wants to read of his own requests, not of ours.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IS_OURS = ContextVar("_IS_OURS", default=False)


class _NotOurs(logging.Filter):
    """Lets pass what the caller's own requests say."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_OURS.get()


_NOT_OURS = _NotOurs()


@contextmanager
def unlogged_requests() -> Iterator[None]:
    """Have ``httpx`` write no lines about the requests of this thread until the block ends."""
    logging.getLogger("httpx").addFilter(_NOT_OURS)  # a second time changes nothing
    before = _IS_OURS.set(True)
    try:
        yield
    finally:
        _IS_OURS.reset(before)
