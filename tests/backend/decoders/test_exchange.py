"""Machines that share a Redis have the same decoders, and workers train them behind all images."""

import threading
from dataclasses import replace

import pytest

from backend.cluster.keys import DecoderKeys, Keys
from backend.cluster.parts import ClusterParts
from backend.decoders.exchange import DecoderExchange, QueuedTrainings, TrainingWorker
from backend.decoders.folder import MOST_BYTES, RECORD, DecoderFolder, Record
from backend.decoders.training import State, TrainingLog, TrainingRunner
from backend.embeddings.content_index import source_key
from backend.errors import RetryLater
from backend.types import ImageRef, Priority
from tests.support.checkpoints import random_checkpoint
from tests.support.decoder_files import decoder_file, training_program
from tests.support.fakes import FakeClock
from tests.support.redis_server import needs_redis

pytestmark = needs_redis

BASE = random_checkpoint()
IMAGE = ImageRef("/data/upload/1/a.png", project_id=1)


class Machine:
    """A folder of decoders of its own, and what shares it over Redis."""

    def __init__(self, redis, path):
        self.clock = FakeClock()
        self.parts = ClusterParts.connect(redis.url, "paddle-sam", BASE.model_version)
        self.folder = DecoderFolder(path)
        self.log = TrainingLog(self.folder)
        self.exchange = DecoderExchange(self.parts.link, self.parts.keys, self.folder, self.clock)
        self.sync = self.exchange.sync


@pytest.fixture
def machine(redis_server, tmp_path):
    machines = []

    def machine():
        machines.append(Machine(redis_server, tmp_path / f"machine-{len(machines)}"))
        return machines[-1]

    yield machine
    for each in machines:
        each.parts.link.close()


def test_a_decoder_that_one_machine_publishes_serves_on_the_other(machine):
    here, there = machine(), machine()
    decoder = here.folder.publish(7, decoder_file(BASE, project=7))
    here.sync()
    there.sync()
    assert there.folder.record(7) == here.folder.record(7)
    assert there.folder.read(7, decoder.digest).digest == decoder.digest


def test_a_rollback_on_one_machine_is_one_on_the_other_and_the_newer_of_two_changes_holds(machine):
    here, there = machine(), machine()
    here.folder.publish(7, decoder_file(BASE, 1, project=7))
    for each in (here, there):
        each.sync()
    there.folder.change(7, lambda record: replace(record, active=None))
    here.folder.change(7, lambda record: replace(record, is_pinned=True))
    here.folder.change(7, lambda record: replace(record, is_pinned=False))
    for each in (there, here, there):
        each.sync()
    assert here.folder.record(7) == there.folder.record(7)
    assert here.folder.record(7).active is not None
    here.folder.change(7, lambda record: replace(record, active=None))
    for each in (here, there):
        each.sync()
    assert there.folder.record(7).active is None


def test_an_older_record_does_not_replace_a_newer_one_in_redis(machine):
    here, there = machine(), machine()
    here.folder.publish(7, decoder_file(BASE, 1, project=7))
    here.sync()
    here.folder.publish(7, decoder_file(BASE, 2, project=7))
    here.sync()
    there.folder.publish(7, decoder_file(BASE, 3, project=7))  # revision 1, by a machine that was cut off
    there.sync()
    assert there.folder.record(7) == here.folder.record(7)


def test_decoders_are_still_there_after_redis_was_emptied(machine, redis_server):
    here = machine()
    decoder = here.folder.publish(7, decoder_file(BASE, project=7))
    here.sync()
    with redis_server.client() as client:
        client.flushall()
    here.sync()
    there = machine()
    there.sync()
    assert there.folder.record(7).active == decoder.digest


def put(redis_server, record, data, project=7):
    keys = DecoderKeys(Keys("paddle-sam", BASE.model_version))
    with redis_server.client() as client:
        client.hset(keys.documents, f"{project}/{RECORD}", record.dump())
        client.set(keys.decoder(project), data)


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(MOST_BYTES + 100), decoder_file(BASE, 2, project=7),
    decoder_file(BASE, 1, project=8)])  # fmt: skip
def test_a_file_that_is_not_the_one_that_the_record_names_is_not_taken(machine, redis_server, data, caplog):
    here = machine()
    before = here.folder.publish(7, decoder_file(BASE, 3, project=7))
    put(redis_server, Record(9, "a" * 64, False, ("a" * 64,)), data)
    here.sync()
    here.sync()
    assert here.folder.record(7).active == before.digest
    assert caplog.text.count("event=decoder_not_taken") == 1, "it is not fetched again for a while"
    here.clock.advance(60)
    here.sync()
    assert caplog.text.count("event=decoder_not_taken") == 2


def test_a_decoder_whose_file_is_gone_is_reported_once_a_minute(machine, caplog):
    here = machine()
    decoder = here.folder.publish(7, decoder_file(BASE, project=7))
    here.folder.file(7, decoder.digest).unlink()
    here.sync()
    here.sync()
    assert caplog.text.count("event=decoder_not_shared") == 1
    here.clock.advance(60)
    here.sync()
    assert caplog.text.count("event=decoder_not_shared") == 2


@pytest.mark.parametrize("field", ["x/decoders.json", "-1/decoders.json", "7/../8", "7", "9" * 30 + "/decoders.json",
    "7/other.json", "7/decoders.json", "7/training.json"])  # fmt: skip
@pytest.mark.parametrize("data", [b"\xff\xfe", b'{"more": ' + b"[" * 30_000, b'{"revision": 99999999999999999999}'],
    ids=["no JSON", "deep", "huge revision"])  # fmt: skip
