"""The HTTP server: callers that are slow, silent, many or malformed, and its end."""

import contextlib
import json
import socket
import statistics
import threading
import time
from dataclasses import replace

import pytest
from flask import Response

from backend.concurrency.byte_budget import ByteBudget
from backend.errors import Reason
from backend.metrics import Metrics
from backend.types import Secret
from backend.web.access import Access, Gate
from backend.web.app import GATE
from backend.web.bodies import SMALL_BYTES, Bodies
from backend.web.http_connection import ConnectionLimits
from backend.web.http_server import QUICK_THREADS, HttpServer
from tests.support.raw_http import ATTACKS, HEALTH, Line, Served, attack, post, times_ms
from tests.support.service import Service, wait_until
from tests.support.wire_bodies import click, encoded, recorded, result

AT_MOST_MS = 250
"""Of most requests; the machine that runs the tests may be busy meanwhile. See test_gunicorn_server."""

QUICK = ConnectionLimits(head_s=0.3, body_s=0.6, idle_s=0.3, answer_s=0.5, linger_s=0.2, stop_s=0.4, connections=200)
PATIENT = ConnectionLimits(connections=200)
SETUP = post("/setup", encoded(recorded("setup")))
CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def service():
    with Service() as service:
        yield service


@pytest.fixture(scope="module")
def served(service):
    with Served(service.app) as served:
        yield served


@pytest.fixture(scope="module")
def quick(service):
    with Served(service.app, limits=QUICK) as served:
        yield served


def hangs_up_after_s(line: Line) -> float:
    start = time.monotonic()
    with contextlib.suppress(ConnectionResetError):  # what was still sent meets a closed connection
        line.rest()
    return time.monotonic() - start


# Slow and silent callers.


@pytest.mark.parametrize("trickles", [False, True], ids=["and say no more", "and trickle"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_many_slow_connections_leave_health_and_setup_alone(served, kind, trickles):
    with attack(kind, served.port, 60, trickles):
        assert statistics.median(times_ms(served.port, [HEALTH, SETUP], 5)) < AT_MOST_MS


@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickling"])
@pytest.mark.parametrize(("kind", "within_s"), [
    ("silent", QUICK.head_s), ("half a head", QUICK.head_s), ("half a body", QUICK.body_s),
    ("half a chunk", QUICK.body_s), ("kept alive", QUICK.idle_s),
])  # fmt: skip
def test_whatever_trickles_in_a_request_has_to_be_there_in_time(quick, kind, within_s, trickles):
    with attack(kind, quick.port, 1, trickles) as [line]:
        assert hangs_up_after_s(line) < within_s + QUICK.linger_s + 1.5


def test_a_caller_who_takes_too_long_gets_an_answer_that_says_so(quick):
    with attack("half a body", quick.port, 1) as [line]:
        assert line.rest().startswith(b"HTTP/1.1 408 ")


def test_a_request_that_takes_long_to_be_answered_is_not_given_up():
    def slowly(environ, start_response):
        threading.Event().wait(QUICK.idle_s + QUICK.head_s + 0.3)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Served(slowly, limits=QUICK) as served, Line(served.port) as line:
        line.send(HEALTH)
        assert line.answer().endswith(b"ok")
        line.send(HEALTH)
        assert line.answer().endswith(b"ok")


def large(environ, start_response):
    """Answer with far more than the system takes off a program's hands."""
    body = b" " * (8_000_000 if environ["PATH_INFO"] == "/large" else 2)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def test_a_slow_reader_takes_no_thread_and_is_hung_up_on():
    with Served(large, limits=QUICK, bodies=Bodies(100_000_000), threads=1) as served:
        lines = [Line(served.port, receive_bytes=4096) for _ in range(3)]
        for line in lines:
            line.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert statistics.median(times_ms(served.port, [HEALTH], 3)) < AT_MOST_MS
        wait_until(lambda: not served.http.connections, 5)
        for line in lines:
            line.close()


def test_slow_readers_hold_no_more_than_the_budget_together():
    with Served(large, limits=replace(PATIENT, unsent_bytes=10_000_000), threads=2) as served:
        lines = [Line(served.port, receive_bytes=4096) for _ in range(6)]
        for line in lines:
            line.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: 0 < len(served.http.connections) < 6, 10)  # those that gave way

        def waiting_bytes():
            return sum(connection.unsent_bytes for connection in tuple(served.http.connections.values()))

        wait_until(lambda: waiting_bytes() <= 10_000_000, 10)  # they give way one after the other
        for line in lines:
            line.close()


def test_a_large_answer_arrives_whole(served):
    with Served(large) as served, Line(served.port) as line:
        line.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(line.answer()) > 8_000_000


# Many requests.


def test_of_many_requests_on_few_connections_most_are_answered_after_those_of_others(service):
    """The order of answers, which does not depend on the machine's load; the slow tests measure times."""
    connections, each, begun = 20, 1500, 1000
    order, others = [], []

    def flood():
        order.append("flood")
        if len(order) == begun:  # in the middle of the flood, new callers come
            for request in (HEALTH, SETUP):
                others.append(stack.enter_context(Line(served.port)))
                others[-1].send(request)
        return Response(b"up")

    def health():
        order.append("health")
        return Response(b"up")

    def application(environ, start_response):
        order.append("setup")
        return service.app(environ, start_response)

    gate = Gate(Access(1_000_000), Metrics(), {"/flood": flood, "/health": health})
    with Served(application, gate=gate) as served, contextlib.ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(Line(served.port)).send(get("/flood") * each)
        wait_until(lambda: {"health", "setup"} <= set(order))
        for line in others:
            assert line.answer().startswith(b"HTTP/1.1 200 ")
        assert max(order.index("health"), order.index("setup")) < connections * each / 2
        wait_until(lambda: len(order) > connections * each * 3 / 4)  # the flood was there, and is answered after them


def refuses_most(metrics=None):
    """A gate with a probe, which admits one user."""
    access = Access(1_000_000, user="annotator", password=Secret("secret"))
    return Gate(access, metrics or Metrics(), {"/health": lambda: Response(b"up", content_type="text/plain")})


OWN = b"Authorization: Basic YW5ub3RhdG9yOnNlY3JldA==\r\n"


def get(path, *headers):
    return b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path.encode(), b"".join(headers))


