"""Predictions that come too late for the answer are stored through the API: each once, whatever fails meanwhile."""

import pytest

from backend.concurrency.retry import OutageRetry
from backend.errors import ImageError, Reason
from backend.label_studio.http import RefusedError
from backend.labeling import config
from backend.labeling.task_prompts import TaskPrompts
from backend.segmentation.deferred import MAX_WAITING, DeferredPredictions
from backend.segmentation.recently_answered import DEDUP_WINDOW_S, RecentlyAnswered
from backend.segmentation.retrieval import DeferredTask, RetrievalPolicy
from backend.shapes import Rectangle
from backend.types import PromptRegion, Task
from tests.support.fake_project import PROJECT, FakeProject, away
from tests.support.fakes import FakeClock, png
from tests.support.held_tasks import bare, boxed, request
from tests.support.service import SIZE_WH, VERSION, Service, wait_until
from tests.support.wire_bodies import CONFIG

CONTROLS = config.parse(CONFIG)
ASKED = TaskPrompts((PromptRegion("b", Rectangle(10, 10, 20, 20), "box", "image", ("Cat",), original_size=(60, 80)),))


def impatient(stop):
    return OutageRetry(stop, lasts_s=5.0, first_wait_s=0.001, between_attempts_s=0.001)


class Setup:
    """A service, a project whose tasks are the images ``0`` to ``5``, and what stores predictions in it."""

    def __init__(self, **options):
        self.service, self.project = Service(**options), FakeProject(CONFIG)
        for number in range(6):
            self.service.source.contents[f"{number}"] = png((40 * number, 0, 90), SIZE_WH)
            self.project.add({"image": f"{number}"})
        self.deferred = DeferredPredictions(
            self.service.tasks,
            self.project,
            self.service.claims,
            self.service.metrics,
            retry=impatient,
            dedup_delay_s=0.02,
        )

    def late(self, number, uri=None, prompts=ASKED, project_id=PROJECT, **more):
        data = {"image": str(number - 1) if uri is None else uri}
        self.service.clock.advance(1)
        return DeferredTask(Task(number, data), prompts, CONTROLS, project_id, self.service.claims.now(), **more)

    def finish(self):
        wait_until(lambda: len(self.deferred) == 0)

    def failures(self, reason):
        return self.service.count("paddle_sam_background_failures_total", reason=str(reason))

    def close(self):
        self.deferred.stop()
        self.service.close()
        self.deferred.close()


class ToBeNamed:
    """Hands late tasks on to a queue that is made after the service that they come from."""

    def add(self, tasks):
        self.queue.add(tasks)

    def answered(self, project_id):
        self.queue.answered(project_id)


@pytest.fixture
def setup():
    setup = Setup()
    yield setup
    setup.close()


def test_what_came_too_late_is_stored_once_per_task_with_the_same_model_version(setup):
    setup.deferred.add([setup.late(n) for n in (1, 2, 3)])
    setup.finish()
    stored = [setup.project.of(n) for n in (1, 2, 3)]
    assert [[prediction.model_version for prediction in predictions] for predictions in stored] == [[VERSION]] * 3
    assert [predictions[0].result[0]["value"]["brushlabels"] for predictions in stored] == [["Cat"]] * 3


def test_a_task_asked_for_twice_while_it_waits_is_stored_once(setup):
    setup.service.encoder.gate.clear()
    setup.deferred.add([setup.late(1)])
    wait_until(setup.service.encoder.running.is_set)
    setup.deferred.add([setup.late(1), setup.late(2)])
    setup.deferred.add([setup.late(2)])
    setup.service.encoder.gate.set()
    setup.finish()
    assert [len(setup.project.of(n)) for n in (1, 2)] == [1, 1]


def test_a_task_that_has_such_a_prediction_meanwhile_is_left_alone(setup):
    setup.project.store(1, VERSION, [{"id": "theirs"}])
    setup.deferred.add([setup.late(1)])
    setup.finish()
    assert [prediction.result for prediction in setup.project.of(1)] == [[{"id": "theirs"}]]


def test_an_empty_prediction_of_this_version_gives_way(setup):
    setup.project.store(1, VERSION, [])
    setup.deferred.add([setup.late(1)])
    setup.finish()
    [stored] = setup.project.of(1)
    assert stored.result


def test_what_was_answered_in_time_after_all_is_not_stored_again(setup):
    late = setup.late(1)
    assert setup.service.claims.try_claim(late.key, setup.service.claims.now())
    setup.deferred.add([late])
    setup.finish()
    assert setup.project.of(1) == []


def test_of_two_that_store_at_the_same_time_one_prediction_stays(setup):
    setup.project.before["import_predictions"] = lambda: setup.project.store(1, VERSION, [{"id": "theirs"}])
    setup.deferred.add([setup.late(1)])
    wait_until(lambda: "delete_prediction" in setup.project.calls)
    setup.finish()
    assert len(setup.project.of(1)) == 1


def test_answers_of_another_process_that_come_to_be_stored_beside_ours_are_found_afterwards(setup):
    for _ in range(2):
        setup.project.store(1, VERSION, [{"id": "answered"}])
    setup.deferred.answered(PROJECT)
    wait_until(lambda: len(setup.project.of(1)) == 1)
    assert len(setup.project.of(1)) == 1