def test_what_others_wrote_into_redis_is_passed_over(machine, redis_server, field, data):
    with redis_server.client() as client:
        client.hset(DecoderKeys(Keys("paddle-sam", "x")).documents, field, data)
    here = machine()
    here.sync()
    assert here.folder.projects() == ()


def test_a_training_is_enqueued_once_and_taken_when_no_image_waits(machine):
    web, worker = machine(), machine()
    trainings = QueuedTrainings(web.parts, web.log)
    assert trainings.start(7, 12)
    assert not trainings.start(7, 13), "it waits already"
    assert trainings.start(8, 0)
    assert (web.log.of(7).state, web.log.of(7).annotations) == (State.WAITING, 12)
    for priority in Priority:
        assert worker.parts.queues.enqueue(IMAGE, source_key(IMAGE), priority)
        assert worker.parts.queues.take_training() is None
        assert worker.parts.queues.take([priority], 1) is not None
    assert [worker.parts.queues.take_training() for _ in range(3)] == [7, 8, None]


def test_trainings_that_wait_are_enqueued_again_after_redis_was_emptied(machine, redis_server, caplog):
    web, other, worker = machine(), machine(), machine()
    first, second = (QueuedTrainings(each.parts, each.log) for each in (web, other))
    assert first.start(7, 12)
    assert first.start(8, 3)
    web.log.write(9, State.DONE, "better by 0.08")
    for each in (web, other):
        each.sync()
    with redis_server.client() as client:
        client.flushall()
    for trainings in (first, second, first, second, first):
        trainings.enqueue_lost()
    assert sorted(filter(None, (worker.parts.queues.take_training() for _ in range(5)))) == [7, 8]
    assert caplog.text.count("event=training_enqueued_again") == 2
    assert (web.log.of(7).state, web.log.of(7).annotations, web.log.of(7).number) == (State.WAITING, 12, 1)


def test_a_training_that_waits_or_is_being_taken_by_a_worker_is_not_enqueued_twice(machine):
    web, worker = machine(), machine()
    trainings = QueuedTrainings(web.parts, web.log)
    assert trainings.start(7, 12)
    for _ in range(3):
        trainings.enqueue_lost()
    assert worker.parts.queues.take_training() == 7
    trainings.enqueue_lost()
    with worker.parts.leases.acquire(DecoderKeys(worker.parts.keys).training(7)):
        for _ in range(3):
            trainings.enqueue_lost()
    trainings.enqueue_lost()
    web.log.write(7, State.DONE)
    trainings.enqueue_lost()
    assert worker.parts.queues.take_training() is None


def test_a_worker_trains_and_the_web_process_sees_state_and_decoder(machine, tmp_path):
    web, worker = machine(), machine()
    data = tmp_path / "trained.safetensors"
    data.write_bytes(decoder_file(BASE, project=7))
    program = f"""
        import pathlib, sys
        from backend.decoders.folder import DecoderFolder
        DecoderFolder(pathlib.Path({str(worker.folder.root)!r})).publish(7, pathlib.Path({str(data)!r}).read_bytes())
        print("better by 0.08")
    """
    runner = TrainingRunner(training_program(tmp_path, program), worker.log)
    training = TrainingWorker(worker.parts, worker.exchange, runner, worker.log)
    assert QueuedTrainings(web.parts, web.log).start(7, 12)
    web.sync()
    training.train_next(threading.Event())
    web.sync()
    assert (web.log.of(7).state, web.log.of(7).text) == (State.DONE, "better by 0.08")
    assert web.log.of(7).annotations == 12
    assert web.folder.record(7).active is not None


def test_a_training_whose_worker_is_stopped_is_continued_by_another(machine, tmp_path):
    web, worker, stop = machine(), machine(), threading.Event()
    program = f"""
        import pathlib, time
        pathlib.Path({str(tmp_path / "begun")!r}).write_text("")
        time.sleep(600)
    """
    runner = TrainingRunner(training_program(tmp_path, program), worker.log)
    training = TrainingWorker(worker.parts, worker.exchange, runner, worker.log)
    assert QueuedTrainings(web.parts, web.log).start(7, 12)
    web.sync()
    stopping = threading.Thread(target=lambda: (wait_for(tmp_path / "begun"), stop.set()))
    stopping.start()
    training.train_next(stop)
    stopping.join()
    web.sync()
    assert web.log.of(7).state is State.WAITING
    assert machine().parts.queues.take_training() == 7


def wait_for(path):
    pause = threading.Event()
    while not path.exists():
        pause.wait(0.01)


def test_a_project_that_another_worker_trains_is_left_to_it(machine, tmp_path):
    first, second = machine(), machine()
    assert second.parts.queues.enqueue_training(7)
    runner = TrainingRunner(training_program(tmp_path, "print('trained')"), second.log)
    training = TrainingWorker(second.parts, second.exchange, runner, second.log)
    with first.parts.leases.acquire(DecoderKeys(first.parts.keys).training(7)):
        training.train_next(threading.Event())
    assert second.log.of(7).state is State.NONE


def test_a_training_cannot_be_started_while_redis_is_down(machine, redis_server):
    here = machine()
    redis_server.kill()
    try:
        with pytest.raises(RetryLater):
            QueuedTrainings(here.parts, here.log).start(7, 0)
        with pytest.raises(RetryLater):
            here.sync()
        assert here.log.of(7).state is State.NONE
    finally:
        redis_server.start()
