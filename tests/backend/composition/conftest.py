"""Fixtures of this folder."""

from tests.support.redis_server import redis_module_server, redis_server

__all__ = ["redis_module_server", "redis_server"]