@pytest.fixture
def busy():
    """A server all of whose threads are taken, its metrics, and the lines of those who took them."""
    go, reached = threading.Event(), threading.Semaphore(0)

    def waiting(environ, start_response):
        reached.release()
        assert go.wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    metrics = Metrics()
    with Served(waiting, threads=1, gate=refuses_most(metrics)) as served, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(served.port)) for _ in range(2 * QUICK_THREADS + 2)]
        for number, line in enumerate(lines):
            line.send(get("/predict" if number < 2 else "/metrics", OWN))
        for _ in range(1 + QUICK_THREADS):
            assert reached.acquire(timeout=10)
        try:
            yield served, metrics
            go.set()
            for line in lines:
                assert line.answer().endswith(b"ok")
        finally:
            go.set()


def test_probes_and_refusals_wait_for_no_thread(busy):
    served, metrics = busy
    with Line(served.port) as line:
        line.send(get("/health") * 3 + get("/metrics") + post("/predict", b"{}") + get("/health", CLOSE))
        received = line.rest()
    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"\r\n\r\nup") == 4
    assert received.count(b"HTTP/1.1 401 UNAUTHORIZED\r\n") == received.count(b"Www-Authenticate: Basic") == 2
    assert received.count(b"X-Content-Type-Options: nosniff\r\n") == 6
    assert metrics.reason_counts() == {Reason.AUTH_FAILED: 2}


