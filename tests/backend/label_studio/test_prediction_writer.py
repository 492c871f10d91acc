"""Exactly one prediction for each task, whatever gets lost, killed or run twice."""

import contextlib
import json
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.concurrency.retry import OutageError, OutageRetry, Stopped
from backend.errors import AccessError, RequestError
from backend.label_studio.http import FaultError, ForbiddenError, RefusedError
from backend.label_studio.prediction_writer import PredictionWriter, WriteRequest, WriteResult, own
from backend.label_studio.types import NewPrediction
from tests.support.fake_project import FakeProject, away

VERSION = "SAM@12345678"


def retry(stop=None, **options):
    return OutageRetry(stop or threading.Event(), **({"first_wait_s": 0.001} | options))


def writer(project, **options):
    return PredictionWriter(project, retry(**options), project.project_value)


def ready(task, region_id="new", replaced=()):
    result = msgspec.Raw(json.dumps([{"id": region_id}]).encode())
    return WriteRequest(NewPrediction(task, result, 0.5, VERSION), frozenset(replaced))


def region_ids(project, task):
    return [region["id"] for prediction in project.of(task, VERSION) for region in prediction.result]


def verdicts(written):
    return [verdict for _, verdict in written]


def fault():
    return FaultError("Label Studio answers 500", away().reason)


def test_predictions_are_stored_in_one_request():
    project = FakeProject(count=3)
    outcomes = writer(project).write([ready(1), ready(2), ready(3)])
    assert verdicts(outcomes) == [WriteResult.STORED] * 3
    assert project.calls.count("import_predictions") == 1
    assert "create_prediction" not in project.calls
    assert [len(project.of(task)) for task in (1, 2, 3)] == [1, 1, 1]


def test_a_task_that_another_run_has_filled_meanwhile_is_left_alone():
    project = FakeProject(count=2)
    project.store(1, VERSION, [{"id": "theirs"}])
    assert verdicts(writer(project).write([ready(1), ready(2)])) == [WriteResult.ALREADY_STORED, WriteResult.STORED]
    assert region_ids(project, 1) == ["theirs"]


def test_predictions_of_other_models_do_not_count():
    project = FakeProject(count=1)
    project.store(1, VERSION + "0", [{"id": "other"}])
    assert verdicts(writer(project).write([ready(1)])) == [WriteResult.STORED]
    assert len(project.of(1)) == 2


def test_a_lost_answer_stores_nothing_twice():
    project, lost = FakeProject(count=2), [away("the answer got lost")]

    def lose():
        if lost:
            raise lost.pop()

    project.after["import_predictions"] = lose
    assert verdicts(writer(project).write([ready(1), ready(2)])) == [WriteResult.STORED] * 2
    assert project.calls.count("import_predictions") == 1
    assert [region_ids(project, task) for task in (1, 2)] == [["new"], ["new"]]


def test_a_refused_connection_and_a_full_server_are_waited_for():
    project = FakeProject(count=2)
    project.failures["import_predictions"] = [away(), away(retry_after_s=0.01)]
    project.failures["predictions"] = [None, away()]
    assert verdicts(writer(project).write([ready(1), ready(2)])) == [WriteResult.STORED] * 2
    assert [region_ids(project, task) for task in (1, 2)] == [["new"], ["new"]]


def test_a_task_that_was_deleted_meanwhile_keeps_no_other_from_being_stored():
    project = FakeProject(count=3)
    project.delete(2)
    assert verdicts(writer(project).write([ready(1), ready(2), ready(3)])) == [
        WriteResult.STORED, WriteResult.GONE, WriteResult.STORED,
    ]  # fmt: skip


def test_a_task_that_is_deleted_at_the_last_moment_neither():
    project = FakeProject(count=3)
    project.before["import_predictions"] = lambda: 2 in project.tasks and project.delete(2)
    outcomes = writer(project).write([ready(1), ready(2), ready(3)])
    assert verdicts(outcomes) == [WriteResult.STORED, WriteResult.GONE, WriteResult.STORED]


