"""``python -m backend`` as on a system that lacks what only Linux has: ``python -m tests.support.other_system serve``.

What is missing on Windows is made unavailable before anything is imported; the rest stays this machine's.
"""

import _thread
import ctypes
import os
import platform
import runpy
import select
import signal
import sys
import threading
from contextlib import suppress

MODULES = ("fcntl", "grp", "gunicorn", "pwd", "resource", "termios")
ATTRIBUTES = {
    os: ("fork", "geteuid", "getuid", "killpg", "sched_getaffinity", "setsid"),
    signal: ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "pthread_kill", "pthread_sigmask", "sigwait"),
    select: ("epoll", "poll"),
}


class NoProgramItself(ctypes.CDLL):
    """A library; the program's own names cannot be looked up, as on Windows."""

    def __init__(self, name, *arguments, **options):
        if name is None:
            raise TypeError("expected a name, got None")
        super().__init__(name, *arguments, **options)


def keep_sigterm_from_paddle() -> None:
    """Give SIGTERM to Python's handler alone: on Windows Paddle installs none, here it does.

    Call it before anything starts a thread, which would take the signal.
    """
    wait = signal.sigwait
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def deliver():
        while True:
            _thread.interrupt_main(wait({signal.SIGTERM}))

    threading.Thread(target=deliver, daemon=True).start()


def take_away() -> None:
    """Make unavailable what Windows does not have."""
    import cv2  # noqa: F401 - these choose by the platform's name, which stays
    import numpy as np  # noqa: F401
    import platformdirs  # noqa: F401

    platform.libc_ver = lambda *arguments: ("", "")
    platform.machine(), platform.processor()  # asked for once, by way of what is removed
    for name in MODULES:
        sys.modules[name] = None
    for module, names in ATTRIBUTES.items():
        for name in names:
            with suppress(AttributeError):
                delattr(module, name)
    ctypes.CDLL = NoProgramItself


if __name__ == "__main__":
    keep_sigterm_from_paddle()
    take_away()
    sys.argv[0] = "backend"
    runpy.run_module("backend", run_name="__main__")
