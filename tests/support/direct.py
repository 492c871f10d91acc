"""The embeddings of a run over a project, as each new process would put them together."""

from pathlib import Path

from backend.embeddings.content_journal import ContentJournal
from backend.embeddings.direct import DirectEmbeddings, Source
from backend.embeddings.encode import Encoder
from backend.embeddings.stores import FileStore
from backend.metrics import Metrics
from tests.support.fakes import fake_spec


def direct_embeddings(
    folder: Path, source: Source, encoder: Encoder, *, room: int = 10_000_000, **options
) -> DirectEmbeddings:
    """Return embeddings that find what those made before them left in ``folder``, of ``room`` bytes."""
    store = FileStore(folder / "embeddings", room)
    journal = ContentJournal(folder / "contents.jsonl", "http://localhost:8080")
    return DirectEmbeddings(
        source, encoder, store, journal, Metrics(), spec=fake_spec(encoder.model_version), **options
    )
