"""A real Redis on a free port, started by the tests that need one, and gone with them."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

from backend.types import Secret

PROGRAM = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(
    PROGRAM is None, reason="needs redis-server on the PATH (apt-get install redis-server)"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """One Redis process; nothing it holds outlives it.

    Attributes:
        port: the same before and after a restart.
    """

    def __init__(self, folder: Path, *, maxmemory="64mb", policy="volatile-lru", password=None, more=()):
        self.folder, self.port = folder, free_port()
        self._options = ["--maxmemory", maxmemory, "--maxmemory-policy", policy, *more]
        self._password = password
        if password:
            self._options += ["--requirepass", password]
        self._process = None

    @property
    def address(self):
        return (
            f"redis://:{self._password}@127.0.0.1:{self.port}/0"
            if self._password
            else f"redis://127.0.0.1:{self.port}/0"
        )

    @property
    def url(self):
        return Secret(self.address)

    def client(self):
        return redis.Redis.from_url(self.address)

    def start(self):
        assert PROGRAM is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        volatile = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self._process = subprocess.Popen([PROGRAM, *options, *volatile, *self._options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return self
                except redis.exceptions.ConnectionError:
                    assert time.monotonic() < until, "redis-server does not answer"
                    time.sleep(0.02)

    def kill(self):
        """End at once, losing everything, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart_empty(self):
        self.kill()
        self.start()

    def config(self, **options):
        with self.client() as client:
            for name, value in options.items():
                client.config_set(name.replace("_", "-"), value)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.kill()


@pytest.fixture(scope="module")
def redis_module_server(tmp_path_factory):
    """One Redis for a whole module."""
    if PROGRAM is None:
        pytest.skip("needs redis-server on the PATH (apt-get install redis-server)")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(redis_module_server):
    """That Redis, empty and unharmed."""
    with redis_module_server.client() as client:
        client.flushall()
    return redis_module_server
