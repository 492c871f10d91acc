"""The connection to Redis: passwords, TLS, outages and refusals."""

import logging
import shutil
import subprocess

import pytest

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.cluster.store import RedisStore
from backend.errors import Reason, RetryLater
from backend.types import Secret
from tests.support.fakes import FakeClock, embedding, key, same
from tests.support.redis_server import RedisServer, free_port, needs_redis

KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")


@needs_redis
def test_a_password_is_used_and_never_shown(tmp_path, caplog):
    with RedisServer(tmp_path, password="open-sesame") as server, caplog.at_level(logging.DEBUG):
        good, bad = (
            RedisConnection(server.url),
            RedisConnection(Secret(server.address.replace("open-sesame", "wrong-word"))),
        )
        RedisStore(good, KEYS, 60.0).put(key(), embedding())
        assert same(RedisStore(good, KEYS, 60.0).get(key()), embedding())
        with pytest.raises(RetryLater) as caught:
            bad.call(lambda client: client.ping())
        assert "invalid username-password" in str(caught.value)
        assert "wrong-word" not in str(caught.value) + caplog.text + bad.last_error
        good.close()
        bad.close()


@needs_redis
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the PATH to make a certificate")
def test_an_encrypted_connection_is_made_where_the_certificate_is_known_and_nowhere_else(tmp_path):
    private, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(private), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *names],
        check=True,
        capture_output=True,
    )
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(private)]
    with RedisServer(tmp_path, more=[*tls, "--tls-auth-clients", "no"]):
        connection = RedisConnection(Secret(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"))
        unknown = RedisConnection(Secret(f"rediss://localhost:{port}/0"))
        RedisStore(connection, KEYS, 60.0).put(key(), embedding())
        assert same(RedisStore(connection, KEYS, 60.0).get(key()), embedding())
        with pytest.raises(RetryLater, match="certificate"):
            unknown.call(lambda client: client.ping())
        connection.close()
        unknown.close()


def test_a_redis_that_is_not_there_is_asked_once_and_then_left_alone_for_a_moment():
    clock, attempts = FakeClock(), []
    link = RedisConnection(Secret(f"redis://127.0.0.1:{free_port()}/0"), clock=clock)

    def work(client):
        attempts.append(1)
        return client.ping()

    for _ in range(5):
        with pytest.raises(RetryLater) as caught:
            link.call(work)
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert len(attempts) == 1
    assert link.is_down
    clock.advance(1)
    with pytest.raises(RetryLater):
        link.call(work)
    assert len(attempts) == 2
    assert link.down_s == 1
    assert RedisStore(link, KEYS, 60.0).get(key()) is None
    RedisStore(link, KEYS, 60.0).put(key(), embedding())
    assert "cannot be reached" in RedisStore(link, KEYS, 60.0).stats()[0].trouble


@needs_redis
def test_a_redis_that_is_back_is_used_again(tmp_path):
    clock = FakeClock()
    with RedisServer(tmp_path) as server:
        link = RedisConnection(server.url, clock=clock)
        assert link.call(lambda client: client.ping())
        server.kill()
        with pytest.raises(RetryLater):
            link.call(lambda client: client.ping())
        server.start()
        clock.advance(1)
        assert link.call(lambda client: client.ping())
        assert (link.is_down, link.last_error) == (False, "")
        link.close()


@needs_redis
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_redis_that_refuses_to_write_is_still_read(tmp_path, trouble):
    with RedisServer(tmp_path) as server:
        link = RedisConnection(server.url)
        store = RedisStore(link, KEYS, 60.0)
        store.put(key(1), embedding())
        if trouble == "full":
            server.config(maxmemory_policy="noeviction", maxmemory="1")
        else:
            with server.client() as client:
                client.replicaof("127.0.0.1", free_port())
        store.put(key(2), embedding())
        assert not store.holds(key(2))
        assert "Redis refuses" in store.last_error
        assert same(store.get(key(1)), embedding())
        assert not link.is_down
        link.close()
