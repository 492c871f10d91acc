"""Fetching images over real sockets: which hosts get the token, what is refused, how long it may take."""

import contextlib
import socket
import threading
import time
from dataclasses import replace

import pytest

from backend.errors import AccessError, BackendError, ImageError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource, Route, Validators
from backend.images.http.outcomes import address
from backend.images.locations import LabelStudioOrigin
from backend.label_studio.http import LabelStudioHttp
from backend.types import ImageRef, Secret
from tests.support.fakes import LEGACY_TOKEN, PERSONAL_TOKEN, FakeLabelStudio, HttpServer, Reply, png

IMAGE = png()
UPLOAD = "/data/upload/1/3024c2b9-plain.png"


@pytest.fixture
def studio():
    with FakeLabelStudio() as server:
        server.routes[UPLOAD] = Reply(IMAGE, headers={"Content-Type": "image/png"})
        yield server


@pytest.fixture
def other():
    """A server that is not Label Studio."""
    with HttpServer() as server:
        server.routes["/a.png"] = Reply(IMAGE)
        yield server


@pytest.fixture
def connect(studio):
    clients = []

    def open_source(token=PERSONAL_TOKEN, allowed=("localhost",), url=None, root=None, limits=None, **options):
        client = LabelStudioHttp(url or studio.url, Secret(token) if token else None, retry_wait_s=0.001)
        clients.append(client)
        policy = AddressPolicy(Origin.of(client.url), tuple(allowed))
        limits = replace(limits or FetchLimits(timeout_s=10), retry_wait_s=0.001)
        return ImageSource(client, policy, limits, local_files_root=root, **options)

    yield open_source
    for client in clients:
        client.close()


def is_allowed(policy, host, address):
    return is_allowed_at(policy, host, 80, address)


def is_allowed_at(policy, host, port, address):
    try:
        policy.check(host, port, address)
    except AccessError:
        return False
    return True


def assert_fails(kind, reason, source, uri, **fields):
    with pytest.raises(kind) as caught:
        source.fetch(ImageRef(uri, **fields))
    assert caught.value.reason is reason
    return str(caught.value)


# Tokens


@pytest.mark.parametrize("token", [PERSONAL_TOKEN, LEGACY_TOKEN])
@pytest.mark.parametrize("uri", [UPLOAD, UPLOAD[1:], UPLOAD.removeprefix("/data/")])
def test_uploads_are_read_with_either_kind_of_token(connect, token, uri):
    image = connect(token).fetch(ImageRef(uri))
    assert image.data == IMAGE
    assert image.immutable


def test_an_absolute_address_of_label_studio_gets_the_token_too(connect, studio):
    assert connect().fetch(ImageRef(studio.url + UPLOAD)).data == IMAGE


def test_an_address_by_which_browsers_know_label_studio_is_asked_of_it_with_the_token(connect, studio):
    studio.routes["/data/local-files/"] = studio.routes[UPLOAD]
    public = "http://localhost:9"
    source = connect(allowed=(), public_url=public)
    assert source.fetch(ImageRef(public + "/data/local-files/?d=a.png")).data == IMAGE
    assert "authorization" in studio.requests[-1].headers
    assert source.fetch(ImageRef(public + UPLOAD)).immutable


def test_unicode_and_blanks_in_a_path_arrive_encoded_once(connect, studio):
    studio.routes["/data/upload/1/%D0%B4%D0%B2%D0%B0%20b.png"] = Reply(IMAGE)
    source = connect()
    assert source.fetch(ImageRef("/data/upload/1/два b.png")).data == IMAGE
    assert source.fetch(ImageRef("/data/upload/1/%D0%B4%D0%B2%D0%B0%20b.png")).data == IMAGE


def test_an_access_token_that_expired_in_between_is_renewed_once(connect, studio):
    source = connect()
    source.fetch(ImageRef(UPLOAD))
    studio.expire()
    assert source.fetch(ImageRef(UPLOAD)).data == IMAGE
    assert studio.refreshes == 2


def test_a_revoked_token_is_an_access_error(connect, studio):
    studio.revoked = True
    assert_fails(AccessError, Reason.AUTH_FAILED, connect(), UPLOAD)


def test_a_refused_legacy_token_says_which_kind_to_use(connect, studio):
    studio.expire()
    assert "personal access token" in assert_fails(AccessError, Reason.AUTH_FAILED, connect(LEGACY_TOKEN), UPLOAD)