def test_a_prediction_that_label_studio_refuses_is_reported_and_the_others_stored():
    project = FakeProject(count=3)
    project.invalid = {2}
    first, second, third = verdicts(writer(project).write([ready(1), ready(2), ready(3)]))
    assert (first, third) == (WriteResult.STORED, WriteResult.STORED)
    assert isinstance(second, RequestError)
    assert "invalid prediction" in str(second)
    assert [len(project.of(task)) for task in (1, 2, 3)] == [1, 0, 1]


REFUSALS = [RefusedError(f"Label Studio answers {status}", status) for status in (400, 405, 409, 413, 422)]
REFUSALS.append(ForbiddenError("Label Studio answers 403"))


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_task_that_label_studio_refuses_to_show_is_not_taken_for_deleted(refusal):
    project = FakeProject(count=3)
    project.failures["predictions"] = [None, refusal]
    assert verdicts(writer(project).write([ready(1), ready(2), ready(3)])) == [
        WriteResult.STORED,
        refusal,
        WriteResult.STORED,
    ]
    assert [len(project.of(task)) for task in (1, 2, 3)] == [1, 0, 1]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_refusal_to_store_one_is_reported_and_the_others_are_stored(refusal):
    project = FakeProject(count=3)

    def refuse(new):
        if new.task_id == 2:
            raise refusal
        FakeProject.create_prediction(project, new)

    project.failures["import_predictions"] = [refusal]
    project.create_prediction = refuse
    assert verdicts(writer(project).write([ready(1), ready(2), ready(3)])) == [
        WriteResult.STORED,
        refusal,
        WriteResult.STORED,
    ]
    assert [len(project.of(task)) for task in (1, 2, 3)] == [1, 0, 1]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_refusal_to_delete_the_old_one_is_reported_and_the_next_run_finds_it(refusal):
    project = FakeProject(count=2)
    old = [project.store(task, VERSION, [{"id": "old"}]) for task in (1, 2)]
    project.failures["delete_prediction"] = [refusal]
    outcomes = writer(project).write([ready(1, replaced=old[:1]), ready(2, replaced=old[1:])])
    assert verdicts(outcomes) == [refusal, WriteResult.STORED]
    assert [region_ids(project, task) for task in (1, 2)] == [["old", "new"], ["new"]]
    assert writer(project).delete_duplicates(VERSION) == 1
    assert region_ids(project, 1) == ["new"]


def test_a_prediction_over_which_label_studio_always_fails_is_given_up_and_the_others_stored():
    project = FakeProject(count=2)

    def fail(new):
        if new.task_id == 1:
            raise fault()
        FakeProject.create_prediction(project, new)

    project.failures["import_predictions"] = [fault() for _ in range(20)]
    project.create_prediction = fail
    first, second = verdicts(writer(project).write([ready(1), ready(2)]))
    assert isinstance(first, FaultError)
    assert second is WriteResult.STORED
    assert len(project.of(2)) == 1


def test_a_busy_database_is_waited_for():
    project = FakeProject(count=1)
    project.failures["import_predictions"] = [fault(), fault()]
    assert verdicts(writer(project).write([ready(1)])) == [WriteResult.STORED]
    assert len(project.of(1)) == 1


def test_a_refused_key_ends_the_run():
    project = FakeProject(count=1)
    project.failures["import_predictions"] = [AccessError("no")]
    with pytest.raises(AccessError):
        writer(project).write([ready(1)])


def test_a_long_outage_ends_the_run():
    project = FakeProject(count=1)
    project.failures["import_predictions"] = [away() for _ in range(100)]
    with pytest.raises(OutageError):
        writer(project, lasts_s=0.05).write([ready(1)])


def test_stop_does_not_wait_for_an_outage_but_finishes_what_can_be_finished():
    stop, project = threading.Event(), FakeProject(count=1)
    stop.set()
    assert verdicts(writer(project, stop=stop).write([ready(1)])) == [WriteResult.STORED]
    project.failures["import_predictions"] = [away()]
    project.add({})
    with pytest.raises(Stopped):
        writer(project, stop=stop).write([ready(2)])


# Taking another one's place


