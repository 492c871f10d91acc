"""Every answer that a browser shows as a picture is one here, and the others get a reason."""

import gzip
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import AccessError, BackendError, ImageError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource, Route
from backend.label_studio.http import LabelStudioHttp
from backend.types import ImageRef, Secret
from tests.support.fakes import LEGACY_TOKEN, FakeLabelStudio, Reply
from tests.support.http_answers import ANSWERS, IMAGE, NOT_SHOWN, SHOWN, UNENDING, AnswerServer, answer, coded, found_at

RAW = {}


@pytest.fixture(scope="module")
def server():
    """Gives the table's answers, and those that a test puts into RAW."""
    with AnswerServer(answers=RAW) as server:
        RAW.update(ANSWERS)
        yield server


def image_source(url="http://localhost:9", limits=None, **options):
    client = LabelStudioHttp(url, Secret(LEGACY_TOKEN), retry_wait_s=0.001)
    policy = AddressPolicy(Origin.of(url), ("localhost", "127.0.0.1"))
    return ImageSource(client, policy, replace(limits or FetchLimits(timeout_s=10), retry_wait_s=0.001), **options)


@pytest.fixture(scope="module")
def source():
    return image_source()


def refusal(source, uri):
    with pytest.raises(BackendError) as caught:
        source.fetch(ImageRef(uri))
    return caught.value


def outcome(source, uri):
    """The reason why an image cannot be had, None if it can; anything but our own errors is a defect."""
    try:
        source.fetch(ImageRef(uri, task_id=1))
    except BackendError as error:
        return error.reason
    return None


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_browser_shows_is_read(server, source, name):
    assert source.fetch(ImageRef(f"{server.url}/{name}")).data == IMAGE


def test_chunks_of_a_byte_each_are_refused_before_they_keep_the_reader_busy(server, source):
    RAW["tiny-chunks"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n\xff\r\n" * 100_000 + b"0\r\n\r\n"
    )
    error = refusal(source, f"{server.url}/tiny-chunks")
    assert isinstance(error, ImageError)
    assert "chunks of a few bytes" in str(error)


@pytest.mark.parametrize("name", UNENDING)
def test_an_image_that_is_whole_by_its_own_format_counts_whatever_the_server_announced(server, source, name):
    before = len(server.requests)
    assert source.fetch(ImageRef(f"{server.url}/{name}")).data == IMAGE
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_what_no_browser_shows_will_never_pass_and_is_asked_once(server, source, name):
    before = len(server.requests)
    error = refusal(source, f"{server.url}/{name}")
    assert isinstance(error, ImageError | AccessError)
    assert error.reason is not Reason.INTERNAL_ERROR
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("name", ["brotli", "zstd", "compress"])
def test_a_coding_that_is_not_undone_is_named(server, source, name):
    name_in_message = {"brotli": "'br'"}.get(name, f"'{name}'")
    assert name_in_message in str(refusal(source, f"{server.url}/{name}"))


def test_a_head_that_browsers_refuse_is_not_called_another_protocol(server, source):
    text = str(refusal(source, f"{server.url}/zero-byte-in-header"))
    assert "zero byte" in text
    assert "does not answer in HTTP" not in text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, ImageError) for status in (400, 404, 405, 406, 410, 418, 451, 501, 505, 511)),
        *((status, AccessError) for status in (401, 403)),
        *((status, RetryLater) for status in (408, 425, 429, 500, 502, 503, 504, 520)),
    ],
)
def test_only_what_may_pass_is_filed_as_such(server, source, status, kind):
    RAW["status"] = answer(body=b"no", status=b"HTTP/1.1 %d X" % status)
    assert isinstance(refusal(source, f"{server.url}/status"), kind)


# Bombs


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_bomb_is_refused_without_being_unpacked(server, source, times):
    bomb = bytes(100_000_000)
    for _ in range(times):
        bomb = gzip.compress(bomb, 1)
    RAW["bomb"] = coded(b", ".join([b"gzip"] * times), bomb)
    source = image_source(limits=FetchLimits(max_bytes=2_000_000, timeout_s=10))
    tracemalloc.start()
    try:
        error = refusal(source, f"{server.url}/bomb")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.reason is Reason.IMAGE_TOO_LARGE
    assert peak < 20_000_000


def test_what_unpacks_to_nothing_in_the_end_is_limited_on_the_way(server):
    """Empty blocks of deflate, a hundred million bytes of them, packed into some kilobytes."""
    empty = gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 20_000_000
    RAW["blocks"] = coded(b"gzip, gzip", gzip.compress(empty, 1))
    source = image_source(limits=FetchLimits(max_bytes=2_000_000, timeout_s=10))
    assert refusal(source, f"{server.url}/blocks").reason is Reason.IMAGE_TOO_LARGE


