"""Every name this service uses in Redis, in one place.

Names begin with a prefix of the operator's choice, so that several installations may share one Redis. What depends on
the weights names them too: during an upgrade, web processes and workers of the old model and of the new one run side by
side without taking each other's work. RQ's own keys begin with ``rq:``; its queues carry our prefix in their names.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from backend.embeddings.content_index import SourceKey
from backend.embeddings.stores import EmbeddingKey
from backend.types import Priority

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Keys:
    """The names of one installation with one model.

    Attributes:
        prefix: what every name begins with.
        model_version: name and digest of the weights.
    """

    prefix: str
    model_version: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            expected = "up to 64 letters, digits, dots, dashes and underscores"
            raise ValueError(f"prefix: expected {expected}, got {self.prefix!r:.80}")

    @property
    def model(self) -> str:
        """The model's part of a name; holds no colon, whatever the model is called."""
        return quote(self.model_version, safe="@+")

    def embedding(self, key: EmbeddingKey) -> str:
        """An embedding, as `backend.embeddings.serialization` writes it."""
        return f"{self.prefix}:embedding:{key}"

    @property
    def embeddings(self) -> str:
        """The pattern of all embeddings of this installation, of every model."""
        return f"{self.prefix}:embedding:*"

    def place(self, place: SourceKey) -> str:
        """What lies behind an address; its age is told by what is left of its time."""
        return self._of("place", place)

    def failure(self, place: SourceKey) -> str:
        """Why the image behind an address could not be had a moment ago."""
        return self._of("failure", place)

    def lease(self, place: SourceKey) -> str:
        """Who is at work on an address."""
        return self._of("lease", place)

    def content_lease(self, key: EmbeddingKey) -> str:
        """Who is encoding a content."""
        return f"{self.prefix}:lease:content:{key}"

    def attempts(self, lease: str) -> str:
        """How many have taken a lease and not come back."""
        return f"{self.prefix}:attempts:{lease.removeprefix(self.prefix)}"

    def run(self, project_id: int) -> str:
        """Who is storing predictions of a whole project."""
        return f"{self.prefix}:{self.model}:lease:run:{project_id}"

    def asked(self, place: SourceKey, priority: Priority) -> str:
        """The id of the job that was queued for an address."""
        return self._of(f"asked:{priority.name.lower()}", place)

    def queue(self, priority: Priority) -> str:
        """The name of an RQ queue."""
        return f"{self.prefix}:{self.model}:{priority.name.lower()}"

    @property
    def notices(self) -> str:
        """The channel on which workers say what they have done."""
        return f"{self.prefix}:{self.model}:notices"

    @property
    def workers(self) -> str:
        """The worker processes of all models, each with when it was last heard of on Redis' own clock."""
        return f"{self.prefix}:workers"

    def worker(self, host: str, pid: int) -> str:
        """What a worker is called among them."""
        return f"{host}:{pid} {self.model}"

    @property
    def counts(self) -> str:
        """What all workers together have done since Redis was last empty."""
        return f"{self.prefix}:{self.model}:counts"

    def _of(self, what: str, place: SourceKey) -> str:
        owner, address = place
        return f"{self.prefix}:{self.model}:{what}:{quote(owner, safe='')}:{address}"