def test_a_probe_by_head_gets_no_body(busy):
    with Line(busy[0].port) as line:
        line.send(b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = line.rest()
    assert received.endswith(b"\r\n\r\n")
    assert b"Content-Length: 2\r\n" in received


def test_a_malformed_request_waits_for_no_thread(busy):
    with Line(busy[0].port) as line:
        line.send(b"GET /metrics HTTP/9.9\r\n\r\n")
        assert line.rest().startswith(b"HTTP/1.1 400 ")


def test_clicks_that_wait_keep_nothing_else_from_a_thread_and_the_other_way_round():
    go = {"/predict": threading.Event(), "/metrics": threading.Event()}

    def waiting(environ, start_response):
        assert go[environ["PATH_INFO"]].wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Served(waiting, threads=2, gate=refuses_most()) as served, contextlib.ExitStack() as stack:
        for opened, busy in (("/metrics", "/predict"), ("/predict", "/metrics")):
            go[opened].set()
            go[busy].clear()
            lines = [stack.enter_context(Line(served.port)) for _ in range(4)]
            for line in lines:
                line.send(get(busy, OWN))
            with Line(served.port) as line:
                line.send(get(opened, OWN))
                assert line.answer().endswith(b"ok")
            go[busy].set()
            for line in lines:
                assert line.answer().endswith(b"ok")


def test_of_requests_that_were_sent_at_once_one_is_taken_in_at_a_time():
    reached, go = threading.Event(), threading.Event()

    def waiting(environ, start_response):
        reached.set()
        assert go.wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Served(waiting, threads=1) as served, Line(served.port) as line:
        line.send(HEALTH * 1000)
        assert reached.wait(10)
        time.sleep(0.2)
        assert [len(connection.requests) for connection in served.http.connections.values()] == [1]
        go.set()
        received = b""
        while received.count(b"ok") < 1000:
            received += line.receive()


def test_empty_lines_before_a_request_are_none_and_do_not_keep_a_connection(quick):
    with Line(quick.port) as line:
        line.send(b"\r\n\r\n \r\n" * 5000 + HEALTH + b"\r\n\r\n")
        assert b'"status":"UP"' in line.answer()
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < start + 5:
                line.send(b"\r\n\r\n")
                time.sleep(0.05)
        assert time.monotonic() - start < 3


def test_a_server_that_was_woken_up_very_often_can_be_woken_up_again(service):
    listening = socket.create_server(("127.0.0.1", 0))
    http = HttpServer(service.app, [listening], Bodies(1000), threads=1)

    def wake_often():
        for _ in range(100_000):
            http.wake()

    thread = threading.Thread(target=wake_often, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    http.finish(1.0)
    http.close()


# Many callers.


def test_where_all_places_are_taken_the_oldest_gives_its_own_to_the_newest(service):
    with (
        Served(service.app, limits=ConnectionLimits(connections=20)) as served,
        attack("kept alive", served.port, 5) as idle,
        attack("half a head", served.port, 15) as receiving,
        attack("silent", served.port, 3),
    ):
        assert [connection.rest() for connection in idle[:3]] == [b""] * 3
        assert statistics.median(times_ms(served.port, [HEALTH], 1)) < AT_MOST_MS
        receiving[-1].send(b"b\r\nContent-Length: 2\r\n\r\n{}")
        assert receiving[-1].answer().startswith(b"HTTP/1.1 200 ")


def test_a_caller_for_whom_there_is_no_place_gets_an_answer_that_says_so():
    go = threading.Event()

    def waiting(environ, start_response):
        assert go.wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Served(waiting, limits=ConnectionLimits(connections=3), threads=1) as served:
        lines = [Line(served.port) for _ in range(3)]
        for line in lines:
            line.send(HEALTH)
        wait_until(lambda: sum(connection.is_answering for connection in served.http.connections.values()) == 3)
        with Line(served.port) as line:
            assert line.rest().startswith(b"HTTP/1.1 503 ")
        go.set()
        for line in lines:
            assert line.answer().endswith(b"ok")
            line.close()


# Bodies.


def test_large_bodies_at_once_are_bounded_and_those_for_which_there_is_no_room_hear_so(service):
    most = 300_000
    budget = ByteBudget(2 * most)
    bodies = Bodies(most, budget)
    with Served(service.app, bodies=bodies, limits=PATIENT) as served:
        unfinished = post("/predict", b" " * (most - 1), length=most)
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(Line(served.port)) for _ in range(5)]
            for line in lines:
                line.send(unfinished)
            wait_until(
                lambda: sum(connection.request is not None for connection in served.http.connections.values()) == 5
            )
            wait_until(lambda: budget.taken > most)
            assert budget.taken <= 2 * most
            with Line(served.port) as line:
                line.send(post("/setup", b" " * most))
                answer = line.answer()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: " in answer
            assert statistics.median(times_ms(served.port, [HEALTH, SETUP], 1)) < AT_MOST_MS  # small ones always fit
            for line in lines:
                line.send(b" ")
            answers = [line.answer() for line in lines]
        assert sum(answer.startswith(b"HTTP/1.1 400 ") for answer in answers) == 2
        empty = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers if b" 200 OK" in answer]
        assert [[item["result"] for item in answer["results"]] for answer in empty] == [[[]]] * 3
        assert service.count("paddle_sam_reasons_total", reason="overloaded") == 4
        wait_until(lambda: budget.taken == 0)


def test_a_body_that_comes_slowly_gives_way_to_one_that_comes_quickly():
    now = [0.0]
    budget = ByteBudget(10 * SMALL_BYTES)
    bodies = Bodies(10 * SMALL_BYTES, budget, clock=lambda: now[0])
    slow = bodies.begin()
    slow.append(b" " * (9 * SMALL_BYTES))
    now[0] = 5.0
    quick = bodies.begin()
    quick.append(b" " * (8 * SMALL_BYTES))
    assert (str(slow.refusal), quick.refusal) == ("overloaded", None)
    assert budget.taken == len(quick.take()) == 8 * SMALL_BYTES


