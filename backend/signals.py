"""Signal handlers that outlast libraries which install their own.

Paddle brings glog's crash handler, and that takes SIGTERM too: a process that is told to stop would write of a crash
and end at once, with clicks or an encode in hand. Python cannot put its handler back from a thread, which is where
Paddle is imported, so the operating system's own record of it is kept and restored.
"""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ROOM = 512
"""Bytes, more than ``struct sigaction`` takes anywhere; it is only copied, never looked into."""

_lock = threading.Lock()


@contextmanager
def kept() -> Iterator[None]:
    """Have the same handler of SIGTERM afterwards as before; other threads that ask for the same wait their turn."""
    sigaction = getattr(ctypes.CDLL(None), "sigaction", None)
    if sigaction is None:  # nothing to keep where there are no such signals
        yield
        return
    with _lock:
        before = ctypes.create_string_buffer(_ROOM)
        sigaction(int(signal.SIGTERM), None, before)
        try:
            yield
        finally:
            sigaction(int(signal.SIGTERM), before, None)
