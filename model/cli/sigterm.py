"""Ends a command on SIGTERM as on Ctrl-C: files that are half written are removed, and a download can go on later."""

import _thread
import os
import signal
import threading


def end_as_on_ctrl_c() -> None:
    """Raise KeyboardInterrupt in the main thread on SIGTERM; a second one ends the process at once.

    Paddle installs a handler of SIGTERM of its own, which reports a crash. So the signal is blocked for all threads,
    and a thread waits for it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where Paddle installs no handler either
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait, args=(threading.get_ident(),), name="sigterm", daemon=True).start()


def _wait(main_thread: int) -> None:
    signal.sigwait({signal.SIGTERM})
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.pthread_kill(main_thread, signal.SIGINT)  # also ends a wait for the network or a disk
    else:  # a process that was started to ignore Ctrl-C
        _thread.interrupt_main(signal.SIGTERM)
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)
