"""Protects this process from two effects of importing Paddle: another handler of SIGTERM, and slow garbage collections.

Paddle installs glog's crash handler, for SIGTERM too: on SIGTERM a process would report a crash and exit at once, even
while it answers clicks or encodes. Python can set signal handlers only in the main thread, and Paddle is imported in
others, so the handler is saved and restored with the operating system's ``sigaction``.
"""

import ctypes
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_HANDLER_BYTES = 512  # more than ``struct sigaction`` takes on any platform. Its contents are only copied
_RESTORE_INTERVAL_S = 0.0005
"""Interval at which the handler is restored during an import, and the switch interval of Python's threads."""

_lock = threading.Lock()


@contextmanager
def sigterm_guard() -> Iterator[None]:
    """Keep the current SIGTERM handler while Paddle is imported.

    The import takes seconds after Paddle has installed its handler, so the old one is restored again and again until
    the block ends. A second thread waits until the first has left the block.
    """
    try:
        sigaction = ctypes.CDLL(None).sigaction
    except (AttributeError, OSError, TypeError):  # this platform has no such signals: Windows
        yield
        return
    with _lock:
        before, is_imported = ctypes.create_string_buffer(_HANDLER_BYTES), threading.Event()
        sigaction(int(signal.SIGTERM), None, before)

        def restore() -> None:
            while not is_imported.wait(_RESTORE_INTERVAL_S):
                sigaction(int(signal.SIGTERM), before, None)

        guard = threading.Thread(target=restore, name="signals", daemon=True)
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(_RESTORE_INTERVAL_S)
        guard.start()
        try:
            yield
        finally:
            is_imported.set()
            guard.join()
            sys.setswitchinterval(switch_interval_s)
            sigaction(int(signal.SIGTERM), before, None)


@cache
def freeze_imports() -> None:
    """Exclude the objects that exist now from garbage collection: passing over 200,000 of them made clicks wait.

    Only the first call has an effect, since garbage that is excluded is never freed. From then on a collection starts
    after 10,000 new objects instead of 700: a request body may hold hundreds of thousands, none of which is garbage.
    """
    gc.freeze()
    gc.set_threshold(10_000)
