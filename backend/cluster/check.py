"""Checks whether a Redis can be used: runs every command that web processes and workers send, on scratch keys.

A Redis Cluster, a user with too few rights and an old or hosted server all answer ``PING`` and ``INFO`` like any other.
Only the commands themselves show what is missing, on short-lived keys that are named like the real ones.
"""

import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from redis import Redis, exceptions

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.errors import RetryLater

logger = logging.getLogger(__name__)

LISTEN_S = 2.0

_COMMANDS = """
SET key 1 NX PX 10000; GET key; GETRANGE key 0 1; STRLEN key; PTTL key; EXISTS key; TYPE key; INCR key
PEXPIRE key 10000; DEL other; EVAL return{redis.call('GET',KEYS[1])} 2 key other; TIME
HSET job a 1; EXPIRE job 10; HGET job a; HMGET job a; HGETALL job; HINCRBY job a 1
RPUSH queue a b; EXPIRE queue 10; LLEN queue; LINDEX queue 0; LRANGE queue 0 -1; LTRIM queue 0 -1; LPOS queue b
BLPOP queue 1
SADD queues a; EXPIRE queues 10
ZADD scores 1 a; EXPIRE scores 10; ZRANGEBYSCORE scores 0 1; ZREMRANGEBYSCORE scores 2 3; ZREM scores b
"""
"""A harmless use of each command that this program and RQ send; the words `_errors` names are scratch keys."""

_NO_COMMAND = re.compile(r"run the '([^']+)' command|unknown command [`'\"]?([A-Za-z_|]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Trouble:
    """One problem of a Redis."""

    text: str
    fix: str
    is_lasting: bool = True  # whether the problem stays; a password, a replica or a full Redis may change at any time


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
        if isinstance(cause, exceptions.AuthenticationError | exceptions.ResponseError):  # refused while connecting
            return _troubles([cause], keys)
        raise
    return _troubles(errors, keys)


def _errors(client: "Redis", keys: Keys) -> list[exceptions.RedisError]:
    """Return the error of each command that Redis refuses; the scratch keys are deleted, or expire in seconds."""
    scratch = f"scratch-{secrets.token_hex(8)}"
    names = {name: f"{keys.prefix}:{scratch}:{name}" for name in ("key", "other", "scores")}
    names |= {name: f"rq:{name}:{keys.prefix}-{scratch}" for name in ("queue", "job", "queues")}
    commands = [command.split() for command in _COMMANDS.replace("\n", ";").split(";") if command.strip()]
    attempts: list[Callable[[], object]] = [
        *(partial(client.execute_command, *(names.get(word, word) for word in command)) for command in commands),
        partial(_transaction, client, list(names.values())),
        partial(_listen, client, keys.events),
        partial(client.publish, keys.events, b""),
        partial(client.delete, *names.values()),
    ]
    errors: list[exceptions.RedisError] = []
    for attempt in attempts:
        try:
            attempt()
        except exceptions.ResponseError as error:
            errors.append(error)
    return errors


def _listen(client: "Redis", channel: str) -> None:
    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=LISTEN_S)


def _transaction(client: "Redis", names: list[str]) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch(*names)  # type: ignore[no-untyped-call]
        pipeline.multi()
        pipeline.exists(*names)
        pipeline.execute()


def _troubles(errors: list[exceptions.RedisError], keys: Keys) -> tuple[Trouble, ...]:
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


def _trouble(error: exceptions.RedisError, keys: Keys) -> Trouble:
    text = str(error)[:200]
    if isinstance(error, exceptions.AuthenticationError):
        fix = "write user and password into it, redis://user:password@host:6379/0, percent-encoded"
        return Trouble(f"Redis refuses the password: {text}", fix, is_lasting=False)
    if isinstance(error, exceptions.NoPermissionError):
        fix = f"allow ~{keys.prefix}:* and ~rq:*, and the channels &{keys.prefix}:* (ACL SETUSER)"
        return Trouble("this user of Redis may not use our keys or channels", fix)
    if isinstance(error, exceptions.ReadOnlyError):
        return Trouble("this Redis is a replica that only reads", "let it name the primary", is_lasting=False)
    is_index = "DB index" in text
    fix = "let it end in the number of a database that there is" if is_index else "see Redis' own log"
    return Trouble(f"Redis refuses: {text}", fix, is_lasting=is_index)


def _is_cluster_error(error: exceptions.RedisError) -> bool:
    kinds = (exceptions.ClusterError, exceptions.ClusterCrossSlotError, exceptions.MovedError)
    return isinstance(error, kinds) or "cluster mode" in str(error)


def _missing_command(error: exceptions.RedisError) -> str:
    """Return the missing command that an error names, empty if the error has another cause."""
    match = _NO_COMMAND.search(str(error))
    return (match[1] or match[2]).upper() if match else ""
