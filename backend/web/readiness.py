"""Decides whether a process can answer clicks, for ``/ready`` and for the headline of the status page."""

from typing import Protocol

from backend.segmentation.lazy_decoder import LazyDecoder
from backend.web.status.view import ClusterView


class Work(Protocol):
    """The state of encoding; see `backend.embeddings.local.LocalEmbeddings` and `backend.cluster.remote`."""

    @property
    def is_ready(self) -> bool:
        """Whether a new image can be encoded."""

    @property
    def failure(self) -> str:
        """Why the encoder could not be loaded; empty if it could or was not tried."""

    @property
    def encoding(self) -> int:
        """How many images this process encodes or waits for."""

    @property
    def ahead(self) -> int:
        """How many images wait to be encoded ahead."""


def obstacle(work: Work, decoder: LazyDecoder, cluster: ClusterView | None) -> str:
    """Return why clicks cannot be answered now, in a few words; empty if they can."""
    if work.is_ready and decoder.device:
        return ""
    if decoder.failure or work.failure:
        return "the model cannot be loaded"
    if cluster is not None and cluster.headline:
        return cluster.headline
    return "loading the model" if cluster is None or not decoder.device else "looking for workers"


def is_broken(work: Work, decoder: LazyDecoder, cluster: ClusterView | None) -> bool:
    """Whether waiting will not help: the model cannot be loaded, or Redis or the workers are missing."""
    return bool(decoder.failure or work.failure or (cluster is not None and cluster.headline))
