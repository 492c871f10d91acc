"""What a web process and a worker take, by ``python -m tests.benchmarks.deployment [WEIGHTS...]``, on Linux.

Both run as ``deploy/kubernetes`` starts them, over a real Redis: eight pictures of 12 megapixels are clicked on for the
first time, all at once, and then again. The table is that of ``docs/operations.md``, from which the manifests' requests
and limits follow; ``tests/repository/test_deployed_memory.py`` compares them. WEIGHTS are ``demo``, ``mobile_sam`` and
``sam_vit_b``, the last two random, which cost the same.
"""

import io
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from model import config
from model.demo import SAMPLES
from model.machine import cpu_count
from model.weights.formats import native
from tests.benchmarks import subjects
from tests.benchmarks.__main__ import processor
from tests.benchmarks.peak_memory import peak_of
from tests.benchmarks.rows import say
from tests.support.cluster import KEYS, Cluster, eventually
from tests.support.fakes import Reply
from tests.support.mobile_files import write_published
from tests.support.processes import serving
from tests.support.redis_server import RedisServer
from tests.support.wire_bodies import click, encoded, result

WEIGHTS = ("demo", "mobile_sam", "sam_vit_b")
PHOTO_SIZE = (3000, 4000)  # (height, width)
PHOTOS, WARM_CLICKS = 8, 40
PATIENCE_S = 600.0
PATIENT = {"PADDLE_SAM_PREFETCH_TASKS": "0", "PADDLE_SAM_PREDICT_BUDGET_S": "600"}

HEADER = "| weights | process | ready | at most | processor time |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Use:
    """What one process took."""

    weights: str
    process: str
    ready_bytes: int  # the most resident memory until it was ready
    most_bytes: int  # and until all was answered
    work_s: float  # processor time for each image of a worker, and for each warm click of a web process

    @property
    def row(self) -> str:
        """The row of the table."""
        work = f"{self.work_s:.2f} s an image" if self.process == "worker" else f"{self.work_s * 1000:.0f} ms a click"
        cells = f"`{self.weights}`", self.process, _gigabytes(self.ready_bytes), _gigabytes(self.most_bytes), work
        return f"| {' | '.join(cells)} |"


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"


def measure(weights: str) -> tuple[Use, Use]:
    """Start a web process and a worker, click, and return what the two took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RedisServer(folder, maxmemory="1gb") as redis, Cluster(redis, folder) as cluster:
            for number in range(PHOTOS):
                cluster.add(f"photo{number}", reply=Reply(_jpeg(number)))
            environ = {**cluster.environ, **PATIENT, "PADDLE_SAM_WEIGHTS": _weights(weights, folder)}
            del environ["PADDLE_SAM_DECODERS_DIR"]  # `serving` names one
            worker = cluster.spawn("backend", "worker", env={**os.environ, **environ, **_manifest("worker")})
            with redis.client() as client:
                alive = f":{worker.pid} ".encode()
                eventually(lambda: any(alive in worker for worker in client.zrange(KEYS.workers, 0, -1)), PATIENCE_S)
            with serving(folder, **{**environ, **_manifest("web")}) as web:
                eventually(lambda: web.ask("/ready")[0] == 200, PATIENCE_S)
                ready = peak_bytes(web.process.pid), peak_bytes(worker.pid)
                before = processor_s(worker.pid)
                with ThreadPoolExecutor(PHOTOS) as pool:
                    list(pool.map(lambda number: _click(web, number), range(PHOTOS)))
                encode_s = (processor_s(worker.pid) - before) / PHOTOS
                before = processor_s(web.process.pid)
                for number in range(WARM_CLICKS):
                    _click(web, number % PHOTOS)
                click_s = (processor_s(web.process.pid) - before) / WARM_CLICKS
                return (
                    Use(weights, "web process", ready[0], peak_bytes(web.process.pid), click_s),
                    Use(weights, "worker", ready[1], peak_bytes(worker.pid), encode_s),
                )


def _click(web, number: int) -> None:
    height, width = PHOTO_SIZE
    tasks = [{"id": number, "data": {"image": f"/data/upload/1/photo{number}.png"}}]
    point = {"x": 71.1, "y": 69.7, "width": 0.2, "keypointlabels": ["Cat"]}
    body = encoded(click(result(value=point, original_width=width, original_height=height), tasks=tasks))
    status, answer = web.ask("/predict", body, timeout_s=PATIENCE_S, **{"Content-Type": "application/json"})
    assert status == 200, answer
    assert json.loads(answer)["results"][0]["result"], f"a click without a mask: {web.log[-2000:]}"


def _weights(name: str, folder: Path) -> str:
    """Return what `PADDLE_SAM_WEIGHTS` says: a name, or a file of random weights."""
    if name == "mobile_sam":
        return str(write_published(config.mobile_sam(), folder / "mobile_sam.pt"))
    if name == "sam_vit_b":
        return str(native.write(subjects.checkpoint(), folder / "vit_b.safetensors"))
    return name


def _jpeg(number: int) -> bytes:
    """Return a sample of the demo model, enlarged, as another file for each number."""
    stream = io.BytesIO()
    with Image.open(SAMPLES / "landscape.jpg") as sample:
        sample.resize(PHOTO_SIZE[::-1]).save(stream, "JPEG", quality=80 + number)
    return stream.getvalue()


def _manifest(name: str) -> dict[str, str]:
    """Return what a manifest sets for its container alone."""
    text = (subjects.ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text()
    [container] = next(yaml.safe_load_all(text))["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def tree(pid: int) -> list[int]:
    """Return a process and its children, as gunicorn has them."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(int(child) for children in lists for child in children)]


def peak_bytes(pid: int) -> int:
    """Return the most resident memory of a process and its children so far, pages that they share counted for each."""
    return sum(map(peak_of, tree(pid)))


def processor_s(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    fields = [Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split() for each in tree(pid)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def main(names: list[str]) -> None:
    """Print the table."""
    rows = []
    for weights in names or WEIGHTS:
        say(f"measuring {weights}")
        rows += measure(weights)
    print(f"{processor()}, {cpu_count()} cores\n")
    print("\n".join((HEADER, *(use.row for use in rows))))


if __name__ == "__main__":
    main(sys.argv[1:])
