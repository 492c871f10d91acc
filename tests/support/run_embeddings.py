"""The embeddings of a run over a project, as each new process would put them together."""

import time
from pathlib import Path

from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.encode import Encoder
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.pipeline import Source
from backend.embeddings.stores import FileStore
from backend.metrics import Metrics
from tests.support.fakes import fake_spec

SPEED = 1_000_000
"""A microsecond counts as a second: failures are forgotten between two attempts, and runs are hours apart."""


def run_embeddings(folder: Path, source: Source, encoder: Encoder, *, room: int = 10_000_000) -> LocalEmbeddings:
    """Return embeddings that find what those made before them left in ``folder``, of ``room`` bytes."""
    contents = ContentIndex(lambda: SPEED * time.time(), database=ContentDatabase(folder / "contents.db", "here"))
    store = FileStore(folder / "embeddings", room)
    return LocalEmbeddings(source, lambda: encoder, fake_spec(encoder.model_version), store, Metrics(), contents)
