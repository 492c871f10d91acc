"""Configures logging: one line per event, with words and ``key=value`` fields, on standard error."""

import logging
import re
import sys
import warnings
from datetime import datetime

import stamina.instrumentation

logger = logging.getLogger(__name__)

LIBRARIES = ("httpx", "httpcore", "stamina", "urllib3", "rq")
"""Libraries that log every request at INFO, httpx with the address, which may be signed."""

_BEFORE_CREDENTIALS = re.compile(r"//|^[a-z][a-z0-9+.-]*:[/\\]*", re.IGNORECASE)


class _Line(logging.Formatter):
    """Formats a line: local time with its offset from UTC, level, logger, the event's own fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Return the time of the event in ISO 8601, for instance ``2026-11-29T03:41:57.123+02:00``."""
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def without_credentials(address: str) -> str:
    """Return an address as a message may quote it, without a user name and password.

    Everything up to the last ``@`` is removed, since passwords may hold slashes and the like.

    >>> without_credentials("https://me:p/w@example.org/a.png")
    'https://***@example.org/a.png'
    """
    scheme = _BEFORE_CREDENTIALS.search(address)
    start = scheme.end() if scheme else len(address)
    _, at, rest = address[start:].rpartition("@")
    return f"{address[:start]}***@{rest}" if at else address


def configure(level: str) -> None:
    """Send this program's log to standard error from ``level`` (``debug``, ``info``, ``warning``, ``error``) up."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Line())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(logging.WARNING)
    for name in ("backend", "model"):
        logging.getLogger(name).setLevel(level.upper())
    quiet_libraries()


def quiet_libraries() -> None:
    """Log only warnings and errors of the libraries, also where another program has set up logging."""
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "No ccache found", UserWarning)  # Paddle warns of it at every import
    # By default retries are logged without a cause, and counted in prometheus' global registry, which is not used.
    stamina.instrumentation.set_on_retry_hooks([_log_retry])


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    cause = type(details.caused_by).__name__  # only its type: its text may quote a signed address
    logger.warning("event=retry attempt=%d wait_s=%.1f cause=%s", details.retry_num, details.wait_for, cause)
