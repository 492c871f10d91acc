"""What a process says of itself: in time, in order, and in words that help."""

from types import SimpleNamespace

import pytest

from backend.concurrency.byte_budget import ByteBudget
from backend.decoders.folder import DecoderFolder
from backend.decoders.project_decoders import ProjectDecoders
from backend.decoders.training import TrainingLog
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import MemoryStore, StoreStats
from backend.errors import BackendError, Reason
from backend.metrics import Metrics
from backend.settings import read
from backend.shapes import KeyPoint, Rectangle
from backend.types import ImageRef, Prediction, PredictRequest, PromptRegion, Region, Task
from backend.web import readiness
from backend.web.status import snapshot
from backend.web.status.snapshot import SHOWN_PROJECTS, SHOWN_REQUESTS, StatusSources
from backend.web.status.view import ClusterView, Problem
from tests.support.fakes import FakeClock, FakeSource, fake_spec, png

REGION = Region("a" * 12, "brush", "rectanglelabels", "image", Rectangle(0, 0, 50, 50), ("Cat",), (60, 80), score=0.5)
CLICK = PredictRequest((Task(7),), 3, "", (PromptRegion("r", KeyPoint(1, 1), "point", "image"),))
OPENED = PredictRequest((Task(7),), 3)
PAGE = PredictRequest((Task(7), Task(8)))
KEY = {"LABEL_STUDIO_API_KEY": "0" * 40}


class FakeWork:
    is_ready, failure, encoding, ahead = True, "", 2, 5


class FakeStore:
    name = "fake"

    def __init__(self, *stats):
        self._stats = stats

    def stats(self):
        return self._stats


@pytest.fixture
def clock():
    return FakeClock(50_000.0)


@pytest.fixture
def metrics(clock):
    return Metrics(clock=clock)


@pytest.fixture
def sources(metrics, tiny_checkpoint, clock, tmp_path):
    """Makes the parts of a process, as a test wants them."""

    folder = DecoderFolder(tmp_path)
    decoders = ProjectDecoders(SimpleNamespace(model_version="tiny@0"), tiny_checkpoint, folder, "cpu")

    def sources(*, environ=KEY, work=None, decoder=("cpu", ""), stats=(), cluster=None):
        device, failure = decoder
        return StatusSources(
            read(environ), tiny_checkpoint, work or FakeWork(), SimpleNamespace(device=device, failure=failure),
            FakeStore(*stats), metrics, lambda: cluster, ByteBudget(1000), decoders, TrainingLog(folder, clock),
        )  # fmt: skip

    return sources


@pytest.fixture
def take(sources):
    """Takes a snapshot of a process with the given state."""
    return lambda **changes: snapshot.take(sources(**changes))


def answer(metrics, request=CLICK, *, regions=1, reasons=(), total_s=0.01, waited=False):
    if waited:
        with metrics.waiting():
            pass
    predictions = tuple(Prediction((REGION,) * regions, 0.5, "SAM@1", tuple(reasons)) for _ in request.tasks)
    metrics.record_answer(request, predictions, received_s=0, total_s=total_s, body_bytes=100)


def work(**changes):
    return SimpleNamespace(**{"is_ready": True, "failure": "", "encoding": 0, "ahead": 0, **changes})


DOWN = ClusterView(problems=(Problem("Redis", "refused"),), headline="Redis does not answer")


@pytest.mark.parametrize(("changes", "headline", "is_broken"), [
    ({}, "ready", False),
    ({"decoder": ("", "")}, "loading the model", False),
    ({"work": work(is_ready=False)}, "loading the model", False),
    ({"decoder": ("", "no such device")}, "the model cannot be loaded", True),
    ({"work": work(is_ready=False, failure="no room")}, "the model cannot be loaded", True),
    ({"work": work(is_ready=False), "cluster": DOWN}, "Redis does not answer", True),
    ({"work": work(is_ready=False), "cluster": ClusterView()}, "looking for workers", False),
    ({"decoder": ("", ""), "cluster": ClusterView()}, "loading the model", False),
])  # fmt: skip
def test_the_headline_says_what_it_waits_for(sources, changes, headline, is_broken):
    parts = sources(**changes)
    status = snapshot.take(parts)
    assert (status.headline, status.is_ready, status.is_broken) == (headline, headline == "ready", is_broken)
    assert readiness.obstacle(parts.work, parts.decoder, parts.cluster()) == ("" if status.is_ready else headline)


def test_problems_come_with_the_worst_first(take):
    status = take(environ={}, decoder=("", "no such device"), work=work(failure="no room"), cluster=DOWN)
    assert [problem.subject for problem in status.problems] == ["model", "model", "Redis", "API key"]
    assert "LABEL_STUDIO_API_KEY" in status.problems[-1].text


def test_one_failure_of_both_halves_is_shown_once(take):
    assert len(take(decoder=("", "no room"), work=work(failure="no room")).problems) == 1


def test_warm_clicks_first_clicks_and_encodes_are_timed_apart(take, metrics):
    answer(metrics, total_s=0.02)
    answer(metrics, total_s=0.03)
    answer(metrics, total_s=1.5, waited=True)
    answer(metrics, OPENED, total_s=9.0)  # was not a click
    answer(metrics, regions=0, reasons=[Reason.EMPTY_MASK], total_s=8.0)  # showed no mask
    with metrics.stage("encode"):
        pass
    warm, first, encodes = take().speeds
    assert (warm.name, warm.times_ms) == ("Warm clicks", (30.0, 20.0))
    assert (first.name, first.times_ms) == ("First clicks", (1500.0,))
    assert (encodes.name, len(encodes.times_ms)) == ("Encodes", 1)