def test_a_body_that_is_whole_never_gives_way():
    now = [0.0]
    budget = ByteBudget(10 * SMALL_BYTES)
    bodies = Bodies(10 * SMALL_BYTES, budget, clock=lambda: now[0])
    whole = bodies.begin()
    whole.append(b" " * (9 * SMALL_BYTES))
    whole.complete()
    now[0] = 5.0
    late = bodies.begin()
    late.append(b" " * (8 * SMALL_BYTES))
    assert (whole.refusal, str(late.refusal)) == (None, "overloaded")
    whole.close()
    assert budget.taken == 0


def test_what_is_hung_up_on_in_the_middle_of_a_body_is_not_counted_any_more(served):
    with Line(served.port) as line:
        line.send(post("/predict", b" " * 500_000, length=900_000))
        wait_until(lambda: served.budget.taken == 500_000)
    wait_until(lambda: served.budget.taken == 0)


def test_nothing_is_kept_of_a_caller_without_credentials():
    locked = Access(1_000_000, user="annotator", password=Secret("secret"))
    with Service(access=locked) as service, Served(service.app, gate=service.app.config[GATE]) as served:
        with Line(served.port) as line:
            line.send(post("/predict", b" " * 500_000, length=500_001))
            wait_until(
                lambda: [connection.request.body.received_bytes for connection in receiving(served)] == [500_000]
            )
            assert served.budget.taken == 0
            line.send(b" ")
            assert line.answer().startswith(b"HTTP/1.1 401 ")
        with Line(served.port) as line:
            head = b"POST /setup HTTP/1.1\r\nAuthorization: Basic YW5ub3RhdG9yOnNlY3JldA==\r\nContent-Length: 2\r\n\r\n"
            line.send(head + b"{}")
            assert line.answer().startswith(b"HTTP/1.1 200 ")


def receiving(served: Served) -> list:
    return [connection for connection in served.http.connections.values() if connection.request is not None]


def test_a_click_keeps_its_body_no_longer_than_it_is_read(service, served):
    body = click(result(original_width=80, original_height=60))
    body["filler"] = "x" * 200_000
    service.encoder.gate.clear()
    service.source.contents["/data/upload/1/a.jpg"] += b"\0"  # one that is not encoded yet
    try:
        with Line(served.port) as line:
            line.send(post("/predict", encoded(body)))
            assert service.encoder.running.wait(10)
            assert served.budget.taken == 0
            service.encoder.gate.set()
            assert b'"brushlabels"' in line.answer()
    finally:
        service.encoder.gate.set()


# The end.


def test_a_stop_answers_what_is_in_hand_and_what_was_accepted_and_refuses_the_rest():
    reached, go = threading.Event(), threading.Event()

    def waiting(environ, start_response):
        reached.set()
        assert go.wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Served(waiting, threads=1) as served, contextlib.ExitStack() as stack:
        in_progress, partly_sent, idle = (stack.enter_context(Line(served.port)) for _ in range(3))
        in_progress.send(HEALTH)
        assert reached.wait(10)
        partly_sent.send(HEALTH[:9])
        served.begin_to_stop()
        wait_until(lambda: served.http.state.stops_at < float("inf"))
        with pytest.raises(ConnectionRefusedError):
            Line(served.port)
        partly_sent.send(HEALTH[9:])
        go.set()
        for line in (in_progress, partly_sent):
            answer = line.rest()
            assert answer.endswith(b"ok")
            assert b"Connection: close" in answer
        assert idle.rest() == b""


def test_connections_that_the_system_has_accepted_are_answered_by_a_server_that_stops(service):
    listening = socket.create_server(("127.0.0.1", 0))
    http = HttpServer(service.app, [listening], Bodies(1000), threads=2)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(listening.getsockname()[1])) for _ in range(100)]
        for line in lines:
            line.send(HEALTH)
        http.finish(10.0)
        http.close()
        assert all(b'"status":"UP"' in line.rest() for line in lines)


def test_a_request_that_does_not_come_to_its_end_holds_up_no_stop(service):
    with (
        Served(service.app, limits=QUICK) as served,
        attack("half a head", served.port, 2, trickles=True),
        attack("half a body", served.port, 2, trickles=True),
        attack("kept alive", served.port, 2),
    ):
        start = time.monotonic()
        served.stop()
        assert time.monotonic() - start < 3
