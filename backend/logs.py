"""How log lines look: one line an event, ``event=... key=value``, written to standard error."""

import logging
import sys
import time
import warnings

import stamina.instrumentation


class _Line(logging.Formatter):
    """UTC time, level, logger and the event's own fields."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")


def configure(level: str) -> None:
    """Send this program's log to standard error from ``level`` (``debug``, ``info``, ``warning``, ``error``) up."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Line())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(logging.WARNING)
    for name in ("backend", "model"):
        logging.getLogger(name).setLevel(level.upper())
    warnings.filterwarnings("ignore", "No ccache found", UserWarning)  # Paddle says so at every import
    # Retries are logged; by default they are also counted, in prometheus' global registry, which nobody reads here.
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])
