"""A Redis of its own for each test of this folder, and what uses it."""

import pytest

from backend.cluster.connection import RedisConnection
from backend.cluster.lease import Leases
from tests.support.redis_server import redis_module_server, redis_server

__all__ = ["redis_module_server", "redis_server"]


@pytest.fixture
def link(redis_server):
    link = RedisConnection(redis_server.url)
    yield link
    link.close()


@pytest.fixture
def leases(link):
    leases = Leases(link, lease_s=0.5, renew_every_s=0.1)
    leases.start()
    yield leases
    leases.close()
