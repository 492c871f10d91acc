"""A small cluster on this machine: a real Redis, worker processes, web halves here or elsewhere, images over HTTP."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backend.cluster.keys import Keys
from backend.composition import cluster as composition_cluster
from backend.embeddings.content_index import source_key
from backend.metrics import Metrics
from backend.settings import read
from backend.types import ImageRef
from tests.support import cluster_worker
from tests.support.cluster_worker import VERSION
from tests.support.fakes import HttpServer, Reply, png

SOON_S = 60.0  # machines that run tests are often busy
ROOT = Path(__file__).parents[2]
KEYS = Keys("paddle-sam", VERSION)

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])  # imported once for all workers, which takes longer than most of their tests


def ref(name="red", **fields):
    return ImageRef(f"/data/upload/1/{name}.png", **{"task_id": 1, "project_id": 1, **fields})


def colour(embedding):
    return tuple(round(float(value) * 255) for value in embedding.image_embedding[:, 0, 0])


def eventually(condition, within_s=SOON_S):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


class WorkerProcess(FORKS.Process):
    """A process of `tests.support.cluster_worker` with these arguments, and with this process's environment.

    Where tests use processes of both kinds, it has the methods of `subprocess.Popen`.
    """

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self._arguments, self._environ = arguments, dict(os.environ)
        self.start()

    def run(self):
        os.environ.clear()
        os.environ.update(self._environ)
        warnings.simplefilter("error")
        cluster_worker.main(*self._arguments)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def poll(self):
        return self.exitcode

    def wait(self, timeout=None):
        """Return the exit code, or None where it has not ended in time."""
        self.join(timeout)
        return self.exitcode


class Cluster:
    """Settings and processes of a cluster; a context manager that leaves nothing running.

    Attributes:
        images: the HTTP server; its ``requests`` are the downloads.
        log: where the stand-in encoders write.
    """

    def __init__(self, redis, folder):
        self.redis, self.folder, self.log = redis, folder, folder / "encodes.log"
        self.log.touch()
        self._stack, self.processes = ExitStack(), []
        self.images = self._stack.enter_context(HttpServer())

    @property
    def environ(self):
        return {
            "REDIS_URL": self.redis.address,
            "LABEL_STUDIO_URL": self.images.url,
            "MODEL_DIR": str(self.folder),
            "PADDLE_SAM_DECODERS_DIR": str(self.folder / "decoders"),
            "PADDLE_SAM_FETCH_TIMEOUT_S": "20",
            "LOG_LEVEL": "warning",
        }

    def add(self, name, colour=(250, 0, 0), *, reply=None):
        self.images.routes[f"/data/upload/1/{name}.png"] = reply or Reply(png(colour))

    def web(self, *, clock=time.monotonic, budget=None, **environ):
        """A web process' embeddings, in this process."""
        metrics, settings = Metrics(), read({**self.environ, **environ})
        embeddings, store, view = composition_cluster.web(settings, VERSION, metrics, clock=clock, budget=budget)
        embeddings.metrics, embeddings.store, embeddings.view = metrics, store, view
        embeddings.start()
        self._stack.callback(embeddings.close)
        return embeddings

    def worker(self, encode_s=0.0, *, wait=True, **environ):
        """A worker process; with ``wait`` it is ready for work."""
        process = WorkerProcess(json.dumps({**self.environ, **environ}), str(self.log), str(encode_s))
        self.processes.append(process)
        if wait:
            with self.redis.client() as client:
                name = f":{process.pid} ".encode()
                eventually(lambda: any(name in worker for worker in client.zrange(KEYS.workers, 0, -1)))
        return process

    def announce(self, name="busy:1"):
        """Announce a worker that takes no job, like one that is busy."""
        with self.parts() as parts:
            parts.monitor.heartbeat(f"{name} {KEYS.model}", 30)

    @contextmanager
    def parts(self):
        """What processes use to reach Redis, for a test to use too."""
        parts = composition_cluster.connect(read(self.environ), VERSION)
        try:
            yield parts
        finally:
            parts.link.close()

    def enqueue(self, image, priority):
        """Enqueue an image as a web process does."""
        with self.parts() as parts:
            return parts.queues.enqueue(image, source_key(image), priority)

    def spawn(self, module, *arguments, **options):
        strict = ["-W", "error"] if module.startswith("tests.support.cluster") else []  # Paddle warns as it is imported
        process = subprocess.Popen([sys.executable, *strict, "-m", module, *arguments], cwd=ROOT, **options)
        self.processes.append(process)
        return process

    def encodes(self, kind="begin"):
        """The colours whose encode began (or ended), in order."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [tuple(map(int, line[3].split(","))) for line in lines if line[0] == kind]

    def downloads(self):
        return [path.rsplit("/", 1)[1].removesuffix(".png") for path in self.images.paths()]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self._stack.close()
