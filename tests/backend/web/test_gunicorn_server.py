"""The service as a real process: its port, its signals, its answers over a socket."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from gunicorn.config import Config

from backend.web.gunicorn_server import WebWorker
from tests.support.fakes import HttpServer, Reply, png
from tests.support.hostile_bodies import bodies
from tests.support.processes import Server, free_port, run, serving
from tests.support.raw_http import ATTACKS, HEALTH, Line, Served, attack, flood, post, times_ms
from tests.support.service import wait_until
from tests.support.wire_bodies import click_on, data_uri, encoded, recorded
from tests.support.wire_reader import mask_of


@pytest.fixture(scope="module")
def server(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("server"), PADDLE_SAM_WEIGHTS=weights, PADDLE_SAM_MAX_BODY_MB="1") as server:
        yield server


def resident_mb(pid: int) -> float:
    """Return the memory of a process and of those that it has started."""
    own = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1000
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident_mb(int(child)) for child in children)


def processor_s(pid: int) -> float:
    """Return the processor time of a process and of those that it has started, while they run."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + sum(processor_s(int(child)) for child in children)


def raw(server: Server, message: bytes, timeout_s: float = 30.0) -> bytes:
    """Send bytes as they are and return what comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as line:
        line.sendall(message)
        with contextlib.suppress(OSError):  # the server may have hung up already
            line.shutdown(socket.SHUT_WR)
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_it_answers_a_click_over_a_socket(server):
    status, answer = server.ask("/predict", encoded(click_on(data_uri())))
    assert status == 200
    [item] = json.loads(answer)["results"]
    assert item["model_version"].startswith("small@")
    assert all(mask_of(entry).shape == (60, 80) for entry in item["result"])


@pytest.mark.parametrize("name", ["/predict tasks that are no tasks", "/predict lists in lists"])
def test_a_body_of_many_objects_takes_less_than_a_second_beside_a_loaded_network(server, name):
    """Without `gc.freeze` the garbage collector passes over Paddle's objects again and again."""
    wait_until(lambda: server.ask("/ready")[0] == 200)
    path, make = bodies()[name]
    body, before = make(), processor_s(server.process.pid)
    server.ask(path, body)
    assert processor_s(server.process.pid) - before < 1


def test_it_says_where_it_is(server):
    assert "small@" in server.log
    assert f"http://127.0.0.1:{server.port}" in server.log


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_check_says_by_its_exit_code_whether_it_is_up(server, host):
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    assert run("serve", "--check", HOST=host, PORT=str(server.port), **proxy).returncode == 0
    completed = run("serve", "--check", HOST=host, PORT=str(free_port()))
    assert (completed.returncode, completed.stdout + completed.stderr) == (1, "")


def test_a_browser_sees_the_status_page_turn_ready(server):
    wait_until(lambda: b">ready<" in server.ask("/", Accept="text/html")[1])
    page = server.ask("/", Accept="text/html")[1].decode()
    assert "small@" in page
    assert "cpu" in page


def test_requests_are_logged_in_one_line_each(server):
    before = server.log.count("event=predicted")
    for _ in range(3):
        server.ask("/predict", encoded(click_on(data_uri(colour=(1, 2, 3)))))
    wait_until(lambda: server.log.count("event=predicted") == before + 3)
    assert " INFO backend.answer_log click answered: task=1 prompts='" in server.log


def test_several_requests_go_over_one_connection(server):
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n%s\r\n"
    answer = raw(server, head % b"" + head % b"" + head % b"Connection: close\r\n")
    assert answer.count(b'{"status":"UP"') == 3


def test_a_body_without_a_length_is_read(server):
    body = encoded(click_on(data_uri()))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:])) + b"0\r\n\r\n"
    answer = raw(
        server, b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks
    )
    assert b"200 OK" in answer.splitlines()[0]
    assert b'"model_version":"small@' in answer


@pytest.mark.parametrize("size", [1_100_000, 3_000_000, 7_900_000])
def test_a_click_that_is_too_large_is_an_empty_answer_over_a_socket_too(server, size):
    status, answer = server.ask("/predict", b" " * size)
    assert status == 200
    assert json.loads(answer)["results"][0]["result"] == []


