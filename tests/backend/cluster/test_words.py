"""Words on workers: one download and one look for the whole team, and what a worker without the detector says."""

import threading
from contextlib import contextmanager, suppress

import pytest

from backend.cluster.pipeline import EncodePipeline
from backend.cluster.queues import dump, parse
from backend.cluster.store import RedisStore
from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import MemoryStore
from backend.embeddings.word_boxes import BoxKey
from backend.errors import BackendError, ImageError, Reason, RequestError, RetryLater
from backend.images import decode
from backend.metrics import Metrics
from backend.shapes import Rectangle
from backend.types import ImageRef, Priority
from backend.words import WordBox, WordQuery
from model.detection.word_list import WordsError
from tests.support.cluster import SOON_S, Cluster, ref
from tests.support.cluster_worker import VERSION
from tests.support.fake_detector import DETECTOR, FakeDetector, word_detector
from tests.support.fakes import FakeEncoder, FakeSource, fake_spec, png
from tests.support.redis_server import needs_redis
from tests.support.service import wait_until

pytestmark = [needs_redis, pytest.mark.timeout(120)]

CAT = WordQuery(("cat",), DETECTOR)
ONE = ref(words=CAT)
FOUND = ("cat", 0.5, (10.0, 3.0, 20.0, 9.0))
BOX = WordBox("cat", 0.5, Rectangle(25.0, 10.0, 25.0, 20.0))


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        yield cluster


class Worker:
    """A worker's pipeline on threads of this process."""

    def __init__(self, parts, detector):
        self.source, self.encoder, self.detector, self.metrics = FakeSource(), FakeEncoder(VERSION), detector, Metrics()
        self.source.contents[ONE.uri] = png((250, 0, 0))
        spec = fake_spec(VERSION, detector=None if detector is None else word_detector(detector))
        self.device = EncoderThread(lambda: self.encoder, MemoryStore(1_000_000), self.metrics)
        self.store = RedisStore(parts.link, parts.keys, 60.0)
        self.pipeline = EncodePipeline(parts, spec, self.source, self.source, self.device, self.store, self.metrics)
        self.parts, self.stop = parts, threading.Event()
        parts.leases.start()
        self.device.start()
        self.threads = [threading.Thread(target=self.work) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def work(self):
        while not self.stop.is_set():
            with suppress(RetryLater):
                job = self.parts.queues.take(tuple(Priority), 1)
                if job is not None:
                    self.pipeline.run(job)


@pytest.fixture
def start(cluster):
    """Start a worker with a detector, or without one."""

    @contextmanager
    def start(detector=None):
        cluster.announce()
        with cluster.parts() as parts:
            worker = Worker(parts, detector)
            try:
                yield worker
            finally:
                worker.stop.set()
                worker.encoder.gate.set()
                if detector is not None:
                    detector.gate.set()
                for thread in worker.threads:
                    thread.join()
                worker.device.close()
                parts.leases.close()

    return start


def test_a_worker_finds_words_and_encodes_the_image_from_one_download(cluster, start):
    detector = FakeDetector(FOUND)
    with start(detector) as worker:
        web, other = cluster.web(), cluster.web()
        assert web.find(ONE, SOON_S) == (BOX,)
        assert web.get(ref(), SOON_S).original_size == (30, 40)
        assert (len(worker.source.fetched), len(detector.calls), worker.encoder.calls) == (1, 1, 1)
        assert web.find(ONE, 0.0) == other.find(ONE, SOON_S) == (BOX,)
        assert (len(worker.source.fetched), len(detector.calls)) == (1, 1)


def test_an_image_on_which_nothing_is_found_is_not_encoded_and_not_looked_at_again(cluster, start):
    detector = FakeDetector()
    with start(detector) as worker:
        assert cluster.web().find(ONE, SOON_S) == cluster.web().find(ONE, SOON_S) == ()
        assert (len(detector.calls), worker.encoder.calls) == (1, 0)


def test_an_image_that_is_encoded_is_looked_at_and_not_encoded_again(cluster, start):
    with start(FakeDetector(FOUND)) as worker:
        web = cluster.web()
        web.get(ref(), SOON_S)
        assert web.find(ONE, SOON_S) == (BOX,)
        assert worker.encoder.calls == 1


def test_requests_of_several_web_processes_share_one_look(cluster, start):
    detector = FakeDetector(FOUND)
    detector.gate.clear()
    with start(detector):
        webs, answers = [cluster.web() for _ in range(3)], []
        threads = [threading.Thread(target=lambda web=web: answers.append(web.find(ONE, SOON_S))) for web in webs]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(web.encoding for web in webs) and detector.calls)
        detector.gate.set()
        for thread in threads:
            thread.join(SOON_S)
    assert answers == [(BOX,)] * 3
    assert len(detector.calls) == 1


def test_words_that_are_not_found_in_time_are_found_on(cluster, start):
    detector = FakeDetector(FOUND)
    detector.gate.clear()
    with start(detector):
        web = cluster.web()
        with pytest.raises(RetryLater) as error:
            web.find(ONE, 0.05)
        assert error.value.reason is Reason.BUDGET_EXCEEDED
        detector.gate.set()
        assert web.find(ONE, SOON_S) == (BOX,)
    assert len(detector.calls) == 1


@pytest.mark.parametrize(
    ("detector", "words", "words_said"),
    [
        (None, CAT, "expected a detector where images are encoded, got none"),
        (FakeDetector(FOUND), WordQuery(("cat",), "Other@00000000"), "expected the detector Other@00000000, got Fake"),
    ],
)
def test_a_worker_without_the_same_detector_says_so(cluster, start, detector, words, words_said):
    with start(detector), pytest.raises(BackendError, match=words_said) as error:
        cluster.web().find(ref(words=words), SOON_S)
    assert error.value.reason is Reason.NO_DETECTOR


def test_what_goes_wrong_on_a_worker_reaches_the_one_who_asked(cluster, start):
    detector = FakeDetector(FOUND)
    with start(detector) as worker:
        web = cluster.web()
        with pytest.raises(ImageError):
            web.find(ImageRef("/gone.png", 1, 1, words=CAT), SOON_S)
        detector.failures.append(WordsError("'cat': expected a word"))
        with pytest.raises(RequestError) as error:
            web.find(ONE, SOON_S)
        assert error.value.reason is Reason.UNKNOWN_WORD
        assert web.get(ref(), SOON_S).original_size == (30, 40)  # clicks do not suffer from it
        assert worker.encoder.calls == 1


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[[1,0.5,0,0,1,1]]", b"[[0,1.5,0,0,1,1]]", b"[[0,0.5,0,0,1e9,1]]"])
def test_damaged_boxes_in_redis_count_as_missing(cluster, damaged):
    key = BoxKey(decode.digest(b"a picture"), CAT)
    with cluster.parts() as parts:
        store = RedisStore(parts.link, parts.keys, 60.0)
        store.put_boxes(key, (BOX,))
        assert store.fetch_boxes(key) == (BOX,)
        parts.link.call(lambda client: client.set(parts.keys.embedding(key), damaged))
        assert store.fetch_boxes(key) is None


def test_a_job_carries_the_words_and_one_without_looks_as_it_did():
    assert parse([dump(ONE)]) == ONE
    assert dump(ref()) == '{"uri":"/data/upload/1/red.png","task_id":1,"project_id":1}'
    with pytest.raises(RequestError):
        parse(['{"uri":"/a.png","words":{"words":[],"detector":"x"}}'])
