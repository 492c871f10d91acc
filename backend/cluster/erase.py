"""Erases what Redis keeps of one project, whatever its model."""

from collections.abc import Iterator, Set
from urllib.parse import quote

from redis import Redis

from backend.cluster.connection import RedisConnection
from backend.cluster.content_index import digest_of
from backend.cluster.keys import DecoderKeys, Keys
from backend.cluster.queues import drop_training

SCAN_KEYS = 1000


def erase(link: RedisConnection, keys: Keys, project_id: int) -> int:
    """Delete what is kept of a project and of its files; return how many keys there were.

    What belongs to a file that is listed for no project is deleted too. Other projects with the same files have them
    encoded again. Images that wait in a queue are left.

    Raises:
        RetryLater: Redis does not answer.
        ValueError: a worker trains the project's decoder.
    """
    return link.call(lambda client: _erase(client, keys, project_id))


def _erase(client: "Redis", keys: Keys, project_id: int) -> int:
    if client.exists(DecoderKeys(keys).training(project_id)):
        raise ValueError(f"project {project_id}: a worker trains its decoder; wait for the end, or stop the worker")
    drop_training(client, keys.prefix, project_id)
    files = keys.files(project_id)
    lists = {_text(name): _digests(client, name) for name in _scan(client, f"{keys.prefix}:files:*")}
    of_others = frozenset[str]().union(*lists.values()) - lists.get(files, frozenset())
    chosen = [name for name in _scan(client, f"{keys.prefix}:*") if _is_of(_text(name), keys, project_id, of_others)]
    chosen += _cloud_addresses(client, keys.prefix, of_others)
    # The list of files goes last, so that a run that was cut off can be repeated.
    return sum(int(client.delete(name)) for name in (*chosen, files.encode()))


def _is_of(name: str, keys: Keys, project_id: int, of_others: Set[str]) -> bool:
    """Whether a key, see `Keys`, holds something of a project, or of a file that no other project has."""
    first, second, third, *_ = (*name.removeprefix(f"{keys.prefix}:").split(":"), "", "")
    if first in ("embedding", "boxes"):
        return second not in of_others
    if first == "decoder":
        return second == str(project_id)
    owner = quote(f"project {project_id}", safe="")
    return (second, third) in {("answers", str(project_id)), ("place", owner), ("failure", owner)}


def _cloud_addresses(client: "Redis", prefix: str, of_others: Set[str]) -> list[bytes]:
    """Return the keys of addresses that belong to a task, whose content is a file that no other project has."""
    names = [name for name in _scan(client, f"{prefix}:*:place:*") if b":place:project%20" not in name]
    chosen = []
    for start in range(0, len(names), SCAN_KEYS):
        part = names[start : start + SCAN_KEYS]
        values = zip(part, client.mget(part), strict=True)
        chosen += [name for name, value in values if digest_of(value) not in of_others]
    return chosen


def _digests(client: "Redis", files: bytes) -> frozenset[str]:
    is_list = _text(client.type(files)) == "hash"
    return frozenset(_text(digest) for digest in client.hkeys(files)) if is_list else frozenset()


def _scan(client: "Redis", pattern: str) -> Iterator[bytes]:
    yield from client.scan_iter(pattern, count=SCAN_KEYS)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
