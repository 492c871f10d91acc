"""The signal that stops a run."""

import signal
import threading

from backend.projects.run import Stop


def test_what_still_waits_for_label_studio_some_time_after_the_signal_is_ended(capsys):
    aborted = threading.Event()
    stop = Stop(aborted.set, abort_after_s=0.05)
    assert not stop.is_set()
    stop(signal.SIGINT, None)
    assert (stop.is_set(), stop.number) == (True, signal.SIGINT)
    assert aborted.wait(5)
    assert "stopping: running tasks have 10 seconds to finish" in capsys.readouterr().err