def test_a_missing_key_is_named(connect):
    message = assert_fails(AccessError, Reason.LABEL_STUDIO_NOT_CONFIGURED, connect(None), UPLOAD)
    assert "LABEL_STUDIO_API_KEY is not set" in message


def test_a_project_the_user_may_not_see_is_an_access_error(connect, studio):
    studio.routes[UPLOAD] = Reply(b"", 403)
    assert_fails(AccessError, Reason.AUTH_FAILED, connect(), UPLOAD)


@pytest.mark.parametrize(
    "login",
    [
        Reply(b"\n<!DOCTYPE html><html>Log in</html>", headers={"Content-Type": "text/html"}),
        Reply(b"<html>Log in</html>", headers={"Content-Type": "image/png"}),
        Reply(b"", 302, {"Location": "/user/login/?next=/data/upload"}),
    ],
)
def test_a_login_page_is_an_access_error_and_no_image(connect, studio, login):
    studio.routes[UPLOAD] = login
    assert_fails(AccessError, Reason.AUTH_FAILED, connect(), UPLOAD)


@pytest.mark.parametrize("name", ["два b.png", "%D0%B4%D0%B2%D0%B0%20b.png"])
def test_a_redirect_is_followed_however_it_writes_its_target(connect, other, name):
    other.routes["/%D0%B4%D0%B2%D0%B0%20b.png"] = Reply(IMAGE)
    other.routes["/r"] = Reply(b"", 302, {"Location": f"/{name}".encode().decode("latin-1")})
    assert connect().fetch(ImageRef(other.url + "/r")).data == IMAGE


def test_another_host_never_sees_the_token(connect, other):
    connect().fetch(ImageRef(other.url + "/a.png"))
    assert "authorization" not in other.requests[-1].headers


def test_a_redirect_to_another_host_leaves_the_token_behind(connect, studio, other):
    studio.routes["/tasks/12/presign/"] = Reply(b"", 303, {"Location": other.url + "/a.png?X-Amz-Signature=1"})
    assert connect().fetch(ImageRef("s3://bucket/a.png", task_id=12)).data == IMAGE
    assert "authorization" in studio.requests[-1].headers
    assert "authorization" not in other.requests[-1].headers


def test_a_redirect_back_to_label_studio_does_not_bring_the_token_back(connect, studio, other):
    other.routes["/trap.png"] = Reply(b"", 302, {"Location": studio.url + UPLOAD})
    assert_fails(AccessError, Reason.AUTH_FAILED, connect(), other.url + "/trap.png")
    assert "authorization" not in studio.requests[-1].headers


PRIVATE = (
    "/api/users",
    "/admin",
    "/export",
    "/user/account",
    "/data/avatars/1.png",
    "/tasks/12",
    "/api/tasks/1/presign/",
)


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("is_absolute", [True, False])
def test_only_where_label_studio_serves_task_files_does_the_token_go(connect, studio, path, is_absolute):
    uri = studio.url + path if is_absolute else path
    message = assert_fails(AccessError, Reason.FORBIDDEN_PATH, connect(), uri)
    assert path in message
    assert not any("authorization" in request.headers for request in studio.requests)