def test_codings_without_end_are_refused(server, source):
    RAW["codings"] = coded(b", ".join([b"gzip"] * 50), IMAGE)
    assert "at most 5" in str(refusal(source, f"{server.url}/codings"))


def test_what_unpacks_to_nothing_is_no_image_of_endless_size(server):
    RAW["nothing"] = answer(b"Content-Encoding: gzip\r\n", gzip.compress(b"") + bytes(5_000_000), length=False)
    source = image_source(limits=FetchLimits(max_bytes=1_000_000, timeout_s=10))
    assert source.fetch(ImageRef(f"{server.url}/nothing")).data == b""


# Who asks


def wants(test):
    """An answer that is given only to requests that pass a test."""
    return lambda lines: answer() if test(b"".join(lines)) else answer(body=b"", status=b"HTTP/1.1 403 Forbidden")


def test_a_host_that_wants_a_browser_gets_an_honest_name_that_it_lets_pass(server, source):
    RAW["agent"] = wants(lambda head: b"User-Agent: Mozilla/5.0 (compatible; paddle-sam-backend" in head)
    assert source.fetch(ImageRef(f"{server.url}/agent")).data == IMAGE


@pytest.mark.parametrize(
    ("public_url", "referer"),
    [(None, "http://localhost:9/"), ("http://labels.example.com/ls", "http://labels.example.com/")],
)
def test_the_page_that_shows_the_image_is_named_as_browsers_name_it(server, public_url, referer):
    image_source(public_url=public_url).fetch(ImageRef(f"{server.url}/plain"))
    assert server.headers()["referer"] == referer


def test_a_page_that_came_over_tls_is_not_named_over_plain_http(server):
    image_source(public_url="https://labels.example.com").fetch(ImageRef(f"{server.url}/plain"))
    assert "referer" not in server.headers()


def test_a_refused_image_says_what_was_refused(server, source):
    RAW["hotlink"] = wants(lambda head: b"Referer: http://elsewhere" in head)
    error = refusal(source, f"{server.url}/hotlink")
    assert isinstance(error, AccessError)
    assert "Referer" in str(error)
    assert "403" in str(error)
    assert "not public" not in str(error)


def redirects_with_cookie(location):
    def reply(lines):
        has_cookie = any(b"seen=1" in line for line in lines if line.lower().startswith(b"cookie:"))
        refused = found_at(location).replace(b"\r\n\r\n", b"\r\nSet-Cookie: seen=1; Path=/; HttpOnly\r\n\r\n")
        return answer() if has_cookie else refused

    return reply


def test_a_cookie_that_a_redirect_sets_goes_back_to_the_same_server(server, source):
    RAW["cookie"] = redirects_with_cookie(b"/cookie")
    assert source.fetch(ImageRef(f"{server.url}/cookie")).data == IMAGE
    assert source.fetch(ImageRef(f"{server.url}/cookie")).data == IMAGE, "each fetch begins without one"


def test_a_cookie_goes_to_no_other_server_and_none_of_label_studios_is_kept(server, source):
    with AnswerServer() as other, FakeLabelStudio() as studio:
        RAW["leave"] = redirects_with_cookie(f"{other.url}/plain".encode())
        source.fetch(ImageRef(f"{server.url}/leave"))
        assert "cookie" not in other.headers()
        studio.accepted.add(None)
        headers = {"Location": "/public", "Set-Cookie": "sessionid=secret"}
        studio.routes |= {"/data/upload/r.png": Reply(b"", 302, headers), "/public": Reply(IMAGE)}
        image_source(studio.url).fetch(ImageRef("/data/upload/r.png"))
        assert "cookie" not in studio.requests[-1].headers


# Garbage

PIECES = ["http", "https://", ":", "/", "//", "[", "]", "::1", "@", "#", "?", "%", "%zz", "..", "\\", "s3://", "data:"]
PIECES += ["a", "é", "\ud800", "99999", "0", "/data/", "/tasks/1/presign/?d="]
addresses = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
    st.sampled_from(
        ["http://[::1/x", "http://h:99999/", "http://\ud800/", "s3://\ud800", "data:,\ud800", "//[", "http:///a"]
    ),
)


@settings(max_examples=120, deadline=None)
@given(addresses)
def test_no_address_in_a_task_is_a_defect(uri):
    source = image_source(
        "http://127.0.0.1:9", FetchLimits(timeout_s=0.5), route=Route(lambda host, port: ["127.0.0.1"])
    )
    assert outcome(source, uri or "/") is not Reason.INTERNAL_ERROR


@settings(max_examples=120, deadline=None)
@given(addresses)
def test_no_redirect_is_a_defect(server, source, location):
    value = location.replace("\r", "").replace("\n", "").encode("utf-8", "surrogatepass")
    RAW["redirect"] = found_at(value)
    assert outcome(source, f"{server.url}/redirect") is not Reason.INTERNAL_ERROR