def test_the_body_of_an_unwanted_request_is_read_before_it_is_refused(server):
    assert server.ask("/nowhere", b" " * 7_900_000)[0] == 404
    assert server.ask("/health", b" " * 7_900_000)[0] == 405


def test_a_body_without_end_is_not_read_to_its_end(server):
    with contextlib.suppress(OSError):  # hung up on
        assert server.ask("/predict", b" " * 50_000_000)[0] == 200
    assert server.ask("/health")[0] == 200


@pytest.mark.parametrize("message", [
    b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
])  # fmt: skip
def test_what_is_no_request_harms_no_other_caller(server, message):
    try:
        answer = raw(server, message)
    except ConnectionError:
        answer = b""  # hung up on before everything was sent
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert server.ask("/health")[0] == 200
    assert "Traceback" not in server.log


def test_connections_that_say_nothing_leave_others_alone(server):
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(30)]
    try:
        assert server.ask("/health")[0] == 200
    finally:
        for line in lines:
            line.close()


def test_a_taken_port_is_refused_in_one_sentence(weights):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        completed = run("serve", "--host", "127.0.0.1", "--port", str(port), PADDLE_SAM_WEIGHTS=weights)
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert "PORT" in completed.stderr


def is_refused(port: int) -> bool:
    """Whether nothing listens any more; a connection that is reset fails the test.

    The system resets those that come between a server's last accept and its close, so few are made.
    """
    try:
        with Line(port) as line:
            line.send(HEALTH)
            assert line.answer().startswith(b"HTTP/1.1 200 ")
    except ConnectionRefusedError:
        return True
    time.sleep(0.2)
    return False


PATIENT = """
import os, sys
from backend.composition import parts, web
from backend.settings import read
from backend.web.gunicorn_server import Server
_, _, _, host, _, port = sys.argv
settings = read({**os.environ, "HOST": host, "PORT": port})
checkpoint = parts.read_weights(settings)
server = Server(settings, lambda: web.build(settings, checkpoint))
server.cfg.set("graceful_timeout", 600)
server.run()
"""
"""Serves as ``serve`` does, with a stop time that a first click does not exceed on a loaded machine either."""


def test_sigterm_lets_a_click_in_hand_finish_and_ends_well(tmp_path, weights):
    """A first click while the model still loads is the longest there is."""
    with serving(tmp_path, (sys.executable, "-c", PATIENT), PADDLE_SAM_WEIGHTS=weights) as server:
        answers = []
        body = encoded(click_on(data_uri((1600, 1200)), (1600, 1200)))
        clicking = threading.Thread(target=lambda: answers.append(server.ask("/predict", body, timeout_s=600)))
        clicking.start()
        wait_until(lambda: b"paddle_sam_waiting 1.0" in server.ask("/metrics")[1] or not clicking.is_alive(), 120)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port), 120)
        clicking.join()
        assert server.process.wait(600) == 0
    [(status, answer)] = answers
    assert status == 200
    assert json.loads(answer)["results"][0]["model_version"].startswith("small@")
    assert "Traceback" not in server.log


def test_sigterm_lets_a_click_in_hand_finish_when_the_model_is_loaded_too(tmp_path, weights):
    """Paddle, once it is there, has a handler of its own, which would end the process at once."""
    reached, go = threading.Event(), threading.Event()

    def slowly(request):
        reached.set()
        assert go.wait(60)
        return Reply(png(size_wh=(80, 60)))

    with HttpServer() as images, serving(tmp_path, PADDLE_SAM_WEIGHTS=weights, LABEL_STUDIO_URL=images.url) as server:
        images.routes["/data/upload/1/a.png"] = slowly
        wait_until(lambda: b"ready</span>" in server.ask("/", Accept="text/html")[1], 60)
        answers = []
        body = encoded(click_on("/data/upload/1/a.png"))
        clicking = threading.Thread(target=lambda: answers.append(server.ask("/predict", body)))
        clicking.start()
        assert reached.wait(60)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port))
        threading.Event().wait(1.0)
        go.set()
        assert server.process.wait(60) == 0
        clicking.join(60)
    assert [status for status, _ in answers] == [200]
    assert "Traceback" not in server.log
    assert "FatalError" not in server.log


