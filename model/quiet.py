"""Suppresses the HTTP client's log lines while the model downloads something.

A caller of ``logging.basicConfig(level=logging.INFO)`` wants log lines of their own requests, not of ours.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IS_OURS = ContextVar("_IS_OURS", default=False)


class _NotOurs(logging.Filter):
    """Passes only records of the caller's own requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_OURS.get()


_NOT_OURS = _NotOurs()


@contextmanager
def unlogged_requests() -> Iterator[None]:
    """Suppress the log lines of ``httpx`` about requests of this thread until the block ends."""
    logging.getLogger("httpx").addFilter(_NOT_OURS)  # adding it twice has no effect
    before = _IS_OURS.set(True)
    try:
        yield
    finally:
        _IS_OURS.reset(before)