def test_a_label_studio_that_cannot_be_tidied_ends_nothing(setup, caplog):
    setup.project.failures["count_predictions"] = [
        RefusedError("Label Studio answers 403", 403),
        ZeroDivisionError("slip"),
    ]
    for times in (1, 2):
        setup.deferred.answered(PROJECT)
        wait_until(lambda times=times: setup.project.calls.count("count_predictions") == times)
    setup.deferred.add([setup.late(1)])
    setup.finish()
    assert len(setup.project.of(1)) == 1


def test_a_label_studio_that_is_away_for_a_while_is_waited_for(setup):
    for name in ("project", "predictions", "import_predictions"):
        setup.project.failures[name] = [away(), away()]
    setup.deferred.add([setup.late(1)])
    setup.finish()
    assert len(setup.project.of(1)) == 1


def test_what_fails_for_now_is_tried_again(setup):
    setup.service.decoder.failures.append(MemoryError())
    setup.deferred.add([setup.late(1)])
    setup.finish()
    assert len(setup.project.of(1)) == 1


@pytest.mark.parametrize("error", [ImageError("no", Reason.IMAGE_UNREADABLE), ImageError("no", Reason.IMAGE_NOT_FOUND)])
def test_a_broken_image_is_counted_and_leaves_the_others_their_masks(setup, error, caplog):
    setup.service.source.contents["0"] = error
    setup.deferred.add([setup.late(1), setup.late(2)])
    setup.finish()
    assert [len(setup.project.of(n)) for n in (1, 2)] == [0, 1]
    assert setup.failures(error.reason) == 1
    assert "event=deferred_failed" in caplog.text


def test_a_task_that_is_gone_and_a_refused_key_end_nothing(setup):
    setup.project.delete(2)
    setup.project.failures["predictions"] = [RefusedError("Label Studio answers 403", 403)]
    setup.deferred.add([setup.late(1)])
    setup.finish()
    setup.deferred.add([setup.late(2), setup.late(3)])
    setup.finish()
    assert [len(setup.project.of(n)) for n in (1, 3)] == [0, 1]


def test_a_defect_is_logged_and_the_next_task_is_done(setup, caplog):
    setup.project.failures["predictions"] = [ZeroDivisionError("a slip")]
    setup.deferred.add([setup.late(1)])
    setup.finish()
    setup.deferred.add([setup.late(2)])
    setup.finish()
    assert "a slip" in caplog.text
    assert len(setup.project.of(2)) == 1


def test_an_empty_answer_is_not_stored(setup):
    setup.service.decoder.is_blind = True
    setup.deferred.add([setup.late(1)])
    setup.finish()
    assert setup.project.of(1) == []
    assert setup.failures(Reason.EMPTY_MASK) == 1


def test_tasks_without_a_project_or_an_id_cannot_be_stored_and_are_left_out(setup):
    nameless = DeferredTask(Task(None, {"image": "0"}), ASKED, CONTROLS, PROJECT, 0.0)
    setup.deferred.add([nameless, setup.late(1, project_id=None)])
    assert len(setup.deferred) == 0


def test_more_than_can_wait_are_counted_and_left_out(setup):
    setup.service.source.gate.clear()
    setup.deferred.add([setup.late(n, "0") for n in range(1, MAX_WAITING + 51)])
    assert len(setup.deferred) <= MAX_WAITING
    assert setup.failures(Reason.OVERLOADED) >= 50 - 4  # those that were in hand by then


def test_when_the_service_stops_no_request_is_left_waiting(setup):
    setup.service.encoder.gate.clear()
    setup.deferred.add([setup.late(n) for n in range(1, 7)])
    wait_until(setup.service.encoder.running.is_set)
    setup.deferred.stop()
    setup.service.close()
    setup.deferred.close()
    assert all(len(setup.project.of(n)) <= 1 for n in range(1, 7))
    setup.deferred.add([setup.late(1)])
    assert len(setup.deferred) == 0


def test_the_button_then_the_background_leave_one_prediction_per_task():
    """The whole way: some tasks are answered in time, the others stored later, and none twice."""
    later = ToBeNamed()
    setup = Setup(retrieval=RetrievalPolicy(wait_s=0.3), later=later)
    try:
        later.queue = setup.deferred
        setup.service.predict(request(bare(1, "0"), bare(2, "1"), project=f"{PROJECT}.1"))
        wait_until(lambda: setup.service.encoder.calls == 2 and not setup.service.embeddings.encoding)
        setup.service.encoder.gate.clear()
        tasks = [boxed(n, str(n - 1)) for n in range(1, 7)]
        items = setup.service.predict(request(*tasks, project=f"{PROJECT}.1"))
        assert [bool(item) for item in items] == [True, True, False, False, False, False]
        for number, item in enumerate(items, start=1):  # as Label Studio does
            if item:
                setup.project.store(number, VERSION, item["result"])
        setup.service.encoder.gate.set()
        setup.finish()
        assert [len(setup.project.of(n)) for n in range(1, 7)] == [1] * 6
        assert [len(setup.project.of(n)[0].result) for n in range(1, 7)] == [1] * 6
    finally:
        setup.close()


# Claims.


def test_only_the_first_request_may_answer_a_task_until_the_window_has_passed():
    clock = FakeClock()
    claims = RecentlyAnswered(clock)
    first, second = claims.now(), claims.now()
    clock.advance(1)
    assert claims.try_claim("task", first)
    assert not claims.try_claim("task", second)
    assert claims.try_claim("another", second)
    clock.advance(DEDUP_WINDOW_S - 1)
    assert not claims.try_claim("task", claims.now())
    clock.advance(1)
    assert claims.try_claim("task", claims.now())
