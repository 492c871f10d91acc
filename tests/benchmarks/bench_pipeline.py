"""One process without Redis: images per second while their server is slow and the encoder is not the fastest.

As times: 64 images of a server that takes 200 ms for each, encoded in 100 ms each, within 64 / 9 seconds.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from backend.concurrency.retry import OutageRetry
from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.pipeline import RESERVED, THREADS
from backend.embeddings.stores import FileStore
from backend.images.fetch import Fetched
from backend.label_studio.task_iterator import ProjectTasks
from backend.labeling import config
from backend.metrics import Metrics
from backend.projects import precompute
from backend.projects.engine import Engine
from backend.projects.run import BatchRun
from backend.types import ImageRef, Priority
from model.types import Embedding, ModelInput
from tests.benchmarks.rows import Row, limit, milliseconds, say
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.fakes import embedding, fake_spec, png
from tests.support.wire_bodies import CONFIG

IMAGES, PER_S = 64, 9
FETCH_S, ENCODE_S = 0.2, 0.1
SIZE_WH = (400, 300)


class SlowServer:
    """Has any image, after a while; each is another content."""

    def __init__(self) -> None:
        self.files = {f"{number}.png": png((number, 90, 90), SIZE_WH) for number in range(IMAGES + 8)}

    def fetch(self, ref: ImageRef, cached: object = None) -> Fetched:
        """Return the file of an address."""
        time.sleep(FETCH_S)
        return Fetched(self.files[ref.uri])


class StandIn:
    """Takes as long as an encoder, and leaves the processor to the others, as a GPU does."""

    model_version = fake_spec().model_version

    def encode(self, image: ModelInput) -> Embedding:
        """Return always the same."""
        time.sleep(ENCODE_S)
        return embedding()


@contextmanager
def embeddings() -> Iterator[LocalEmbeddings]:
    """Embeddings of one process with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        folder, encoder = Path(name), StandIn()
        local = LocalEmbeddings(
            SlowServer(),
            lambda: encoder,
            fake_spec(),
            FileStore(folder / "embeddings", 1_000_000_000),
            Metrics(),
            ContentIndex(database=ContentDatabase(folder / "contents.db", "benchmark")),
        )
        with closing(local):
            local.start()
            yield local


def refs() -> list[ImageRef]:
    """The images of one run."""
    return [ImageRef(f"{number}.png", number, PROJECT) for number in range(IMAGES)]


def in_bulk(embeddings: LocalEmbeddings) -> None:
    """Have all images encoded by callers that wait for them, as tasks of the service do."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda ref: embeddings.get(ref, 100.0, Priority.BULK), refs()))


def ahead(embeddings: LocalEmbeddings) -> None:
    """Have all images encoded ahead of their clicks."""
    embeddings.prefetch(refs())
    while any(embeddings.peek(ref) is None for ref in refs()[-1:]) or embeddings.ahead or embeddings.encoding:
        time.sleep(0.01)


def in_a_run(embeddings: LocalEmbeddings) -> None:
    """Precompute a project."""
    project, stop = FakeProject(CONFIG), Event()
    for ref in refs():
        project.add({"image": ref.uri})
    retry = OutageRetry(stop)
    tasks = ProjectTasks(project, retry, project.project_value)
    batch = BatchRun(project, project.project_value, config.parse(CONFIG), tasks, IMAGES, stop, retry)
    engine = Engine(embeddings, embeddings.ensure, THREADS - RESERVED, None, embeddings.close)
    report = precompute.run(batch, engine, _Silent())
    if report.counts[precompute.ENCODED] != IMAGES:
        raise RuntimeError(f"expected {IMAGES} images, got {report.lines()}")


class _Silent:
    def advance(self, count: int = 1) -> None:
        """Show nothing."""


def click_meanwhile(embeddings: LocalEmbeddings) -> float:
    """Return the longest of some first clicks on other images while all images are encoded in bulk, in ms."""
    with ThreadPoolExecutor(1) as pool:
        bulk = pool.submit(in_bulk, embeddings)
        time.sleep(1.0)
        clicks = [ImageRef(f"{IMAGES + number}.png", IMAGES + number, PROJECT) for number in range(8)]
        times = [milliseconds(lambda ref=ref: embeddings.get(ref, 100.0)) for ref in clicks]  # type: ignore[misc]
        bulk.result()
    return max(times)


def run() -> Iterator[Row]:
    """Measure each way in which a process encodes many images, and clicks beside one of them."""
    ways: list[tuple[str, Callable[[LocalEmbeddings], Any]]] = [
        ("tasks in one process", in_bulk),
        ("images ahead in one process", ahead),
        ("precompute in one process", in_a_run),
    ]
    for name, work in ways:
        say(f"measuring {name}")
        with embeddings() as local:
            took_ms = milliseconds(lambda work=work, local=local: work(local))  # type: ignore[misc]
        yield limit(f"one of {IMAGES} images, {name}", took_ms / IMAGES, 1000 / PER_S, "ms")
    say("measuring clicks beside tasks")
    with embeddings() as local:
        most_ms = 1000 * (FETCH_S + 3 * ENCODE_S)
        yield limit("worst first click beside tasks", click_meanwhile(local), most_ms, "ms")
