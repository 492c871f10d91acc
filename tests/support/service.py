"""The whole service around stand-ins: what answers are made of, without a network or a Label Studio."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import MemoryStore
from backend.metrics import Metrics
from backend.segmentation.corrections.recent_answers import RecentAnswers
from backend.segmentation.decoding import MaskService
from backend.segmentation.pipeline import Pipeline
from backend.segmentation.recently_answered import RecentlyAnswered
from backend.segmentation.retrieval import Retrieval, RetrievalPolicy
from backend.segmentation.service import ClickPolicy, Segmenter
from backend.segmentation.tasks import TaskSegmenter
from backend.types import Task
from backend.web.access import Access
from backend.web.app import create_app
from backend.web.status.view import Field, Status
from model.types import Mask, Masks
from tests.support.fake_detector import word_detector
from tests.support.fakes import FakeClock, FakeEncoder, FakeSource, fake_spec, png
from tests.support.wire_bodies import encoded
from tests.support.wire_reader import checked

MB = 1_000_000
VERSION = "fake@00000000"
IMAGE = "/data/upload/1/a.jpg"  # what `tests.support.wire_bodies.click` asks about
SIZE_WH = (80, 60)


class FakeDecoder:
    """Answers every prompt with an upright box about its middle, a quarter of the image wide and high.

    Attributes:
        calls: the embedding and the prompts of each call.
        failures: exceptions that the next calls raise, one each.
        score: what each mask is given; None for weights without a score head.
        gate: decodes wait until it is set (it is, to begin with).
        is_blind: answers with empty masks.
        masks: what to answer with instead, one per prompt.
    """

    def __init__(self, model_version=VERSION):
        self.model_version, self.score, self.is_blind = model_version, 0.875, False
        self.calls, self.failures, self.masks = [], [], None
        self.gate = threading.Event()
        self.gate.set()

    def wait(self, within_s):
        """It is loaded."""

    @property
    def prompts(self):
        return [prompt for _, prompts in self.calls for prompt in prompts]

    def decode(self, embedding, prompts, multimask_output=None):
        self.calls.append((embedding, tuple(prompts)))
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        if self.masks is not None:
            return Masks(tuple((mask,) for mask in self.masks), None, tuple(np.zeros((1, 4, 4)) for _ in self.masks))
        masks = tuple((self.mask(prompt, embedding.original_size),) for prompt in prompts)
        scores = None if self.score is None else tuple((self.score,) for _ in prompts)
        return Masks(masks, scores, tuple(np.zeros((1, 4, 4), np.float32) for _ in prompts))

    def mask(self, prompt, size):
        """Return the mask of one prompt."""
        if self.is_blind:
            return Mask(np.zeros((0, 0), bool), (0, 0), size)
        if prompt.box is not None:
            x, y = (prompt.box[:2] + prompt.box[2:]) / 2
        elif prompt.point_coords is not None:
            x, y = prompt.point_coords[prompt.point_labels.argmax()]
        else:
            y, x = np.argwhere(prompt.rough_mask).mean(axis=0)
        height, width = size
        left, top = max(0, int(x) - width // 8), max(0, int(y) - height // 8)
        right, bottom = min(width, int(x) + width // 8 + 1), min(height, int(y) + height // 8 + 1)
        return Mask(np.ones((bottom - top, right - left), bool), (left, top), size)


class FakeNextTasks:
    """Tasks of a project; keeps its calls, and raises its ``error``."""

    def __init__(self, tasks=(), error=None):
        self.tasks, self.error, self.calls = tuple(tasks), error, []

    def next_tasks(self, project_id, after_task_id, count):
        self.calls.append((project_id, after_task_id, count))
        if self.error is not None:
            raise self.error
        return self.tasks[:count]


class FakeBackground:
    """Keeps submitted jobs until `run`."""

    def __init__(self):
        self.waiting: list[Callable[[], None]] = []

    def submit(self, job):
        self.waiting.append(job)

    def run(self):
        while self.waiting:
            self.waiting.pop(0)()


STATUS = Status("ready", is_ready=True, model=(Field("version", VERSION),))


class Service:
    """A segmenter and its application over fakes, with all parts as attributes.

    Attributes:
        source: images by address; `IMAGE` is there to begin with.
        encoder: see `tests.support.fakes.FakeEncoder`.
        decoder: see `FakeDecoder`.
        background: jobs that wait for the background thread.
        clock: of the answers that are remembered.
        detector: finds words, see `tests.support.fake_detector.FakeDetector`; None without one.
    """

    def __init__(
        self, *, next_tasks=None, policy=None, access=None, retrieval=None, later=None, decoder=None, detector=None
    ):
        self.source, self.encoder, self.decoder = FakeSource(), FakeEncoder(), decoder or FakeDecoder()
        self.source.contents[IMAGE] = png(size_wh=SIZE_WH)
        self.metrics, self.background, self.next_tasks = Metrics(), FakeBackground(), next_tasks
        self.detector = detector
        spec = fake_spec(VERSION, detector=None if detector is None else word_detector(detector))
        self.embeddings = LocalEmbeddings(self.source, lambda: self.encoder, spec, MemoryStore(10 * MB), self.metrics)
        self.drawing = MaskService(lambda _: self.decoder, self.metrics, decodes_at_once=4)
        self.tasks = TaskSegmenter(self.drawing, self.embeddings)
        self.clock = FakeClock()
        self.answers = RecentAnswers(clock=self.clock)
        self.claims, self.later = RecentlyAnswered(self.clock), later
        self.retrieval = Retrieval(self.tasks, self.claims, later, retrieval or RetrievalPolicy())
        self.segmenter = self.segmenting(policy=policy)
        self.app = create_app(self.segmenter, self.metrics, lambda: STATUS, access or Access(20 * MB))
        self.client = self.app.test_client()

    def segmenting(self, *, embeddings=None, background=None, next_tasks=None, policy=None) -> Segmenter:
        """A segmenter with some of its parts exchanged."""
        policy, embeddings = policy or ClickPolicy(wait_s=10.0, vocabulary=self.detector), embeddings or self.embeddings
        return Segmenter(
            Pipeline(self.drawing, embeddings, policy.outputs, policy.vocabulary, self.answers),
            embeddings,
            self.metrics,
            background or self.background,
            next_tasks or self.next_tasks,
            policy,
            self.retrieval,
        )

    def predict(self, body: Any) -> list[Any]:
        """Return the answer's items, checked to be well-formed; ``[]`` where Label Studio should store nothing."""
        return checked(body, self.client.post("/predict", data=encoded(body)), VERSION)

    def reasons(self) -> list[str]:
        """Return the reasons of the last answer."""
        return [str(reason) for reason in self.metrics.recent()[0].reasons]

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def close(self):
        self.source.gate.set()
        self.encoder.gate.set()
        self.decoder.gate.set()
        if self.detector is not None:
            self.detector.gate.set()
        self.embeddings.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def tasks(*uris: str, first: int = 1) -> tuple[Task, ...]:
    return tuple(Task(first + index, {"image": uri}) for index, uri in enumerate(uris))


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return as soon as ``is_so`` returns True.

    Raises:
        AssertionError: it was not True within ``seconds``.
    """
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if is_so():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come about in time")