def test_ctrl_c_while_the_model_loads_ends_it_at_once_and_without_complaint(tmp_path, weights):
    with serving(tmp_path, PADDLE_SAM_WEIGHTS=weights) as server:  # it answers before anything is loaded
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        assert server.process.wait(60) == 0
        log = server.log
    assert "Traceback" not in log
    assert "FATAL" not in log
    assert "SIGKILL" not in log


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_processes_of_one_that_was_killed_end_too(tmp_path, weights):
    with serving(tmp_path, PADDLE_SAM_WEIGHTS=weights, WORKERS="2") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as idle:
            idle.sendall(HEALTH)
            assert idle.recv(1000)
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            wait_until(lambda: not has_processes(server.process.pid), 60)
        assert is_refused(server.port)


class LockedDispatcher:
    """Hands requests out, or is closed, under a lock, as a pool of threads does."""

    def __init__(self, inner):
        self.inner, self.lock = inner, threading.Lock()

    def add_task(self, connection):
        with self.lock:
            self.inner.add_task(connection)

    def close(self):
        with self.lock:
            self.inner.close()


@pytest.mark.timeout(30)
def test_ctrl_c_that_interrupts_the_handing_out_of_a_request_ends_it_all_the_same():
    """The signal's handler runs in the thread that it interrupts, which may hold any lock of the server."""
    worker = object.__new__(WebWorker)
    with Served(lambda environ, start_response: []) as served:
        dispatcher = served.http.dispatcher = LockedDispatcher(served.http.dispatcher)
        worker.cfg, worker.http = Config(), served.http
        with dispatcher.lock, pytest.raises(SystemExit) as ended:
            worker.handle_quit(signal.SIGINT, None)
    assert ended.value.code == 0
    assert not worker.alive


def test_ctrl_c_ends_it_without_a_traceback(tmp_path, weights):
    with serving(tmp_path, PADDLE_SAM_WEIGHTS=weights) as server:
        assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.log
    assert "KeyboardInterrupt" not in server.log


AT_MOST_MS = 250
"""Of all requests but two of forty: the machine that runs the tests may be at something else meanwhile."""
SETUP = post("/setup", encoded(recorded("setup")))


@pytest.mark.slow
@pytest.mark.parametrize("trickles", [False, True], ids=["and say no more", "and trickle"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_hundreds_of_slow_connections_leave_health_and_setup_alone(server, kind, trickles):
    wait_until(lambda: b">ready<" in server.ask("/", Accept="text/html")[1], 60)
    with attack(kind, server.port, 400, trickles):
        assert times_ms(server.port, [HEALTH, SETUP], 20)[-3] < AT_MOST_MS


@pytest.mark.slow
def test_more_connections_than_there_are_places_leave_health_and_setup_alone(server):
    with contextlib.ExitStack() as stack:
        for kind in ATTACKS:
            stack.enter_context(attack(kind, server.port, 180))
            assert times_ms(server.port, [HEALTH, SETUP], 20)[-3] < AT_MOST_MS
    assert server.log.count("event=connections_full") == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/metrics", "/health", "/nowhere"])
def test_a_flood_of_whole_requests_leaves_health_alone(server, path):
    with flood(server.port, 200, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()):
        assert times_ms(server.port, [HEALTH], 20)[-3] < AT_MOST_MS


@pytest.mark.slow
def test_many_large_bodies_at_once_take_no_more_memory_than_their_budget(tmp_path, weights):
    """Forty bodies of the largest size, 50 MB, each received but for its last byte; 100 MB of them are kept."""
    limits = {"PADDLE_SAM_MAX_BODY_MB": "50", "PADDLE_SAM_BUFFER_MB": "450"}
    with serving(tmp_path, PADDLE_SAM_WEIGHTS=weights, **limits) as server:
        wait_until(lambda: b">ready<" in server.ask("/", Accept="text/html")[1])
        server.ask("/predict", encoded(click_on(data_uri())))
        before_mb = resident_mb(server.process.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                line = stack.enter_context(Line(server.port, 120))
                line.send(post("/predict", b" " * 49_999_999, length=50_000_000))
            assert resident_mb(server.process.pid) - before_mb < 150
            assert server.ask("/predict", encoded(click_on(data_uri())))[0] == 200
        wait_until(lambda: resident_mb(server.process.pid) - before_mb < 50)
