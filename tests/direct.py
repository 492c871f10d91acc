"""The embeddings of a run over a project, as each new process would put them together."""

from pathlib import Path

from backend import images
from backend.content_journal import ContentJournal
from backend.direct_embeddings import DirectEmbeddings, Source
from backend.encoding import Encoder
from backend.metrics import Metrics
from backend.store import FileStore


def direct_embeddings(
    folder: Path, source: Source, encoder: Encoder, *, room: int = 10_000_000, **options
) -> DirectEmbeddings:
    """Return embeddings that find what those made before them left in ``folder``, of ``room`` bytes."""
    store = FileStore(folder / "embeddings", room)
    journal = ContentJournal(folder / "contents.jsonl", "http://localhost:8080")
    return DirectEmbeddings(
        source, encoder, store, journal, Metrics(), limits=images.Limits(), dtype="float16", **options
    )
