"""Checks whether a Redis can be used: runs every command that web processes and workers send, on scratch keys.

A Redis Cluster, a user with too few rights and an old or hosted server all answer ``PING`` and ``INFO`` like any other.
Only the commands themselves show what is missing, on short-lived keys that are named like the real ones.
"""

import logging
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from redis import Redis
from redis.client import PubSub
from redis.exceptions import (
    AuthenticationError,
    ClusterCrossSlotError,
    ClusterError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

SCRATCH_S = 10
LISTEN_S = 2.0

_NO_COMMAND = re.compile(r"run the '([^']+)' command|unknown command [`'\"]?([A-Za-z_|]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Trouble:
    """One problem of a Redis.

    Attributes:
        text: what is wrong.
        fix: what to do about it.
        is_lasting: whether the problem stays; a password, a replica or a full Redis may change at any time.
    """

    text: str
    fix: str
    is_lasting: bool = True


class RedisUnusableError(ValueError):
    """This Redis cannot be used, now or later: change it, its user's rights, or REDIS_URL; one line per problem."""


def require_usable(link: RedisConnection, keys: Keys) -> None:
    """Return if this Redis can be used, or may be usable later, e.g. because it starts after us; log its problems.

    Raises:
        RedisUnusableError: Redis answers, and has a lasting problem.
    """
    try:
        troubles = find_troubles(link, keys)
    except RetryLater:
        return
    for trouble in troubles:
        if not trouble.is_lasting:
            logger.warning("event=redis_not_usable detail=%r remedy=%r", trouble.text, trouble.fix)
    lasting = [f"REDIS_URL: {trouble.text}; {trouble.fix}" for trouble in troubles if trouble.is_lasting]
    if lasting:
        raise RedisUnusableError("\n".join(lasting))


def find_troubles(link: RedisConnection, keys: Keys) -> tuple[Trouble, ...]:
    """Try every command that is needed, and return the problems; an empty tuple if all commands work.

    Raises:
        RetryLater: Redis cannot be reached.
    """
    try:
        errors = link.call(lambda client: _errors(client, keys))
    except RetryLater as error:
        cause = error.__cause__
        if isinstance(cause, AuthenticationError | ResponseError):  # refused while connecting
            return _troubles([cause], keys)
        raise
    return _troubles(errors, keys)


def _errors(client: "Redis", keys: Keys) -> list[RedisError]:
    """Return the error of each command that Redis refuses; the scratch keys are deleted, or expire in seconds."""
    scratch = f"scratch-{secrets.token_hex(8)}"
    key, other_key = f"{keys.prefix}:{scratch}:1", f"{keys.prefix}:{scratch}:2"
    names = [key, other_key, *(f"rq:{kind}:{keys.prefix}-{scratch}" for kind in ("queue", "job", "workers", "wip"))]
    errors: list[RedisError] = []
    for command in _commands(key, other_key, *names[2:]):
        try:
            client.execute_command(*command)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            errors.append(error)
    errors += _transaction(client, names) + _channel(client, keys.events)
    for name in names:
        try:
            client.delete(name)
        except ResponseError:
            continue  # reported above
    return errors


def _commands(key: str, other_key: str, queue: str, job: str, members: str, scores: str) -> Iterator[tuple[str, ...]]:
    """Yield a harmless use of each command that this program and RQ send; the keys expire within seconds."""
    yield "SET", key, "1", "NX", "PX", str(1000 * SCRATCH_S)
    for command in ("GET", "PTTL", "EXISTS", "TYPE", "INCR"):
        yield command, key
    yield "EVAL", "return redis.call('GET', KEYS[1])", "2", key, other_key
    yield "PEXPIRE", key, str(1000 * SCRATCH_S)
    yield "HSET", job, "a", "1"
    yield "EXPIRE", job, str(SCRATCH_S)
    yield "PERSIST", other_key
    yield "HGET", job, "a"
    yield "HMGET", job, "a"
    yield "HGETALL", job
    yield "HINCRBY", job, "a", "1"
    yield "HINCRBYFLOAT", job, "a", "1"
    yield "RPUSH", queue, "a", "b"
    yield "EXPIRE", queue, str(SCRATCH_S)
    yield "LLEN", queue
    yield "LINDEX", queue, "0"
    yield "LRANGE", queue, "0", "-1"
    yield "LPOS", queue, "b"
    yield "BLPOP", queue, "1"
    yield "SADD", members, "a"
    yield "EXPIRE", members, str(SCRATCH_S)
    yield "SMEMBERS", members
    yield "SREM", members, "b"
    yield "ZADD", scores, "1", "a"
    yield "EXPIRE", scores, str(SCRATCH_S)
    yield "ZRANGEBYSCORE", scores, "0", "1"
    yield "ZREMRANGEBYSCORE", scores, "2", "3"
    yield "ZREM", scores, "b"
    yield ("TIME",)
    yield "DEL", other_key


def _transaction(client: "Redis", names: list[str]) -> list[RedisError]:
    """Return the error of a transaction over several keys, as RQ sends them."""
    try:
        with client.pipeline(transaction=True) as pipeline:
            pipeline.watch(*names)  # type: ignore[no-untyped-call]
            pipeline.multi()
            for name in names:
                pipeline.exists(name)
            pipeline.execute()
    except ResponseError as error:
        return [error]
    return []


def _channel(client: "Redis", name: str) -> list[RedisError]:
    """Return the errors of subscribing and publishing to the channel of completion events."""
    errors: list[RedisError] = []
    pubsub: PubSub = client.pubsub()  # type: ignore[no-untyped-call]
    try:
        pubsub.subscribe(name)
        pubsub.get_message(timeout=LISTEN_S)
        client.publish(name, b"")
    except ResponseError as error:
        errors.append(error)
    finally:
        pubsub.close()
    return errors


def _troubles(errors: list[RedisError], keys: Keys) -> tuple[Trouble, ...]:
    if any(map(_is_cluster_error, errors)):
        text = "this Redis is in cluster mode, where one command cannot touch several keys"
        return (Trouble(text, "use one Redis that is no cluster (cluster-enabled no), with a replica if need be"),)
    commands = dict.fromkeys(filter(None, map(_missing_command, errors)))
    troubles = []
    if commands:
        text = f"this user of Redis may not use {', '.join(commands)}, or Redis has no such command"
        fix = "allow what is missing (ACL SETUSER <user> +<command>); of Redis itself 6.2 or later is needed"
        troubles.append(Trouble(text, fix))
    troubles += [_trouble(error, keys) for error in errors if not _missing_command(error)]
    return tuple(dict.fromkeys(troubles))


def _trouble(error: RedisError, keys: Keys) -> Trouble:
    text = str(error)[:200]
    if isinstance(error, AuthenticationError):
        fix = "write user and password into it, redis://user:password@host:6379/0, percent-encoded"
        return Trouble(f"Redis refuses the password: {text}", fix, is_lasting=False)
    if isinstance(error, NoPermissionError):
        fix = f"allow ~{keys.prefix}:* and ~rq:*, and the channels &{keys.prefix}:* (ACL SETUSER)"
        return Trouble("this user of Redis may not use our keys or channels", fix)
    if isinstance(error, ReadOnlyError):
        return Trouble("this Redis is a replica that only reads", "let it name the primary", is_lasting=False)
    is_index = "DB index" in text
    fix = "let it end in the number of a database that there is" if is_index else "see Redis' own log"
    return Trouble(f"Redis refuses: {text}", fix, is_lasting=is_index)


def _is_cluster_error(error: RedisError) -> bool:
    return isinstance(error, ClusterError | ClusterCrossSlotError | MovedError) or "cluster mode" in str(error)


def _missing_command(error: RedisError) -> str:
    """Return the missing command that an error names, empty if the error has another cause."""
    match = _NO_COMMAND.search(str(error))
    return (match[1] or match[2]).upper() if match else ""
