"""Erases what Redis keeps of one project, whatever its model."""

from collections.abc import Set
from urllib.parse import quote

from redis import Redis

from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys

SCAN_KEYS = 1000


def erase(link: RedisConnection, keys: Keys, project_id: int) -> int:
    """Delete the project's entries and the embeddings and boxes of its files; return how many keys there were.

    Other projects with the same files have them encoded again. Jobs that wait are left.

    Raises:
        RetryLater: Redis does not answer.
    """
    return link.call(lambda client: _erase(client, keys, project_id))


def _erase(client: "Redis", keys: Keys, project_id: int) -> int:
    files = keys.files(project_id)
    digests = {_text(digest) for digest in client.hgetall(files)} if _text(client.type(files)) == "hash" else set()
    every = client.scan_iter(f"{keys.prefix}:*", count=SCAN_KEYS)
    chosen = [name for name in every if _is_of(_text(name), keys.prefix, project_id, digests)]
    # The list of files goes last, so that a run that was cut off can be repeated.
    return sum(int(client.delete(name)) for name in (*chosen, files))


def _is_of(name: str, prefix: str, project_id: int, digests: Set[str]) -> bool:
    """Whether a key, see `Keys`, holds something of a project or of its files."""
    first, second, third, *_ = (*name.removeprefix(f"{prefix}:").split(":"), "", "")
    if first in ("embedding", "boxes"):
        return second in digests
    if first == "decoder":
        return second == str(project_id)
    owner = quote(f"project {project_id}", safe="")
    return (second, third) in {("answers", str(project_id)), ("place", owner), ("failure", owner)}


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
