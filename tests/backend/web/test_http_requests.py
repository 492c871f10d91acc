"""What comes over a connection: requests as HTTP allows them, and everything else, which is refused."""

import json
import logging
import random
import statistics

import pytest

from tests.support.costs import at_most
from tests.support.raw_http import HEALTH, Line, Served, exchange, post, times_ms
from tests.support.service import Service
from tests.support.wire_bodies import encoded, recorded

AT_MOST_MS = 250
SETUP = post("/setup", encoded(recorded("setup")))


@pytest.fixture(scope="module")
def served():
    with Service() as service, Served(service.app) as served:
        yield served


# What HTTP allows.


def test_requests_may_be_sent_before_the_answers_are_there(served):
    answer = exchange(served.port, HEALTH * 20 + SETUP + HEALTH)
    assert answer.count(b'{"status":"UP"') == 21
    assert answer.count(b"HTTP/1.1 200 ") == 22


def test_a_body_is_asked_for_where_the_caller_waits_for_that(served):
    with Line(served.port) as line:
        line.send(b"POST /setup HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert line.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(b"{}")
        assert line.answer().startswith(b"HTTP/1.1 200 ")
        line.send(b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
        assert line.answer().startswith(b"HTTP/1.1 200 ")


def test_a_head_alone_may_be_asked_for(served):
    answer = exchange(served.port, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n" + HEALTH)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b'"status":"UP"') == 1


@pytest.mark.parametrize(("head", "goes_on"), [
    (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", False), (b"GET /health HTTP/1.0\r\n\r\n", False),
    (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True), (b"GET /health HTTP/1.1\r\n\r\n", True),
])  # fmt: skip
def test_a_connection_goes_on_as_the_caller_says(served, head, goes_on):
    with Line(served.port) as line:
        line.send(head)
        answer = line.answer()
        assert answer.endswith(b"}")
        if goes_on:
            line.send(head)
            assert line.answer().endswith(b"}")
        else:
            assert b"Connection: close" in answer
            assert line.rest() == b""


@pytest.mark.parametrize("piece", [1, 7, 5000])
def test_chunks_of_any_size_make_a_body(served, piece):
    body = encoded(recorded("setup"))[:9000] if piece > 1 else b'{"project": 1}'
    chunks = [body[at : at + piece] for at in range(0, len(body), piece)]
    stream = b"".join(b"%X;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    answer = exchange(served.port, b"POST /setup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def test_a_chunk_far_too_large_is_answered_and_not_waited_for(served):
    with Line(served.port, timeout_s=5) as line:
        line.send(b"POST /setup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 24 + b"\r\nhello")
        assert line.answer().startswith(b"HTTP/1.1 413 ")
        assert line.rest() == b""


def test_a_body_far_too_large_is_answered_and_not_received(served):
    with Line(served.port) as line:
        line.send(post("/predict", b"", length=100_000_000))
        assert json.loads(line.rest().partition(b"\r\n\r\n")[2])["results"][0]["result"] == []


# What HTTP does not allow.


POST = b"POST /setup HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NO_REQUESTS = [
    b"hello\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"get /health HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET /health\r\n\r\n", b"GET  /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /health HTTP/1.1\r\n folded\r\n\r\n", b"GET /health HTTP/1.1\r\nA b: c\r\n\r\n",
    b"GET /a\0b HTTP/1.1\r\nX\r\n\r\n",
    b"GET http://[::1/x HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nX: a\nb\r\n\r\n", b"GET /health HTTP/1.1\r\nX: a\0b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nX: " + b"a" * 70_000, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    POST + b"Content-Length: -1\r\n\r\n", POST + b"Content-Length: +5\r\n\r\n{   }",
    POST + b"Content-Length: a\r\n\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", POST + b"Content-Length: 2, 2\r\n\r\n{}",
    POST + b"Content-Length: \xb2\r\n\r\n{}", POST + b"Content-Length: 0x2\r\n\r\n{}",
    POST + b"Content-Length:\r\n\r\n",
    POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", POST + b"Content-Length: 1_0\r\n\r\n{}",
    POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /setup HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    CHUNKED + b"x\r\n{}\r\n0\r\n\r\n", CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n", CHUNKED + b"2\r\n{}0\r\n\r\n", CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    CHUNKED + b"2;\0\r\n{}\r\n0\r\n\r\n", CHUNKED + b"2;a=\"\r\n{}\r\n0\r\n\r\n", CHUNKED + b"\xb2\r\n{}\r\n0\r\n\r\n",
    CHUNKED + b"2" * 20_000, CHUNKED + b"2;" + b"a" * 50_000, CHUNKED + b"\r\n" * 20_000,
    CHUNKED + b"1\r\n \r\n" * 10_000,
    CHUNKED + b"0\r\n" + b"X: a\r\n" * 20_000,
]  # fmt: skip


@pytest.mark.parametrize("message", NO_REQUESTS, ids=range(len(NO_REQUESTS)))
def test_what_is_no_request_is_refused(served, message, caplog):
    answer = exchange(served.port, message)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert list(json.loads(body)) == ["error"]
    assert caplog.records == []


ODD = [
    b"\xff", b"\xe9\x80", b"", b" ", b"a b", b"[::1", b"::", b"a:b:c", b"x:99999999", b"@", b"%00", b"%", b"\"", b"'",
    b"\\", b"=", b";", b",", b",,,;=;", b"a;q=", b"a;q=\xff", b"text/html;q=nan", b"text/html;q=1e999", b"*/*;q=-1",
    b"text/html;a=\"", b"0" * 5000, b"bytes=9-1", b"W/\"", b"a=b; c=\xff", b"multipart/form-data; boundary=",
    b"text/html; charset=no-such",
    b"Basic \xff", b"Mon, 99 Foo 99999 99:99:99", b"../../etc/passwd", b"${jndi:ldap://x}", b"<script>",
]  # fmt: skip
NAMES = [
    b"Host", b"Accept", b"Authorization", b"Content-Type", b"Cookie", b"Range", b"If-None-Match", b"If-Modified-Since",
    b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"Forwarded", b"Connection", b"Upgrade", b"Origin",
    b"Accept-Encoding", b"Accept-Language", b"User-Agent", b"Referer", b"Date", b"Via", b"Expect", b"TE", b"Trailer",
    b"Content-Encoding", b"Cache-Control", b"Proxy", b"Script-Name",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_header_brings_the_application_into_trouble(served, caplog, name):
    answers = exchange(served.port, b"".join(
        b"GET / HTTP/1.1\r\nAccept: text/html\r\n%s: %s\r\n\r\n" % (name, value) for value in ODD
    ))  # fmt: skip
    assert answers.count(b"HTTP/1.1 200 ") + answers.count(b"HTTP/1.1 400 ") == len(ODD), answers[-500:]
    assert caplog.records == []


@pytest.mark.parametrize("path", [
    "/\xe9", "/%ff", "/%00", "/%", "/%zz", "/%2e%2e/%2e%2e/etc/passwd", "//", "///health", "/health;a",
    "/health?%ff=%00&\xff",
    "/?" + "a&" * 5000, "/" + "a/" * 5000, "/health#x", "*", "http://x/health", "http://x:99999999/health", "x",
    "http://\xff/health",
    "/\\..", "/static/../app.py", "/static/%2e%2e/app.py",
])  # fmt: skip
def test_no_path_brings_the_application_into_trouble(served, caplog, path):
    answer = exchange(served.port, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode("latin-1"))
    assert answer[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.1 308 "), answer[:200]
    assert caplog.records == []


def test_a_transfer_coding_that_is_not_known_is_not_implemented(served):
    assert exchange(served.port, POST + b"Transfer-Encoding: gzip\r\n\r\n").startswith(b"HTTP/1.1 501 ")


def test_no_bytes_at_all_bring_the_server_into_trouble(served, caplog):
    chance = random.Random(11)
    pieces = [*NO_REQUESTS, HEALTH, SETUP, CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"]
    for _ in range(300):
        message = bytearray(b"".join(chance.choices([piece[:500] for piece in pieces], k=2)))
        for _ in range(chance.randrange(6)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        answer = exchange(served.port, bytes(message[: chance.randrange(len(message) + 1)]))
        assert not answer or answer.startswith(b"HTTP/1.1 "), message
        assert b"HTTP/1.1 500" not in answer, message
    assert [record for record in caplog.records if record.levelno >= logging.WARNING and record.exc_info] == []
    assert statistics.median(times_ms(served.port, [HEALTH], 3)) < AT_MOST_MS


@pytest.mark.parametrize("spaces", [b" " * 60_000, b" \t" * 30_000, b" \r\n " * 15_000, b"\r\n \t" * 15_000])
@pytest.mark.parametrize("before", [b"X:", b"X: a", b"X: a;"])
def test_a_header_of_spaces_is_refused_at_once(served, before, spaces):
    with at_most(0.5, of_process=True):
        answer = exchange(served.port, b"GET /health HTTP/1.1\r\n" + before + spaces + b"\x01\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_header_may_be_aligned_with_spaces(served):
    answer = exchange(served.port, b"GET /health HTTP/1.1\r\nX:" + b" " * 60 + b"a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_of_tiny_chunks_is_refused_before_it_costs_much(served):
    with at_most(0.5, of_process=True):
        answer = exchange(served.port, CHUNKED + b"8\r\n        \r\n" * 60_000)
    assert answer.startswith(b"HTTP/1.1 400 ")
