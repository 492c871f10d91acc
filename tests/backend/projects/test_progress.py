"""Progress and summary as people and logs see them."""

import io
import threading

import pytest

from backend.concurrency.retry import Stopped
from backend.errors import AccessError, ImageError, Reason
from backend.projects.progress import Lines, format_seconds, showing
from backend.projects.report import Failure, RunReport, recording_end
from tests.support.fakes import FakeClock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left():
    clock, stream = FakeClock(), io.StringIO()
    lines = Lines("precompute", 100, stream, every_s=10, clock=clock)
    for _ in range(20):
        clock.advance(1)
        lines.advance()
    assert stream.getvalue().splitlines() == [
        "precompute: 100 tasks",
        "precompute: 10 of 100 tasks, 1.00 per second, 0:01:30 left",
        "precompute: 20 of 100 tasks, 1.00 per second, 0:01:20 left",
    ]


def test_the_last_task_writes_a_line():
    stream = io.StringIO()
    lines = Lines("precompute", 2, stream, clock=FakeClock())
    lines.advance()
    lines.advance()
    assert "2 of 2 tasks" in stream.getvalue()


def test_more_tasks_than_were_counted_are_no_reason_to_go_back_in_time():
    clock, stream = FakeClock(), io.StringIO()
    lines = Lines("precompute", 1, stream, every_s=0, clock=clock)
    for _ in range(3):
        clock.advance(1)
        lines.advance()
    assert "-" not in stream.getvalue()


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with showing("precompute", 4, stream) as progress:
        progress.advance(4)
    assert "precompute: 100%" in stream.getvalue()
    assert "4/4" in stream.getvalue()


def test_elsewhere_there_is_no_bar():
    stream = io.StringIO()
    with showing("precompute", 4, stream) as progress:
        progress.advance(4)
    assert "\r" not in stream.getvalue()
    assert "4 of 4 tasks" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360000, "100:00:00")]
)
def test_durations_are_written_in_hours_minutes_and_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_a_summary_names_every_failure_with_its_reason():
    report = RunReport(("encoded", "cached"))
    report.add("encoded", 2)
    report.failures.append(Failure.of(17, ImageError("not\nan image")))
    report.failures.append(Failure(18, Reason.OUTSIDE_IMAGE, ""))
    assert report.lines() == [
        "  encoded  2",
        "  cached   0",
        "  failed   2",
        "    task 17: image_unreadable: not an image",
        "    task 18: outside_image",
    ]
    assert not report.is_clean


def test_a_failure_of_no_task_names_none():
    assert str(Failure(None, Reason.OUTSIDE_IMAGE, "a box")) == "outside_image: a box"


def test_a_run_without_failures_is_clean():
    report = RunReport(("encoded",))
    report.add("encoded")
    with recording_end(report, threading.Event()):
        pass
    assert report.is_clean
    assert report.lines() == ["  encoded  1", "  failed   0"]


def test_the_reason_for_an_early_end_is_noted():
    report = RunReport(())
    with recording_end(report, threading.Event()):
        raise AccessError("the token\nwas revoked")
    assert report.lines()[-1] == "  ended early: the token was revoked"
    assert not report.is_clean


@pytest.mark.parametrize("raises", [True, False])
def test_a_stopped_run_is_not_clean(raises):
    report, stop = RunReport(()), threading.Event()
    stop.set()
    with recording_end(report, stop):
        if raises:
            raise Stopped
    assert report.ended == "stopped"
    assert not report.is_clean


def test_a_defect_is_not_taken_for_an_end():
    with pytest.raises(ZeroDivisionError), recording_end(RunReport(()), threading.Event()):
        1 / 0  # noqa: B018
