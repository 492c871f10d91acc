"""Whole projects on RQ workers with a real Redis: encoded there, once, and one run at a time."""

import itertools
import os
import signal
import time

import pytest

from tests.support import detector_directories as directories
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.fake_project_server import FakeProjectServer
from tests.support.fakes import LEGACY_TOKEN, Reply, png
from tests.support.processes import commands
from tests.support.project_commands import RUN_S, fill, wait_for
from tests.support.redis_server import RedisServer, needs_redis
from tests.support.wire_bodies import CONFIG

pytestmark = [needs_redis, pytest.mark.slow]


@pytest.fixture
def redis(tmp_path):
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def server():
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        yield server


@pytest.fixture
def settings(redis, server, weights, tmp_path):
    """The environment of all commands; what a test adds to it must be there before the first one starts."""
    return {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": LEGACY_TOKEN,
        "PADDLE_SAM_WEIGHTS": weights,
        "PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"),
        "REDIS_URL": redis.address,
    }


@pytest.fixture
def colour_finder(settings, tmp_path):
    """Have all commands use the demo model, and a detector that finds red, green and blue discs."""
    finder = directories.write_colour_finder(tmp_path / "colours", ["red disc", "green disc", "blue disc"])
    settings.update(PADDLE_SAM_WEIGHTS="demo", PADDLE_SAM_DETECTOR=str(finder))


@pytest.fixture
def start(settings, tmp_path):
    """Run a command as a process with that Redis; all are gone at the end of the test."""
    numbers = itertools.count()

    def start(*arguments):
        log = tmp_path / f"{next(numbers)}.log"
        with log.open("w") as sink:
            process = run(*arguments, stderr=sink)
        process.log = log.read_text
        return process

    with commands(**settings) as run:
        yield start


@pytest.fixture
def start_worker(start):
    """Start a worker and wait until it is ready."""

    def start_worker():
        process = start("worker")
        wait_for(lambda: "worker_ready" in process.log() or process.poll() is not None)
        assert process.poll() is None, process.log()
        return process

    return start_worker


@pytest.fixture
def worker(start_worker):
    """A worker that is ready."""
    return start_worker()


def finished(process):
    out = process.communicate(timeout=RUN_S)[0]
    return process.returncode, out


def downloads(server):
    return [path for path in server.paths() if path.startswith("/data/upload")]


def test_workers_encode_every_image_once_and_what_fails_is_reported(start, server, worker, tmp_path):
    fill(server, 12)
    broken = server.upload("broken.png", b"\x89PNG")
    code, out = finished(start("precompute", "--project", str(PROJECT)))
    assert code == 1
    assert "encoded  12" in out
    assert f"task {broken}: image_unreadable" in out
    assert worker.log().count("event=encoded") == 12
    assert worker.log().count("priority=bulk") == 12
    code, out = finished(start("precompute", "--project", str(PROJECT)))
    assert "cached   12" in out
    assert worker.log().count("event=encoded") == 12
    assert not (tmp_path / "cache").exists()  # nothing is kept on this machine


def test_masks_are_made_of_what_workers_encode(start, server, worker):
    tasks = fill(server, 12)
    code, out = finished(start("preannotate", "--project", str(PROJECT), "--from", "boxes"))
    assert code == 0, out
    assert [len(server.project.of(task)) for task in tasks] == [1] * 12
    assert len(downloads(server)) == 12


def test_labels_find_their_objects_once_each_though_a_worker_is_killed(colour_finder, start, start_worker, server):
    labels = '<Label value="Warm" prompt="red disc"/><Label value="Cold" prompt="green disc, blue disc"/>'
    brush = f'<BrushLabels name="brush" toName="image">{labels}</BrushLabels>'
    server.project.configure(f'<View><Image name="image" value="$image"/>{brush}</View>')
    pictures = [directories.coloured_discs(number) for number in range(40)]
    tasks = [server.upload(f"{number}.png", directories.png(image)) for number, (image, _) in enumerate(pictures)]
    killed, survivor = start_worker(), start_worker()
    run = start("preannotate", "--project", str(PROJECT), "--from", "labels")
    wait_for(lambda: killed.log().count("event=encoded") >= 4 or run.poll() is not None)
    killed.kill()
    stored = len(server.project.stored)
    assert stored < len(tasks), "the worker was killed too late"
    code, out = finished(run)
    assert code == 0, out + run.log()
    assert killed.wait(RUN_S) == -signal.SIGKILL
    assert survivor.log().count("event=encoded") >= len(tasks) - killed.log().count("event=encoded")
    for task, (_, discs) in zip(tasks, pictures, strict=True):
        [prediction] = server.project.of(task)
        got_labels = sorted(region["value"]["brushlabels"][0] for region in prediction.result)
        assert got_labels == sorted("Warm" if colour == "red" else "Cold" for colour in discs)


def test_a_second_run_waits_for_the_first(start, server, worker):
    tasks = fill(server, 40)
    first = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    wait_for(lambda: server.project.stored)
    second = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    assert finished(first)[0] == 0
    code, out = finished(second)
    assert code == 0
    assert "there already      40" in out
    assert [len(server.project.of(task)) for task in tasks] == [1] * 40
    assert worker.log().count("event=encoded") == 40


def test_a_run_that_died_does_not_hold_the_project_for_long(start, server, worker):
    fill(server, 40)
    first = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    wait_for(lambda: server.project.stored)
    first.kill()
    code, _ = finished(start("preannotate", "--project", str(PROJECT), "--from", "boxes"))
    assert code == 0
    assert len(server.project.stored) == 40


def test_a_run_goes_on_when_redis_restarts_empty(start, server, worker, redis):
    tasks = fill(server, 40)
    process = start("preannotate", "--project", str(PROJECT), "--from", "boxes")
    wait_for(lambda: server.project.stored)
    redis.kill()
    time.sleep(5)
    redis.start()
    code, out = finished(process)
    assert code == 0, out + process.log()
    assert [len(server.project.of(task)) for task in tasks] == [1] * 40


def test_ctrl_c_does_not_wait_for_workers(start, server, worker):
    fill(server, 200)
    process = start("precompute", "--project", str(PROJECT))
    wait_for(lambda: len(downloads(server)) > 3)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out = process.communicate(timeout=60)[0]
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert process.returncode == 130
    assert "ended early: stopped" in out
    assert time.monotonic() - started < 30


def test_a_run_without_workers_says_how_to_start_one(start, server):
    server.routes["/data/upload/7/a.png"] = Reply(png())
    process = start("precompute", "--project", str(PROJECT))
    assert finished(process)[0] == 2
    assert "no worker encodes with small@" in process.log()
    assert "python -m backend worker" in process.log()
