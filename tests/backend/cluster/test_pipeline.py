"""A worker's pipeline: images are fetched while another is encoded, clicks first, and nothing is lost at a stop."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.cluster.worker import RESERVED, THREADS
from backend.embeddings.content_index import source_key
from backend.embeddings.encode import DECODED_AT_ONCE
from backend.types import Priority
from tests.support.cluster import KEYS, SOON_S, Cluster, colour, eventually, ref
from tests.support.fakes import Reply, png
from tests.support.redis_server import needs_redis

pytestmark = [needs_redis, pytest.mark.timeout(180)]
RED = (250, 0, 0)
AHEAD = THREADS - RESERVED


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        cluster.add("red", RED)
        yield cluster


def enqueue(cluster, count, priority=Priority.BULK):
    """Enqueue images ``later0``, ``later1`` …; the first channel of each is its number."""
    for number in range(count):
        cluster.add(f"later{number}", (number, 9, 9))
        cluster.enqueue(ref(f"later{number}"), priority)


def test_images_are_fetched_while_another_is_encoded_and_no_more_than_a_few(cluster):
    enqueue(cluster, 20)
    cluster.worker(encode_s=3.0)
    eventually(lambda: len(cluster.downloads()) == AHEAD and len(cluster.encodes()) == 1)
    time.sleep(0.5)
    assert len(cluster.downloads()) == AHEAD
    assert len(cluster.encodes()) == 1


def test_clicks_are_fetched_while_slow_downloads_of_bulk_work_hold_every_other_thread(cluster):
    let_go, image = threading.Event(), png((0, 250, 0))
    for number in range(AHEAD + 3):
        cluster.add(f"slow{number}", reply=lambda request: Reply(image if let_go.wait(SOON_S) else b""))
        cluster.enqueue(ref(f"slow{number}"), Priority.BULK)
    cluster.worker()
    eventually(lambda: len(cluster.downloads()) == AHEAD)
    try:
        assert colour(cluster.web().get(ref("red"), 15.0)) == RED
    finally:
        let_go.set()


def test_clicks_have_memory_of_their_own_while_large_downloads_of_bulk_work_fill_the_rest(cluster):
    for number in range(AHEAD):
        cluster.add(f"large{number}", reply=Reply(bytes(1_000_000), drip_s=0.005))
        cluster.enqueue(ref(f"large{number}"), Priority.BULK)
    cluster.worker(PADDLE_SAM_MAX_IMAGE_BYTES="1000000", PADDLE_SAM_MAX_BODY_MB="1", PADDLE_SAM_BUFFER_MB="103")
    eventually(lambda: len(cluster.downloads()) == AHEAD)
    time.sleep(2.0)  # now the answers' heads have come
    assert colour(cluster.web().get(ref("red"), 10.0)) == RED


@pytest.mark.slow
def test_a_click_does_not_wait_for_large_images_of_bulk_work_that_wait_to_be_decoded(cluster):
    for number in range(AHEAD):
        cluster.add(f"large{number}", reply=Reply(png((number, 9, 9), size_wh=(9000, 9000))))
        cluster.enqueue(ref(f"large{number}"), Priority.BULK)
    web = cluster.web()
    cluster.worker()
    eventually(lambda: len(cluster.downloads()) == AHEAD)
    assert colour(web.get(ref("red"), SOON_S)) == RED
    assert cluster.encodes().index(RED) <= DECODED_AT_ONCE, "after those that are being decoded"


def test_a_click_on_an_image_that_waits_for_the_encoder_as_background_work_is_encoded_next(cluster):
    enqueue(cluster, AHEAD, Priority.PREFETCH)
    cluster.worker(encode_s=1.0)
    eventually(lambda: len(cluster.downloads()) == AHEAD and len(cluster.encodes()) == 1)
    first = cluster.encodes()[0][0]
    last = next(number for number in reversed(range(AHEAD)) if number != first)
    assert colour(cluster.web().get(ref(f"later{last}"), SOON_S)) == (last, 9, 9)
    assert cluster.encodes().index((last, 9, 9)) <= 2  # one may just have begun


def test_a_click_on_an_address_whose_content_waits_for_the_encoder_for_another_address_is_encoded_next(cluster):
    enqueue(cluster, AHEAD)
    cluster.worker(encode_s=1.0)
    eventually(lambda: len(cluster.downloads()) == AHEAD and len(cluster.encodes()) == 1)
    first = cluster.encodes()[0][0]
    last = next(number for number in reversed(range(AHEAD)) if number != first)
    cluster.add("copy", (last, 9, 9))
    assert colour(cluster.web().get(ref("copy"), SOON_S)) == (last, 9, 9)
    assert cluster.encodes().index((last, 9, 9)) <= 2
    assert cluster.encodes().count((last, 9, 9)) == 1


def test_a_worker_that_is_stopped_gives_back_the_background_jobs_that_wait_for_the_encoder(cluster, redis_server):
    enqueue(cluster, AHEAD)
    worker = cluster.worker(encode_s=2.0)
    eventually(lambda: len(cluster.downloads()) == AHEAD and len(cluster.encodes()) == 1)
    worker.terminate()
    assert worker.wait(SOON_S) == 0
    assert cluster.encodes("end") == cluster.encodes(), "the running encode is finished"
    left = AHEAD - len(cluster.encodes())
    with redis_server.client() as client:
        assert client.llen(f"rq:queue:{KEYS.queue(Priority.BULK)}") == left > 1
        assert not list(client.scan_iter(f"{KEYS.prefix}:*failure*"))
    cluster.worker()
    eventually(lambda: len(cluster.encodes("end")) == AHEAD)
    assert len(set(cluster.encodes())) == AHEAD, "each once"


def test_a_worker_that_is_stopped_finishes_the_clicks_that_it_has_taken(cluster):
    let_go, image = threading.Event(), png((0, 0, 250))
    cluster.add("slow", reply=lambda request: Reply(image if let_go.wait(SOON_S) else b""))
    web, worker = cluster.web(), cluster.worker()
    with ThreadPoolExecutor(1) as pool:
        click = pool.submit(web.get, ref("slow"), SOON_S)
        eventually(lambda: cluster.downloads() == ["slow"])
        worker.terminate()
        time.sleep(0.5)
        let_go.set()
        assert colour(click.result()) == (0, 0, 250)
    assert worker.wait(SOON_S) == 0


@pytest.mark.slow
def test_jobs_in_work_of_a_killed_worker_are_done_by_another(cluster, redis_server):
    web = cluster.web()
    worker = cluster.worker(encode_s=30.0)
    with ThreadPoolExecutor(AHEAD) as pool:
        for number in range(AHEAD):
            cluster.add(f"later{number}", (number, 9, 9))
        waiting = [pool.submit(web.get, ref(f"later{number}"), SOON_S, Priority.BULK) for number in range(AHEAD)]
        eventually(lambda: len(cluster.downloads()) == AHEAD)
        cluster.worker()
        worker.kill()
        assert [colour(click.result()) for click in waiting] == [(number, 9, 9) for number in range(AHEAD)]
    with redis_server.client() as client:
        assert not client.exists(*(KEYS.lease(source_key(ref(f"later{number}"))) for number in range(AHEAD)))
