"""Decides whether a process can answer clicks, for ``/ready`` and for the headline of the status page."""

from typing import TypeAlias

from backend.cluster.remote import QueuedEmbeddings
from backend.decoders.lazy_decoder import LazyDecoder
from backend.embeddings.local import LocalEmbeddings
from backend.web.status.view import ClusterView

Work: TypeAlias = LocalEmbeddings | QueuedEmbeddings


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
