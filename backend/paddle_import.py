"""Signal handlers that outlast libraries which install their own.

Paddle brings glog's crash handler, and that takes SIGTERM too: a process that is told to stop would write of a crash
and end at once, with clicks or an encode in hand. Python cannot put its handler back from a thread, which is where
Paddle is imported, so the operating system's own record of it is kept and restored.
"""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ROOM = 512
"""Bytes, more than ``struct sigaction`` takes anywhere; it is only copied, never looked into."""

_AGAIN_S = 0.0005
"""How often the handler is put back while a library is imported, and how soon the thread that does gets its turn."""

_lock = threading.Lock()


@contextmanager
def sigterm_guard() -> Iterator[None]:
    """Have the same handler of SIGTERM afterwards as before, and but for moments in between too.

    Paddle's import takes seconds after it has installed its own. Other threads that ask for the same wait their turn.
    """
    sigaction = getattr(ctypes.CDLL(None), "sigaction", None)
    if sigaction is None:  # nothing to keep where there are no such signals
        yield
        return
    with _lock:
        before, is_over = ctypes.create_string_buffer(_ROOM), threading.Event()
        sigaction(int(signal.SIGTERM), None, before)

        def put_back() -> None:
            while not is_over.wait(_AGAIN_S):
                sigaction(int(signal.SIGTERM), before, None)

        guard = threading.Thread(target=put_back, name="signals", daemon=True)
        turns_s = sys.getswitchinterval()
        sys.setswitchinterval(_AGAIN_S)
        guard.start()
        try:
            yield
        finally:
            is_over.set()
            guard.join()
            sys.setswitchinterval(turns_s)
            sigaction(int(signal.SIGTERM), before, None)
