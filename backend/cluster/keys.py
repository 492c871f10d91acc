"""All names that this service uses in Redis.

Names begin with a prefix that the operator chooses, so that several installations can share one Redis. Names of values
that depend on the weights also contain the model: during an upgrade, web processes and workers of the old and of the
new model run side by side without taking each other's jobs. RQ's own keys begin with ``rq:``; the names of its queues
contain our prefix.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from backend.embeddings.content_index import SourceKey
from backend.embeddings.stores import EmbeddingKey
from backend.embeddings.word_boxes import BoxKey
from backend.types import Priority

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Keys:
    """The names of one installation with one model.

    >>> Keys("paddle-sam", "SAM@1234").queue(Priority.BULK)
    'paddle-sam:SAM@1234:bulk'
    """

    prefix: str
    model_version: str  # name and digest of the weights

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            expected = "up to 64 letters, digits, dots, dashes and underscores"
            raise ValueError(f"prefix: expected {expected}, got {self.prefix!r:.80}")

    @property
    def model(self) -> str:
        """The model's part of a name; percent-encoded, so that it contains no colon."""
        return quote(self.model_version, safe="@+")

    def embedding(self, key: EmbeddingKey | BoxKey | str) -> str:
        """Key of a stored embedding, or of a detector's boxes; ``*`` for the pattern of all embeddings."""
        return f"{self.prefix}:{'boxes' if isinstance(key, BoxKey) else 'embedding'}:{key}"

    def files(self, project_id: int) -> str:
        """Key of the digests of the image files that a project has used."""
        return f"{self.prefix}:files:{project_id}"

    def content(self, address_key: SourceKey) -> str:
        """Key of the content last seen at an address; its age follows from its remaining time to live."""
        return _of_address(self, "place", address_key)

    def failure(self, address_key: SourceKey) -> str:
        """Key of the recent failure of an address."""
        return _of_address(self, "failure", address_key)

    def lease(self, key: SourceKey | EmbeddingKey) -> str:
        """Key of the lease of the worker that processes an address, or that encodes a content."""
        return (
            f"{self.prefix}:lease:content:{key}" if isinstance(key, EmbeddingKey) else _of_address(self, "lease", key)
        )

    def run(self, project_id: int) -> str:
        """Key of the lease of the run that stores predictions of a whole project."""
        return f"{self.prefix}:{self.model}:lease:run:{project_id}"

    def enqueued(self, address_key: SourceKey, priority: Priority) -> str:
        """Key of the marker of an enqueued address; its value is the job's id."""
        return _of_address(self, f"asked:{priority.name.lower()}", address_key)

    def answers(self, project_id: int, task_id: int, image: str) -> str:
        """Key of the last answers to clicks on an image of a task."""
        return f"{self.prefix}:{self.model}:answers:{project_id}:{task_id}:{image}"

    def queue(self, priority: Priority) -> str:
        """Name of the RQ queue of a priority."""
        return f"{self.prefix}:{self.model}:{priority.name.lower()}"

    @property
    def events(self) -> str:
        """Channel on which workers publish completion events."""
        return f"{self.prefix}:{self.model}:notices"

    @property
    def workers(self) -> str:
        """Key of the set of worker processes of all models; a score is the last heartbeat on Redis' clock, in s."""
        return f"{self.prefix}:workers"

    def worker(self, host: str, pid: int) -> str:
        """Name of a worker in that set."""
        return f"{host}:{pid} {self.model}"

    @property
    def counts(self) -> str:
        """Key of the counts of all workers' work since Redis was last empty."""
        return f"{self.prefix}:{self.model}:counts"


@dataclass(frozen=True)
class DecoderKeys:
    """The names of the decoders of one installation; all models share them, except for the queue."""

    keys: Keys

    @property
    def documents(self) -> str:
        """Key of the records of all projects' decoders, and the states of their trainings, by project and name."""
        return f"{self.keys.prefix}:decoders"

    def decoder(self, project_id: int) -> str:
        """Key of the file of a project's active decoder."""
        return f"{self.keys.prefix}:decoder:{project_id}"

    def training(self, project_id: int) -> str:
        """Key of the lease of the worker that trains a project's decoder."""
        return f"{self.keys.prefix}:lease:training:{project_id}"

    @property
    def trainings(self) -> str:
        """Name of the RQ queue of trainings."""
        return f"{self.keys.prefix}:{self.keys.model}:training"


def _of_address(keys: Keys, kind: str, address_key: SourceKey) -> str:
    owner, address = address_key
    return f"{keys.prefix}:{keys.model}:{kind}:{quote(owner, safe='')}:{address}"