@pytest.mark.parametrize(
    "path",
    [
        "/data/media/a.png",
        "/data/local-files/?d=a.png",
        "/storage-data/uploaded/?filepath=upload/1/a.png",
        "/tasks/12/presign/?fileuri=czM6",
        "/tasks/12/resolve/?fileuri=czM6",
        "/projects/3/presign/?fileuri=czM6",
        "/projects/3/resolve/?fileuri=czM6",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/ls"])
def test_every_path_of_task_files_gets_the_token(connect, studio, path, prefix):
    studio.routes[prefix + path.partition("?")[0]] = Reply(IMAGE)
    source = connect(LEGACY_TOKEN, url=studio.url + prefix)
    assert source.fetch(ImageRef(path)).data == IMAGE
    assert source.fetch(ImageRef(studio.url + prefix + path)).data == IMAGE
    assert all("authorization" in request.headers for request in studio.requests)


@pytest.mark.parametrize("prefix", ["/ls", "/l%C3%A4", "/l\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
def test_below_a_path_the_token_goes_to_its_own_task_files_alone(connect, studio, prefix):
    for path in ("/data/upload/1/a.png", "/ls/data/upload/1/a.png", "/l%C3%A4/data/upload/1/a.png"):
        studio.routes[path] = Reply(IMAGE)
    source = connect(LEGACY_TOKEN, url=studio.url + prefix)
    source.fetch(ImageRef("/data/upload/1/a.png"))
    assert "authorization" in studio.requests[-1].headers
    for outside in ("/ls2/data/upload/1/a.png", "/xls/data/upload/1/a.png"):
        assert_fails(AccessError, Reason.FORBIDDEN_PATH, source, studio.url + outside)
        assert "authorization" not in studio.requests[-1].headers


def test_a_public_image_beside_label_studio_is_read_without_the_token(connect, studio):
    open_to_all = FakeLabelStudio.reply

    def reply(request):
        return Reply(IMAGE) if request.path.startswith("/pictures/") else open_to_all(studio, request)

    studio.reply = reply
    for url in (studio.url, studio.url + "/ls"):
        assert connect(url=url).fetch(ImageRef(studio.url + "/pictures/a.png")).data == IMAGE
    assert connect(None).fetch(ImageRef("/pictures/a.png")).data == IMAGE
    assert not any("authorization" in request.headers for request in studio.requests)


@pytest.mark.parametrize(
    "target",
    ["/api/users", "/data/upload/1/../../../api/users", "/data/upload/%2e%2e/%2e%2e/api/users", "/data/avatars/1.png"],
)
def test_a_redirect_away_from_the_task_files_leaves_the_token_behind(connect, studio, target):
    studio.routes["/data/upload/1/r.png"] = Reply(b"", 302, {"Location": target})
    assert_fails(AccessError, Reason.FORBIDDEN_PATH, connect(), "/data/upload/1/r.png")
    assert "authorization" in studio.requests[-2].headers
    assert "authorization" not in studio.requests[-1].headers


def test_a_redirect_among_the_task_files_keeps_the_token(connect, studio):
    studio.routes["/tasks/12/resolve/"] = Reply(b"", 303, {"Location": UPLOAD})
    assert connect().fetch(ImageRef("/tasks/12/resolve/?fileuri=czM6")).data == IMAGE


def test_a_redirect_back_among_the_task_files_does_not_bring_the_token_back(connect, studio):
    studio.accepted.add(None)
    studio.routes["/data/upload/1/r.png"] = Reply(b"", 302, {"Location": "/elsewhere"})
    studio.routes["/elsewhere"] = Reply(b"", 302, {"Location": UPLOAD})
    assert connect().fetch(ImageRef("/data/upload/1/r.png")).data == IMAGE
    assert ["authorization" in sent.headers for sent in studio.requests if sent.method == "GET"] == [True, False, False]


def test_a_path_that_asks_for_a_login_and_serves_no_task_files_is_reported_as_such(connect, studio):
    studio.accepted.add(None)
    studio.routes["/projects/1/data"] = Reply(b"", 302, {"Location": "/user/login/?next=/projects/1/data"})
    message = assert_fails(AccessError, Reason.FORBIDDEN_PATH, connect(), studio.url + "/projects/1/data")
    assert "/projects/1/data" in message


@pytest.mark.parametrize(
    "trick", ["http://{host}@{other}/a.png", r"http://{other}\@{host}/a.png", "http://{other}#@{host}/a.png"]
)
def test_addresses_made_to_confuse_do_not_get_the_token(connect, studio, other, trick):
    hosts = {"host": studio.url.removeprefix("http://"), "other": other.url.removeprefix("http://")}
    with contextlib.suppress(BackendError):
        connect().fetch(ImageRef(trick.format(**hosts)))
    assert not any("authorization" in request.headers for request in other.requests)


# Addresses


def test_label_studio_on_loopback_is_reached_without_any_setting(connect):
    assert connect(allowed=()).fetch(ImageRef(UPLOAD)).data == IMAGE


def test_another_port_on_label_studios_host_is_not(connect, other):
    message = assert_fails(AccessError, Reason.FORBIDDEN_ADDRESS, connect(allowed=()), other.url + "/a.png")
    assert "PADDLE_SAM_ALLOWED_HOSTS" in message
    assert not other.requests


def test_a_private_host_is_reached_once_it_is_listed(connect, other):
    for entry in ("localhost", f"localhost:{other.port}", "127.0.0.0/8"):
        assert connect(allowed=(entry, "::1/128")).fetch(ImageRef(other.url + "/a.png")).data == IMAGE


def test_a_redirect_into_the_private_network_is_refused(connect, studio, other):
    studio.routes["/data/upload/1/r.png"] = Reply(b"", 302, {"Location": other.url + "/a.png"})
    assert_fails(AccessError, Reason.FORBIDDEN_ADDRESS, connect(allowed=()), "/data/upload/1/r.png")
    assert not other.requests


def test_the_address_connected_to_is_the_one_checked(connect, other):
    """A name that resolves to a public address first and to loopback the second time reaches neither by surprise."""
    answers = [["127.0.0.1"], ["93.184.216.34"]]
    source = connect(allowed=(), route=Route(lambda host, port: answers.pop(0)))
    assert_fails(AccessError, Reason.FORBIDDEN_ADDRESS, source, f"http://rebind.example.com:{other.port}/a.png")
    assert len(answers) == 1


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
    ],
)
def test_metadata_and_link_local_addresses_are_refused_even_when_listed(address):
    policy = AddressPolicy(Origin("http", "host", 80), ("host", "0.0.0.0/0", "::/0"))
    with pytest.raises(AccessError) as caught:
        policy.check("host", 80, address)
    assert caught.value.reason is Reason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.17.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd12::1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:808:8:800::",
        "fec0::1",
    ],
)
def test_private_addresses_need_to_be_listed(address):
    assert not is_allowed(AddressPolicy(Origin("http", "ls", 8080)), "host", address)
    assert is_allowed(AddressPolicy(Origin("http", "ls", 8080), ("host",)), "host", address)
    assert is_allowed(AddressPolicy(Origin("http", "host", 80)), "HOST.", address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::8.8.8.8", "::ffff:0:8.8.8.8"])
def test_public_addresses_are_allowed(address):
    assert is_allowed(AddressPolicy(Origin("http", "ls", 8080)), "host", address)


def test_an_address_that_does_not_answer_leaves_the_next_one_its_turn(connect, other):
    source = connect(allowed=("127.0.0.0/8",), route=Route(lambda host, port: ["127.0.0.2", "127.0.0.1"]))
    assert source.fetch(ImageRef(f"http://two.example.com:{other.port}/a.png")).data == IMAGE


def test_a_refused_address_does_not_hide_an_allowed_one(connect, other):
    source = connect(allowed=("127.0.0.0/8",), route=Route(lambda host, port: ["169.254.169.254", "127.0.0.1"]))
    assert source.fetch(ImageRef(f"http://two.example.com:{other.port}/a.png")).data == IMAGE


@pytest.mark.parametrize(
    ("url", "label_studio", "home"),
    [
        ("http://ls/a", "http://ls", True),
        ("https://ls/a", "http://ls", True),
        ("http://ls/a", "https://ls", False),
        ("https://ls:8443/a", "http://ls", False),
        ("https://ls/a", "http://ls:8080", False),
        ("http://LS:8080/a", "http://ls:8080", True),
        ("http://ls:8081/a", "http://ls:8080", False),
        ("http://ls.evil.com/a", "http://ls", False),
        ("http://bücher.example/a", "http://bücher.example", True),
        ("http://xn--bcher-kva.example/a", "http://Bücher.example", True),
        ("http://bücher.example/a", "http://bucher.example", False),
        ("http://[::1]:8080/a", "http://[::1]:8080", True),
    ],
)
def test_the_token_follows_one_step_up_to_https_and_nowhere_else(url, label_studio, home):
    assert LabelStudioOrigin(label_studio).is_at(Origin.at(address(url))) is home


def test_a_name_in_other_letters_is_one_name_for_address_token_and_policy(connect, studio):
    """Label Studio's own address stays its own, however it is spelled."""
    port = studio.url.rpartition(":")[2]
    url = f"http://bücher.example:{port}"
    policy = AddressPolicy(Origin.of(url))
    assert is_allowed_at(policy, "xn--bcher-kva.example", int(port), "127.0.0.1")
    assert Origin.of(url) == Origin.of(f"http://xn--bcher-kva.example:{port}")
    with pytest.raises(ValueError, match="expected the name of a host"):
        Origin.of("http://\u2603\ufffd.example")


def test_no_other_protocol_is_followed(connect, studio):
    studio.routes["/data/upload/1/r.png"] = Reply(b"", 302, {"Location": "file:///etc/passwd"})
    assert_fails(ImageError, Reason.UNSUPPORTED_IMAGE_SOURCE, connect(), "/data/upload/1/r.png")


@pytest.mark.parametrize("target", ["ftp://user:secret@h/a.png", "http://user:secret/@h/a.png"])
def test_credentials_in_the_address_of_a_redirect_are_not_shown(connect, studio, target):
    studio.routes["/data/upload/1/r.png"] = Reply(b"", 302, {"Location": target})
    with pytest.raises(ImageError) as caught:
        connect().fetch(ImageRef("/data/upload/1/r.png"))
    assert "secret" not in str(caught.value)


def test_a_ring_of_redirects_ends(connect, other):
    other.routes["/r"] = Reply(b"", 302, {"Location": "/r"})
    assert_fails(ImageError, Reason.IMAGE_NOT_FOUND, connect(), other.url + "/r")
    assert len(other.requests) == 6


# Sizes, time, damage


def test_a_file_announced_too_large_is_refused_unread(connect, other):
    other.routes["/big"] = Reply(b"x" * 100, headers={"Content-Length": "1000000000"})
    assert_fails(ImageError, Reason.IMAGE_TOO_LARGE, connect(limits=FetchLimits(max_bytes=1000)), other.url + "/big")


def test_a_file_of_unknown_size_is_read_no_further_than_the_limit(connect, other):
    other.routes["/big"] = Reply(b"x" * 3_000_000, headers={"Content-Length": None})
    source = connect(limits=FetchLimits(max_bytes=100_000))
    assert_fails(ImageError, Reason.IMAGE_TOO_LARGE, source, other.url + "/big")


def test_the_limit_itself_is_allowed(connect, other):
    assert connect(limits=FetchLimits(max_bytes=len(IMAGE))).fetch(ImageRef(other.url + "/a.png")).data == IMAGE


def test_an_inline_image_has_the_same_limit(connect):
    source = connect(limits=FetchLimits(max_bytes=4))
    assert source.fetch(ImageRef("data:;base64,YWJjZA==")).data == b"abcd"
    assert_fails(ImageError, Reason.IMAGE_TOO_LARGE, source, "data:;base64,YWJjZGU=")


@pytest.mark.parametrize("headers", [{}, {"Content-Length": None}])
def test_a_server_that_drips_bytes_is_cut_off_at_the_deadline(connect, other, headers):
    other.routes["/slow"] = Reply(IMAGE, headers=headers, drip_s=0.02)
    source = connect(limits=FetchLimits(timeout_s=0.3))
    started = time.monotonic()
    message = assert_fails(RetryLater, Reason.IMAGE_FETCH_FAILED, source, other.url + "/slow")
    assert time.monotonic() - started < 2
    assert "PADDLE_SAM_FETCH_TIMEOUT_S" in message


def test_a_server_that_drips_its_headers_is_cut_off_too(connect, other):
    other.routes["/slow"] = Reply(b"", headers={"X-Padding": "x" * 500}, drip_s=0.02)
    started = time.monotonic()
    assert_fails(RetryLater, Reason.IMAGE_FETCH_FAILED, connect(limits=FetchLimits(timeout_s=0.3)), other.url + "/slow")
    assert time.monotonic() - started < 2


def test_a_server_that_never_answers_is_cut_off(connect):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://localhost:{silent.getsockname()[1]}/a.png"
        assert_fails(RetryLater, Reason.IMAGE_FETCH_FAILED, connect(limits=FetchLimits(timeout_s=0.3)), url)


def test_a_token_that_is_not_exchanged_in_time_is_not_waited_for(connect, studio):
    answer = threading.Event()
    studio.refresh = lambda request: Reply(b"", 503 if answer.wait(20) else 504)
    started = time.monotonic()
    source = connect(limits=FetchLimits(timeout_s=0.2))
    assert_fails(RetryLater, Reason.LABEL_STUDIO_UNREACHABLE, source, UPLOAD)
    answer.set()
    assert time.monotonic() - started < 2


def test_a_connection_that_breaks_is_tried_once_more(connect, other):
    replies = [Reply(IMAGE, cut=20), Reply(IMAGE)]
    other.routes["/a.png"] = lambda request: replies.pop(0)
    assert connect().fetch(ImageRef(other.url + "/a.png")).data == IMAGE


def test_a_connection_that_keeps_breaking_may_be_tried_later(connect, other):
    other.routes["/a.png"] = Reply(IMAGE, cut=20)
    assert_fails(RetryLater, Reason.IMAGE_FETCH_FAILED, connect(), other.url + "/a.png")


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (404, ImageError, Reason.IMAGE_NOT_FOUND),
        (410, ImageError, Reason.IMAGE_NOT_FOUND),
        (401, AccessError, Reason.AUTH_FAILED),
        (403, AccessError, Reason.AUTH_FAILED),
        (429, RetryLater, Reason.IMAGE_FETCH_FAILED),
        (500, RetryLater, Reason.IMAGE_FETCH_FAILED),
        (503, RetryLater, Reason.IMAGE_FETCH_FAILED),
        (302, ImageError, Reason.IMAGE_NOT_FOUND),
        (206, ImageError, Reason.IMAGE_NOT_FOUND),
    ],
)
def test_each_status_has_its_reason(connect, other, status, kind, reason):
    other.routes["/a.png"] = Reply(b"", status)
    assert_fails(kind, reason, connect(), other.url + "/a.png")


