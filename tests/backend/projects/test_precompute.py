"""A project's images encoded ahead: in order, once, through failures, and stopped without losing anything."""

import threading

import pytest

from backend.concurrency.retry import OutageRetry
from backend.errors import ImageError, Reason, RetryLater
from backend.label_studio.task_iterator import ProjectTasks
from backend.labeling import config as labeling_config
from backend.projects import precompute
from backend.projects.engine import Engine, Room
from backend.projects.precompute import CACHED, ENCODED
from backend.projects.run import BatchRun
from tests.support.fake_project import FakeProject, away
from tests.support.fakes import FakeEncoder, FakeSource, png
from tests.support.run_embeddings import run_embeddings
from tests.support.wire_bodies import CONFIG

SEVERAL = CONFIG.replace('value="$image"', 'valueList="$images"')


class Run:
    """Everything around a run; each call of it is a new process."""

    def __init__(self, folder, count=0, config=CONFIG):
        self.folder, self.config = folder, config
        self.project, self.source, self.encoder = FakeProject(config), FakeSource(), FakeEncoder()
        self.stop, self.finished, self.cancelled = threading.Event(), 0, 0
        self.room, self.at_once, self.lasts_s = None, 2, 600.0
        for number in range(count):
            self.add(f"{number}.png", png((number, 0, 0)))

    def add(self, uri, data, **more):
        self.source.contents[uri] = data
        return self.project.add({"image": uri}, **more)

    def __call__(self, limit=None):
        retry = OutageRetry(self.stop, first_wait_s=0.001, between_attempts_s=0.001, lasts_s=self.lasts_s)
        embeddings = run_embeddings(self.folder, self.source, self.encoder)

        def cancel_waits():
            self.cancelled += 1
            embeddings.close()

        tasks = ProjectTasks(self.project, retry, self.project.project_value, limit=limit)
        controls = labeling_config.parse(self.config)
        batch = BatchRun(self.project, self.project.project_value, controls, tasks, 0, self.stop, retry)
        try:
            return precompute.run(
                batch, Engine(embeddings, embeddings.ensure, self.at_once, self.room, cancel_waits), self
            )
        finally:
            embeddings.close()

    def advance(self, count=1):
        self.finished += count


@pytest.fixture
def make(tmp_path):
    return lambda *arguments, **options: Run(tmp_path, *arguments, **options)


def reasons(report):
    return [(failure.task_id, failure.reason) for failure in report.failures]


def test_every_image_is_encoded_and_the_second_run_finds_them_all(make):
    run = make(7)
    report = run()
    assert (report.counts, report.is_clean, run.finished) == ({ENCODED: 7, CACHED: 0}, True, 7)
    second = run()
    assert (second.counts, second.is_clean) == ({ENCODED: 0, CACHED: 7}, True)
    assert run.encoder.calls == 7


def test_the_newest_unlabeled_tasks_come_first(make):
    run = make(5)
    run.project.tasks[5].is_labeled = True
    run.at_once = 1
    run()
    assert [colour[0] for colour in run.encoder.colours] == [3, 2, 1, 0, 4]


def test_a_limit_encodes_the_first_ones(make):
    run = make(9)
    assert run(limit=2).counts == {ENCODED: 2, CACHED: 0}
    assert sorted(colour[0] for colour in run.encoder.colours) == [7, 8]


def test_all_images_of_a_task_are_encoded(make):
    run = make(config=SEVERAL)
    for name in "abc":
        run.source.contents[name] = png((ord(name), 0, 0))
    run.project.add({"images": ["a", "b", "c", "a"]})
    assert run().counts == {ENCODED: 3, CACHED: 0}


def test_what_fails_is_reported_with_its_reason_and_the_rest_is_done(make):
    run = make(3)
    broken = run.add("broken.png", b"\x89PNG broken")
    missing = run.add("gone.png", ImageError("the server answers 404", Reason.IMAGE_NOT_FOUND))
    empty = run.project.add({"picture": "x"})
    report = run()
    assert report.counts == {ENCODED: 3, CACHED: 0}
    assert sorted(reasons(report)) == [
        (broken, Reason.IMAGE_UNREADABLE), (missing, Reason.IMAGE_NOT_FOUND), (empty, Reason.NO_IMAGE_IN_TASK),
    ]  # fmt: skip
    assert not report.is_clean
    assert run.finished == 6
    assert any("task 5: image_not_found: the server answers 404" in line for line in report.lines())


def test_one_broken_image_of_a_task_leaves_its_others(make):
    run = make(config=SEVERAL)
    run.source.contents |= {"a": png(), "b": b"no"}
    task = run.project.add({"images": ["b", "a"]})
    report = run()
    assert report.counts[ENCODED] == 1
    assert reasons(report) == [(task, Reason.IMAGE_UNREADABLE)]