def test_with_redis_encodes_are_the_workers_to_tell(take):
    assert [speed.name for speed in take(cluster=ClusterView()).speeds] == ["Warm clicks", "First clicks"]


def test_requests_are_answered_had_nothing_to_answer_or_failed(take, metrics):
    answer(metrics)
    answer(metrics, reasons=[Reason.NOT_A_PROMPT])
    answer(metrics, regions=0, reasons=[Reason.NO_CONTEXT])
    answer(metrics, regions=0, reasons=[Reason.NO_PROMPT, Reason.IMAGE_NOT_FOUND])
    outcomes = take().outcomes
    assert (outcomes.answered, outcomes.empty, outcomes.failed) == (2, 1, 1)


def test_causes_are_sorted_failures_first_then_by_how_often_and_say_when(take, metrics, clock):
    for reason, count in ((Reason.NO_CONTEXT, 5), (Reason.IMAGE_NOT_FOUND, 1), (Reason.SIZE_MISMATCH, 2)):
        for _ in range(count):
            clock.advance(60)
            answer(metrics, regions=0, reasons=[reason])
    metrics.record_refusal(Reason.BAD_REQUEST)
    metrics.background_failure(Reason.SIZE_MISMATCH)
    causes = take().causes
    assert [(cause.reason, cause.count, cause.last) for cause in causes] == [
        (Reason.SIZE_MISMATCH, 3, 50_480.0), (Reason.BAD_REQUEST, 1, None), (Reason.IMAGE_NOT_FOUND, 1, 50_360.0),
        (Reason.NO_CONTEXT, 5, 50_300.0),
    ]  # fmt: skip


def test_the_share_of_look_ups_that_found_an_embedding_is_that_of_all_tiers(take, metrics):
    for tier in ("memory", "memory", "disk", "miss"):
        metrics.record_lookup(tier)
    stats = StoreStats("memory", 4, 128_000_000, 512_000_000), StoreStats("disk", 0, 5, 4, "full")
    status = take(stats=stats)
    assert status.tiers == stats
    assert status.cache[0].text == "75 % of 4"


def test_before_any_look_up_no_share_is_made_up(take):
    assert take().cache[0].text == "none yet"


def test_the_process_says_how_long_it_runs_and_that_there_are_others(take, clock):
    clock.advance(7200)
    assert take().process.endswith(", up 2 h 0 min")
    assert "one of 4" in take(environ={**KEY, "WORKERS": "4"}).process


def test_the_last_requests_are_shown_newest_first_and_those_without_an_expected_mask_as_failures(take, metrics):
    answer(metrics, CLICK, total_s=0.5, waited=True)
    answer(metrics, OPENED, regions=0, reasons=[Reason.NO_CONTEXT])
    answer(metrics, PAGE, regions=0, reasons=[Reason.NO_CONTEXT])
    answer(metrics, CLICK, regions=0, reasons=[Reason.IMAGE_TOO_LARGE])
    failed, page, opened, click = take().requests
    assert (click.is_click, click.project_id, click.task_id, click.total_ms) == (True, 3, 7, 500.0)
    assert [request.tasks for request in (page, opened)] == [2, 1]
    assert [request.is_failure for request in (failed, page, opened, click)] == [True, False, False, False]


def test_only_the_last_requests_and_projects_are_shown(take, metrics):
    for number in range(60):
        answer(metrics)
        metrics.configs.record(number, ())
    metrics.configs.record(3, ("no control",))
    status = take()
    assert len(status.requests) == SHOWN_REQUESTS
    assert len(status.projects) == SHOWN_PROJECTS
    assert [project.name for project in status.projects[:3]] == ["3", "59", "58"], "trouble first, then the newest"


def test_a_project_without_a_number_has_a_name_all_the_same(take, metrics):
    metrics.configs.record(None, ())
    assert take().projects[0].name == "unnamed"


def test_the_model_says_what_it_is_and_where(take, tiny_checkpoint):
    rows = {row.name: row.text for row in take(environ={**KEY, "PADDLE_SAM_WEIGHTS": "SAM-H_box"}).model}
    assert rows["version"] == tiny_checkpoint.model_version
    assert rows["device"] == "cpu"
    assert "note" not in rows
    assert "trying things out" in {row.name: row.text for row in take().model}["note"]
    assert "not loaded yet" in {row.name: row.text for row in take(decoder=("", "")).model}["device"]


def test_an_encoder_that_cannot_be_loaded_is_reported(metrics):
    source, attempts = FakeSource(), [MemoryError("no room for the encoder")]
    source.contents["/a.png"] = png()

    def load():
        raise attempts[0]

    embeddings = LocalEmbeddings(source, load, fake_spec(), MemoryStore(1000), metrics)
    try:
        assert embeddings.failure == ""
        with pytest.raises(BackendError, match="no room"):
            embeddings.get(ImageRef("/a.png"), 20.0)
        assert embeddings.failure == "no room for the encoder"
    finally:
        embeddings.close()
