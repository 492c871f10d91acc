"""A project's decoder is trained in a process of its own, one at a time, and its state is on record."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from backend.decoders.folder import TRAINING, DecoderFolder
from backend.decoders.training import (
    LOWEST_PRIORITY,
    STALE_S,
    LocalTrainings,
    State,
    Training,
    TrainingLog,
    TrainingRunner,
    TrainingTrigger,
)
from backend.errors import RetryLater
from backend.types import WebhookEvent
from model import folders
from tests.support.cluster import eventually
from tests.support.decoder_files import training_program
from tests.support.fakes import FakeClock

NEVER_ENDS = """
    import os, pathlib, sys, time
    print("epoch 1", flush=True)
    pathlib.Path(__file__).with_name(f"pid-{sys.argv[-1]}").write_text(str(os.getpid()))
    time.sleep(600)
"""
REPORTS = """
    import sys
    print("epoch 1 of 2")
    print("trained project", sys.argv[-1])
"""


@pytest.fixture
def log(tmp_path):
    return TrainingLog(DecoderFolder(tmp_path / "decoders"))


def pid(folder, project):
    path = folder / f"pid-{project}"
    eventually(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_a_training_ends_with_the_last_line_it_wrote(log, tmp_path):
    runner = TrainingRunner(training_program(tmp_path, REPORTS), log)
    assert runner.run(7, threading.Event())
    training = log.of(7)
    assert (training.state, training.text) == (State.DONE, "epoch 1 of 2; trained project 7")
    assert training.revision == 2, "it was running before"


def test_a_decoder_that_was_not_taken_is_the_end_of_a_training_too(log, tmp_path):
    program = "print('no better than the base: not taken'); raise SystemExit(1)"
    TrainingRunner(training_program(tmp_path, program), log).run(7, threading.Event())
    assert (log.of(7).state, log.of(7).text) == (State.DONE, "no better than the base: not taken")


def test_a_training_that_fails_says_why(log, tmp_path):
    runner = TrainingRunner(training_program(tmp_path, "print('error: no such project'); raise SystemExit(2)"), log)
    assert runner.run(7, threading.Event())
    assert (log.of(7).state, log.of(7).text) == (State.FAILED, "error: no such project")
    silent = TrainingRunner(training_program(tmp_path, "raise SystemExit(3)"), log)
    silent.run(7, threading.Event())
    assert log.of(7).text == "exit status 3"


def test_a_command_that_does_not_exist_is_a_failed_training(log, tmp_path):
    runner = TrainingRunner([str(tmp_path / "nowhere")], log)
    assert runner.run(7, threading.Event())
    assert log.of(7).state is State.FAILED


def test_a_training_runs_at_the_lowest_priority_and_ends_when_it_is_stopped(log, tmp_path):
    runner, stop = TrainingRunner(training_program(tmp_path, NEVER_ENDS), log), threading.Event()
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(runner.run(7, stop)))
    thread.start()
    process = pid(tmp_path, 7)
    eventually(lambda: os.getpriority(os.PRIO_PROCESS, process) == LOWEST_PRIORITY)
    stop.set()
    thread.join(30)
    assert outcomes == [False]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_running_training_without_a_heartbeat_has_failed():
    training = Training(3, State.RUNNING, at=1000.0)
    assert training.state_at(1000.0 + STALE_S) is State.RUNNING
    assert training.state_at(1001.0 + STALE_S) is State.FAILED
    assert training.state_at(999.0 - STALE_S) is State.FAILED, "a clock that was wrong does not block the project"
    assert Training(3, State.WAITING, at=0.0).state_at(1e9) is State.WAITING


@pytest.mark.parametrize("data", [b"", b"[]", b'{"state": "asleep"}', b"\xff", b'{"more": ' + b"[" * 30_000,
    b'{"revision": 1e300}', b'{"revision": -1}', b'{"revision": 99999999999999999999}',
    b'{"revision": 1, "annotations": 99999999999999999999}',
    b'{"revision": 1, "annotations": -1}',
])  # fmt: skip
def test_a_damaged_state_counts_as_none(log, tmp_path, data):
    folders.write(DecoderFolder(tmp_path / "decoders").path(7, TRAINING), data)
    assert log.of(7) == Training()
    assert log.all() == {}


def test_projects_are_trained_one_after_the_other_and_each_only_once_at_a_time(log, tmp_path):
    runner = TrainingRunner(training_program(tmp_path, NEVER_ENDS), log)
    with closing(LocalTrainings(runner, log)) as trainings:
        assert trainings.start(7, 12)
        process = pid(tmp_path, 7)
        assert trainings.start(8, 0)
        assert [trainings.start(7, 13), trainings.start(8, 1)] == [False, False]
        assert [log.of(7).state, log.of(8).state] == [State.RUNNING, State.WAITING]
        assert log.of(7).annotations == 12
        os.kill(process, signal.SIGTERM)
        pid(tmp_path, 8)
        assert log.of(7).state is State.FAILED
        assert trainings.start(7, 13), "it can be started again"
    assert {number: training.state for number, training in log.all().items()} == {7: State.FAILED, 8: State.FAILED}
    assert "the service was stopped" in log.of(8).text
    assert not trainings.start(9, 0), "it is closed"


def test_of_several_web_processes_one_trains_a_project_and_writes_its_state(log, tmp_path):
    """Each process has a folder and a log of its own, at the same place."""
    program = training_program(tmp_path, NEVER_ENDS)

    def web_process():
        own = TrainingLog(DecoderFolder(tmp_path / "decoders"))
        return closing(LocalTrainings(TrainingRunner(program, own), own))

    with web_process() as first:
        with web_process() as second:
            assert [first.start(7, 12), second.start(7, 12)] == [True, False]
            process = pid(tmp_path, 7)
            assert first.start(8, 0)
            assert not second.start(8, 0), "it waits in the first process"
            assert second.start(9, 0)
        assert [log.of(number).state for number in (7, 8, 9)] == [State.RUNNING, State.WAITING, State.FAILED]
        os.kill(process, signal.SIGTERM)
        eventually(lambda: log.of(7).state is State.FAILED)
        with web_process() as third:
            eventually(lambda: third.start(7, 13))


def test_a_training_that_was_erased_while_it_waited_is_not_run_and_leaves_no_state(log, tmp_path):
    with closing(LocalTrainings(TrainingRunner(training_program(tmp_path, NEVER_ENDS), log), log)) as trainings:
        assert trainings.start(7, 12)
        process = pid(tmp_path, 7)
        for project in (8, 9, 10):
            assert trainings.start(project, 0)
        for project in (8, 10):
            log.write(project, State.NONE)
        os.kill(process, signal.SIGTERM)
        pid(tmp_path, 9)
        assert not (tmp_path / "pid-8").exists()
        assert trainings.start(8, 0), "it can be started again"
    assert list(log.all()) == [7, 8, 9]


def test_a_training_that_waited_in_a_process_that_was_killed_has_failed_when_another_one_starts(log, tmp_path):
    program = training_program(tmp_path, NEVER_ENDS)
    log.write(6, State.DONE)
    log.write(7, State.WAITING)  # by one that is gone
    with closing(LocalTrainings(TrainingRunner(program, log), log)) as first:
        for project in (8, 9):
            assert first.start(project, 0)
        pid(tmp_path, 8)
        with closing(LocalTrainings(TrainingRunner(program, log), log)) as second:
            second.end_lost()
            states = {project: training.state for project, training in log.all().items()}
            assert states == {6: State.DONE, 7: State.FAILED, 8: State.RUNNING, 9: State.WAITING}
            assert "the service was stopped" in log.of(7).text
            assert second.start(7, 0)


def test_states_that_are_written_at_a_time_are_all_counted(log, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            pool.submit(TrainingLog(DecoderFolder(tmp_path / "decoders")).write, 7, State.RUNNING)
    assert log.of(7).revision == 20


def test_a_training_that_runs_in_another_process_is_not_started_here(log, tmp_path):
    log.write(7, State.RUNNING)
    with closing(LocalTrainings(TrainingRunner(training_program(tmp_path, REPORTS), log), log)) as trainings:
        assert not trainings.start(7, 0)


def test_a_training_whose_process_died_can_be_started_again(tmp_path):
    clock = FakeClock()
    log = TrainingLog(DecoderFolder(tmp_path), clock)
    log.write(7, State.RUNNING)
    clock.advance(STALE_S + 1)
    with closing(LocalTrainings(TrainingRunner(training_program(tmp_path, REPORTS), log), log)) as trainings:
        assert trainings.start(7, 0)
        eventually(lambda: log.of(7).state is State.DONE)


def test_a_state_that_cannot_be_written_is_logged(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    TrainingLog(DecoderFolder(tmp_path / "file")).write(7, State.WAITING)
    assert "event=training_not_recorded" in caplog.text


class Started:
    def __init__(self, error=None):
        self.calls, self.error = [], error

    def start(self, project_id, annotations):
        if self.error:
            raise self.error
        self.calls.append((project_id, annotations))
        return True


def event(action, annotations=0, project_id=7):
    return WebhookEvent(action, project_id, annotations=annotations)


def test_the_button_starts_the_training_of_its_project(log):
    started = Started()
    trigger = TrainingTrigger(started, log, every=0)
    trigger.on_event(event("START_TRAINING", 5))
    assert started.calls == [(7, 5)]


@pytest.mark.parametrize("other", [event("ANNOTATION_CREATED", 100), event("PROJECT_UPDATED", 100),
    event("START_TRAINING", project_id=None), event("START_TRAINING", project_id=-1)])  # fmt: skip
def test_other_events_and_those_without_a_project_start_none(log, other):
    started = Started()
    TrainingTrigger(started, log, every=0).on_event(other)
    assert started.calls == []


def test_where_wanted_every_so_many_new_annotations_start_one(log):
    started = Started()
    trigger = TrainingTrigger(started, log, every=10)
    for count in (1, 9):
        trigger.on_event(event("ANNOTATION_CREATED", count))
    assert started.calls == []
    trigger.on_event(event("ANNOTATION_CREATED", 10))
    assert started.calls == [(7, 10)]
    log.write(7, State.RUNNING, annotations=10)
    log.write(7, State.DONE)
    trigger.on_event(event("ANNOTATION_CREATED", 19))
    assert len(started.calls) == 1
    trigger.on_event(event("ANNOTATIONS_CREATED", 25))
    assert started.calls[1:] == [(7, 25)]


def test_annotations_that_were_deleted_since_do_not_keep_a_training_from_starting(log, tmp_path):
    started = Started()
    log.write(7, State.DONE, annotations=100)
    totals = (41, 42, 30, 31, 32)  # 60 were deleted before, and 13 in between
    for total in totals[:-1]:
        TrainingTrigger(started, log, every=5).on_event(event("ANNOTATION_CREATED", total))
    assert started.calls == []
    TrainingTrigger(started, log, every=5).on_event(event("ANNOTATION_CREATED", totals[-1]))
    assert started.calls == [(7, 32)]
    log.write(7, State.WAITING, annotations=32)
    TrainingTrigger(started, log, every=5).on_event(event("ANNOTATION_CREATED", 33))
    assert len(started.calls) == 1, "it counts from the training on"


def test_an_event_that_does_not_say_how_many_annotations_there_are_counts_as_one(log):
    started = Started()
    for total in (3, 0, 5):
        TrainingTrigger(started, log, every=6).on_event(event("ANNOTATION_CREATED", total))
    assert started.calls == []
    TrainingTrigger(started, log, every=6).on_event(event("ANNOTATION_CREATED", 5))
    assert started.calls == [(7, 5)]


def test_annotations_that_cannot_be_counted_start_none(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    started = Started()
    TrainingTrigger(started, TrainingLog(DecoderFolder(tmp_path / "file")), 1).on_event(event("ANNOTATION_CREATED", 5))
    assert started.calls == []
    assert "event=annotations_not_counted" in caplog.text


def test_an_outage_of_redis_is_the_callers_to_report(log):
    with pytest.raises(RetryLater):
        TrainingTrigger(Started(RetryLater("down")), log, every=0).on_event(event("START_TRAINING"))


def test_the_state_is_a_small_json_file(log, tmp_path):
    log.write(7, State.WAITING, "x" * 5000, annotations=3)
    written = json.loads((tmp_path / "decoders" / "7" / TRAINING).read_text())
    assert (written["state"], written["annotations"], len(written["text"])) == ("waiting", 3, 600)