@pytest.mark.parametrize("url", ["http://localhost:9/a.png", "http://nowhere.invalid/a.png"])
def test_a_host_without_a_server_may_be_tried_later(connect, url):
    assert_fails(RetryLater, Reason.IMAGE_FETCH_FAILED, connect(), url)


@pytest.mark.parametrize("host", ["a" * 70 + ".com", "a" * 3000 + ".com"])
def test_what_can_be_no_name_of_a_host_will_never_pass(connect, host):
    assert_fails(ImageError, Reason.UNSUPPORTED_IMAGE_SOURCE, connect(), f"http://{host}/a.png")


def test_a_web_page_from_elsewhere_is_left_to_the_decoder_to_name(connect, other):
    other.routes["/a.png"] = Reply(b"<html></html>")
    assert connect().fetch(ImageRef(other.url + "/a.png")).data == b"<html></html>"


def test_a_compressed_answer_is_refused_rather_than_misread(connect, other):
    other.routes["/a.png"] = Reply(IMAGE, headers={"Content-Encoding": "gzip"})
    assert_fails(ImageError, Reason.IMAGE_UNREADABLE, connect(), other.url + "/a.png")


# Asking whether it changed


def test_an_unchanged_image_is_not_sent_again(connect, other):
    def answer(request):
        same = request.headers.get("if-none-match") == '"v1"'
        return Reply(b"", 304) if same else Reply(IMAGE, headers={"ETag": '"v1"', "Last-Modified": "yesterday"})

    other.routes["/a.png"] = answer
    source = connect()
    first = source.fetch(ImageRef(other.url + "/a.png"))
    assert first.version == Validators('"v1"', "yesterday")
    assert source.fetch(ImageRef(other.url + "/a.png"), first.version) is None
    assert source.fetch(ImageRef(other.url + "/a.png"), Validators('"v0"')).data == IMAGE