def test_the_old_prediction_goes_after_the_new_one_is_there():
    project = FakeProject(count=1)
    old = project.store(1, VERSION, [{"id": "old"}])
    project.before["delete_prediction"] = lambda: events.append(region_ids(project, 1))
    events = []
    assert verdicts(writer(project).write([ready(1, replaced=[old])])) == [WriteResult.STORED]
    assert events == [["old", "new"]]
    assert region_ids(project, 1) == ["new"]


def test_an_empty_prediction_does_not_keep_a_task_from_getting_one():
    project = FakeProject(count=1)
    empty = project.store(1, VERSION, [])
    assert verdicts(writer(project).write([ready(1, replaced=[empty])])) == [WriteResult.STORED]
    assert [prediction.result for prediction in project.of(1)] == [[{"id": "new"}]]


def test_nothing_is_deleted_for_a_prediction_that_was_refused():
    project = FakeProject(count=1)
    old = project.store(1, VERSION, [{"id": "old"}])
    project.invalid = {1}
    writer(project).write([ready(1, replaced=[old])])
    assert region_ids(project, 1) == ["old"]


# Looking afterwards


def test_tidy_asks_two_questions_where_all_is_well():
    project = FakeProject(count=50)
    for task in project.tasks:
        project.store(task, VERSION, [{"id": "a"}])
        project.store(task, "other@1", [{"id": "b"}])
    assert writer(project).delete_duplicates(VERSION) == 0
    assert project.calls == ["count_predictions", "task_page"]


def test_tidy_keeps_one_of_each_task_and_touches_no_other_version():
    project = FakeProject(count=4)
    for task, results in {1: ["a", "b", "c"], 2: ["a"], 3: [None, "a", None], 4: [None, None]}.items():
        for region_id in results:
            project.store(task, VERSION, [{"id": region_id}] if region_id else [])
    project.store(1, "other@1", [{"id": "a"}])
    project.store(1, "other@1", [{"id": "b"}])
    assert writer(project).delete_duplicates(VERSION) == 5
    assert {task: region_ids(project, task) for task in project.tasks} == {1: ["c"], 2: ["a"], 3: ["a"], 4: []}
    assert len(project.of(4, VERSION)) == 1
    assert len(project.of(1, "other@1")) == 2


def test_a_version_whose_name_contains_this_one_hides_no_duplicates():
    project = FakeProject(count=2)
    project.store(1, VERSION, [{"id": "a"}])
    project.store(1, VERSION, [{"id": "b"}])
    project.store(2, f"big-{VERSION}", [{"id": "c"}])
    assert writer(project).delete_duplicates(VERSION) == 1
    assert region_ids(project, 1) == ["b"]


def test_tidy_of_a_project_without_predictions_has_nothing_to_do():
    assert writer(FakeProject(count=3)).delete_duplicates(VERSION) == 0