def test_a_defect_over_one_image_leaves_the_others(make):
    run = make(3)
    run.source.contents["1.png"] = ZeroDivisionError("a defect")
    report = run()
    assert report.counts[ENCODED] == 2
    assert reasons(report) == [(2, Reason.INTERNAL_ERROR)]


def test_a_run_that_is_stopped_says_so_and_the_next_one_does_the_rest(make):
    run = make(30)
    run.encoder.latency_s = 0.01

    def stop_soon(count=1):
        run.finished += count
        if run.finished == 3:
            run.stop.set()

    run.advance = stop_soon
    report = run()
    assert report.ended == "stopped"
    assert not report.failures
    assert 3 <= report.counts[ENCODED] < 10
    assert run.cancelled <= 1  # no wait to cancel where all that was in hand is done
    run.stop.clear()
    second = run()
    assert second.is_clean
    assert second.counts == {ENCODED: 30 - report.counts[ENCODED], CACHED: report.counts[ENCODED]}
    assert run.encoder.calls == 30


def test_label_studio_may_restart_while_a_run_goes_on(make):
    run = make(6)
    refused = RetryLater("connection refused", Reason.IMAGE_FETCH_FAILED)
    answers = {f"{number}.png": [refused, png((number, 0, 0))] for number in range(6)}
    fetch = run.source.fetch

    def fails_first(ref, cached=None):
        run.source.contents[ref.uri] = answers[ref.uri].pop(0)
        return fetch(ref, cached)

    run.source.fetch = fails_first
    run.project.failures["version"] = [away(), away(), away()]
    report = run()
    assert report.is_clean
    assert report.counts[ENCODED] == 6


def test_an_image_whose_server_is_away_fails_alone(make):
    run = make(3)
    task = run.add("http://elsewhere/a.png", RetryLater("no such host", Reason.IMAGE_FETCH_FAILED))
    report = run()
    assert report.counts[ENCODED] == 3
    assert reasons(report) == [(task, Reason.IMAGE_FETCH_FAILED)]
    assert not report.ended


def test_a_long_outage_ends_the_run_with_its_reason(make):
    run = make(3)
    run.lasts_s = 0.02
    run.project.failures["task_page"] = [away() for _ in range(1000)]
    report = run()
    assert "Label Studio cannot be reached" in report.ended
    assert not report.is_clean


def test_a_full_cache_ends_the_run_before_it_pushes_out_what_it_made(make):
    run = make(20)
    run.room = Room(8, "set PADDLE_SAM_DISK_CACHE_MB higher")
    report = run()
    assert 5 <= report.counts[ENCODED] <= 8
    assert "holds 8 embeddings of this model; set PADDLE_SAM_DISK_CACHE_MB higher" in report.ended
    assert not report.is_clean


@pytest.mark.parametrize(("pages", "room", "expected"), [(5, 8, 5), (4, 8, 8), (9, 8, 0)])
def test_images_and_not_tasks_are_counted_against_the_room(make, pages, room, expected):
    run = make(config=SEVERAL)
    run.room, run.at_once = Room(room, ""), 4
    run.encoder.latency_s = 0.01
    for number in range(4):
        names = [f"{number}-{page}" for page in range(pages)]
        run.source.contents |= {name: png((number, index, 0)) for index, name in enumerate(names)}
        run.project.add({"images": names})
    report = run()
    assert report.counts[ENCODED] == expected
    assert f"holds {room} embeddings" in report.ended


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_project_that_fits_exactly_is_done_to_the_end(make, at_once):
    run = make(8)
    run.room, run.at_once = Room(8, ""), at_once
    report = run()
    assert (report.counts[ENCODED], report.is_clean) == (8, True)


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_image_of_many_tasks_takes_the_room_of_one(make, at_once):
    run = make(4)
    for number in range(20):
        run.project.add({"image": f"{number % 4}.png"})
    run.room, run.at_once = Room(4, ""), at_once
    run()  # several at a time may encode one image twice
    report = run()
    assert (report.counts[CACHED], report.is_clean) == (24, True)


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_image_that_fails_takes_no_room(make, at_once):
    run = make(8)
    for number in range(3):
        run.add(f"broken-{number}", b"no image")
    run.room, run.at_once = Room(8 + at_once - 1, ""), at_once
    report = run()
    assert (report.counts[ENCODED], len(report.failures), report.ended) == (8, 3, "")


def test_an_empty_project_is_done(make):
    report = make()()
    assert report.is_clean
    assert report.counts == {ENCODED: 0, CACHED: 0}