@pytest.mark.parametrize("etag", ['"caf\xe9"', '"\u0434"'.encode().decode("latin-1")])
def test_a_version_that_cannot_be_sent_back_is_none(connect, other, etag):
    other.routes["/a.png"] = Reply(IMAGE, headers={"ETag": etag})
    source = connect()
    first = source.fetch(ImageRef(other.url + "/a.png"))
    assert not first.version.is_known
    for validators in (first.version, Validators(etag), Validators('"v1"', "g\xe9stern")):
        assert source.fetch(ImageRef(other.url + "/a.png"), validators).data == IMAGE


def test_a_304_to_a_first_request_is_no_image(connect, other):
    other.routes["/a.png"] = Reply(b"", 304)
    assert_fails(ImageError, Reason.IMAGE_NOT_FOUND, connect(), other.url + "/a.png")


# Local files


def test_a_shared_directory_is_read_without_label_studio(connect, studio, tmp_path):
    (tmp_path / "local one.png").write_bytes(IMAGE)
    source = connect(root=tmp_path)
    ref = ImageRef("/data/local-files/?d=local%20one.png")
    first = source.fetch(ref)
    assert first.data == IMAGE
    assert source.fetch(ref, first.version) is None
    (tmp_path / "local one.png").write_bytes(IMAGE + b"!")
    assert source.fetch(ref, first.version).data == IMAGE + b"!"
    assert not studio.requests


def test_a_local_file_has_the_same_limit(connect, tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGE)
    source = connect(root=tmp_path, limits=FetchLimits(max_bytes=10))
    assert_fails(ImageError, Reason.IMAGE_TOO_LARGE, source, "/data/local-files/?d=a.png")