@pytest.mark.parametrize("call", ["predictions", "delete_prediction"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_deleting_duplicates_goes_on_after_a_refusal_and_raises_it_in_the_end(refusal, call):
    project = FakeProject(count=3)
    for task in project.tasks:
        for region_id in "ab":
            project.store(task, VERSION, [{"id": region_id}])
    project.failures[call] = [None, refusal]
    with pytest.raises(type(refusal)) as caught:
        writer(project).delete_duplicates(VERSION)
    assert caught.value is refusal
    assert sorted(len(project.of(task)) for task in project.tasks) == [1, 1, 2]


def test_tidy_passes_over_a_task_that_is_deleted_meanwhile():
    project = FakeProject(count=2)
    for task in (1, 2):
        for region_id in "ab":
            project.store(task, VERSION, [{"id": region_id}])
    project.before["predictions"] = lambda: 2 in project.tasks and project.delete(2)
    assert writer(project).delete_duplicates(VERSION) == 1
    assert region_ids(project, 1) == ["b"]


def test_tidy_ends_at_the_next_task_where_the_run_is_to_end():
    project, stop = FakeProject(count=200), threading.Event()
    for task in project.tasks:
        for _ in range(2):
            project.store(task, VERSION, [{"id": "a"}])
    project.after["delete_prediction"] = stop.set
    with pytest.raises(Stopped):
        PredictionWriter(project, OutageRetry(stop), project.project_value).delete_duplicates(VERSION)
    assert len(project.stored) == 399
    assert writer(project).delete_duplicates(VERSION) == 199


def test_the_one_that_stays_shows_something_and_is_the_last():
    project = FakeProject(count=1)
    for result in ([{"id": "a"}], [], [{"id": "b"}], []):
        project.store(1, VERSION, result)
    stored = project.predictions(1).stored
    assert [prediction.id for prediction in own(stored, VERSION)] == [2, 4, 1, 3]


# Two at once


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_two_runs_that_meet_anywhere_leave_one_prediction_of_each_task(data):
    """Every call is a point where the other run may go on; hypothesis chooses who goes."""
    project = FakeProject(count=2)
    for task in project.tasks:
        if data.draw(st.booleans()):
            project.store(task, VERSION, data.draw(st.sampled_from([[], [{"id": "old"}]])))
    replaces = data.draw(st.tuples(st.booleans(), st.booleans()))
    interleaving = Interleaving(2, lambda: data.draw(st.integers(0, 1)))

    def run(number):
        watched = Watched(project, interleaving, number)
        chunk = []
        for task in (1, 2):
            predictions = own(watched.predictions(task).stored, VERSION)
            if predictions and not predictions[-1].is_empty and not replaces[number]:
                continue
            chunk.append(ready(task, f"run {number}", [prediction.id for prediction in predictions]))
        writer = PredictionWriter(watched, retry(), project.project_value)
        if chunk:
            writer.write(chunk)
        writer.delete_duplicates(VERSION)

    interleaving.run(run)
    for task in (1, 2):
        assert len(region_ids(project, task)) == len(project.of(task, VERSION)) == 1


class Interleaving:
    """Lets one of several threads go at a time, from one call to the next, the one that is drawn."""

    def __init__(self, count, draw):
        self.draw, self.count = draw, count
        self.go = [threading.Semaphore(0) for _ in range(count)]
        self.arrivals = threading.Semaphore(0)
        self.finished = [False] * count

    def wait(self, number):
        self.arrivals.release()
        assert self.go[number].acquire(timeout=20)

    def run(self, work):
        errors = []

        def body(number):
            self.wait(number)
            try:
                work(number)
            except BaseException as error:  # noqa: BLE001 - raised again where it is seen
                errors.append(error)
            self.finished[number] = True
            self.arrivals.release()

        threads = [threading.Thread(target=body, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert self.arrivals.acquire(timeout=20)
        while not all(self.finished):
            choice = self.draw()
            number = choice if not self.finished[choice] else self.finished.index(False)
            self.go[number].release()
            assert self.arrivals.acquire(timeout=20)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class Watched:
    """A project as one of several runs sees it: each call waits for that run's turn."""

    def __init__(self, project, interleaving, number):
        self._project, self._interleaving, self._number = project, interleaving, number

    def __getattr__(self, name):
        call = getattr(self._project, name)

        def waits(*arguments, **options):
            self._interleaving.wait(self._number)
            return call(*arguments, **options)

        return waits


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.booleans(), st.booleans())
def test_a_run_that_is_killed_at_any_call_is_made_up_for_by_the_next(calls, has_old, has_effect):
    """Killed before or after the call has had its effect; then run again to the end."""
    project = FakeProject(count=2)
    if has_old:
        project.store(1, VERSION, [{"id": "old"}])

    class KilledError(BaseException):
        pass

    class Doomed:
        left = calls

        def __getattr__(self, name):
            call = getattr(project, name)

            def counted(*arguments, **options):
                self.left -= 1
                if self.left == 0 and not has_effect:
                    raise KilledError
                answer = call(*arguments, **options)
                if self.left == 0:
                    raise KilledError
                return answer

            return counted

    def run(store):
        chunk = [
            ready(task, "new", [prediction.id for prediction in own(store.predictions(task).stored, VERSION)])
            for task in (1, 2)
        ]
        writer = PredictionWriter(store, retry(), project.project_value)
        writer.write(chunk)
        writer.delete_duplicates(VERSION)

    with contextlib.suppress(KilledError):
        run(Doomed())
    if has_old:
        assert region_ids(project, 1)  # nothing is lost in between
    run(project)
    assert [region_ids(project, task) for task in (1, 2)] == [["new"], ["new"]]
