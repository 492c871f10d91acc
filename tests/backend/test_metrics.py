"""What is counted and timed, and kept apart."""

import threading

import pytest
from prometheus_client import REGISTRY

from backend.errors import Reason
from backend.metrics import STAGES, Metrics
from backend.shapes import KeyPoint
from backend.types import Prediction, PredictRequest, PromptRegion, Task
from tests.support.fakes import FakeClock

CLICK = PredictRequest((Task(7),), 3, "", (PromptRegion("r", KeyPoint(1, 1), "point", "image"),))
OPENED = PredictRequest((Task(7), Task(8)), 3)
EMPTY = Prediction((), 0.0, "SAM@1", (Reason.NO_PROMPT,))


@pytest.fixture
def metrics():
    return Metrics(clock=FakeClock(1000.0))


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def answer(metrics, *predictions, request=CLICK):
    metrics.record_answer(request, predictions or (EMPTY,), received_s=0.001, total_s=0.004, body_bytes=1600)


def test_nothing_goes_into_the_global_registry(metrics):
    answer(metrics)
    assert not any(metric.name.startswith("paddle_sam") for metric in REGISTRY.collect())


def test_two_services_count_apart():
    first, second = Metrics(), Metrics()
    first.record_refusal(Reason.BAD_REQUEST)
    assert value(first, "paddle_sam_reasons_total", reason="bad_request") == 1
    assert value(second, "paddle_sam_reasons_total", reason="bad_request") == 0


def test_every_stage_is_exposed_from_the_start(metrics):
    text = metrics.exposition().decode()
    assert all(f'paddle_sam_stage_seconds_count{{stage="{stage}"}} 0.0' in text for stage in STAGES)


def test_every_reason_is_exposed_from_the_start(metrics):
    assert all(value(metrics, "paddle_sam_reasons_total", reason=str(reason)) == 0 for reason in Reason)


def test_a_stage_is_timed_even_when_it_fails(metrics):
    with pytest.raises(RuntimeError), metrics.stage("encode"):
        raise RuntimeError
    assert value(metrics, "paddle_sam_stage_seconds_count", stage="encode") == 1


def test_waiting_requests_are_counted_while_they_wait(metrics):
    with metrics.waiting():
        assert value(metrics, "paddle_sam_waiting") == 1
    assert value(metrics, "paddle_sam_waiting") == 0
    assert value(metrics, "paddle_sam_stage_seconds_count", stage="embedding") == 1


def test_an_answer_is_noted_with_its_reasons_and_the_stages_of_its_own_thread(metrics):
    def background():
        with metrics.stage("encode"):
            pass

    with metrics.stage("decoder"):
        thread = threading.Thread(target=background)
        thread.start()
        thread.join()
    answer(metrics, EMPTY, EMPTY)
    (note,) = metrics.recent()
    assert (note.at, note.tasks, note.regions, note.reasons) == (1000.0, 2, 0, (Reason.NO_PROMPT,))
    assert (note.total_ms, note.body_bytes) == (4.0, 1600)
    assert set(note.stages_ms) == {"receive", "decoder", "total"}
    assert value(metrics, "paddle_sam_tasks_total", outcome="empty") == 2
    assert value(metrics, "paddle_sam_reasons_total", reason="no_prompt") == 1


def test_the_stages_of_a_refused_request_do_not_stick_to_the_next(metrics):
    with metrics.stage("decoder"):
        pass
    metrics.record_refusal(Reason.INTERNAL_ERROR)
    answer(metrics)
    assert "decoder" not in metrics.recent()[0].stages_ms


def test_only_the_last_requests_are_kept_newest_first(metrics):
    for size in range(310):
        metrics.record_answer(CLICK, (EMPTY,), received_s=0, total_s=0, body_bytes=size)
    assert [note.body_bytes for note in metrics.recent()] == list(range(309, 9, -1))


def test_an_answer_is_noted_with_what_it_was_about(metrics):
    answer(metrics, request=OPENED)
    with metrics.waiting():
        pass
    answer(metrics, request=CLICK)
    click, opened = metrics.recent()
    assert (click.is_click, click.is_warm, click.project_id, click.task_id) == (True, False, 3, 7)
    assert (opened.is_click, opened.is_warm, opened.task_id) == (False, True, 7)


def test_the_last_encodes_are_kept_newest_first(metrics):
    for _ in range(310):
        with metrics.stage("encode"):
            pass
    with metrics.stage("encode"):
        threading.Event().wait(0.02)
    with metrics.stage("decoder"):
        pass
    took = metrics.times.encodes_ms()
    assert len(took) == 300
    assert took[0] >= 20 > took[1]


def test_counts_can_be_read_without_prometheus(metrics):
    answer(metrics, EMPTY, EMPTY)
    metrics.record_refusal(Reason.BAD_REQUEST)
    metrics.background_failure(Reason.NO_PROMPT)
    metrics.record_lookup("memory")
    metrics.record_lookup("memory")
    assert metrics.reason_counts() == {Reason.NO_PROMPT: 2, Reason.BAD_REQUEST: 1}
    assert metrics.lookups() == {"memory": 2}


def test_config_problems_are_remembered_per_project_and_not_for_ever(metrics):
    for project in range(200):
        metrics.configs.record(project, ("no output control",))
    metrics.configs.record(199, ())
    problems = metrics.configs.by_project()
    assert len(problems) == 100
    assert problems[199] == ()


def test_caches_background_failures_and_shared_encodes_are_counted(metrics):
    metrics.record_lookup("memory")
    metrics.record_join()
    metrics.background_failure(Reason.IMAGE_NOT_FOUND)
    assert value(metrics, "paddle_sam_cache_lookups_total", tier="memory") == 1
    assert value(metrics, "paddle_sam_encodes_shared_total") == 1
    assert value(metrics, "paddle_sam_background_failures_total", reason="image_not_found") == 1


def test_a_watched_number_is_read_when_asked_for(metrics):
    numbers = [3, 7]
    metrics.watch("queue_length", "Encodes that wait.", lambda: numbers[0])
    assert value(metrics, "paddle_sam_queue_length") == 3
    numbers[0] = 7
    assert value(metrics, "paddle_sam_queue_length") == 7
