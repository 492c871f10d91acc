"""The tasks of a project in their order, each once, whatever happens to the project meanwhile."""

import json
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.concurrency.retry import OutageRetry, Stopped
from backend.errors import RequestError
from backend.label_studio import task_filters, task_iterator
from backend.label_studio.task_filters import Condition, Selection
from backend.label_studio.task_iterator import ProjectTasks
from tests.support.fake_project import FakeProject, away


@pytest.fixture(autouse=True)
def short_pages(monkeypatch):
    monkeypatch.setattr(task_iterator, "PAGE", 4)


def listing(project, selection=None, limit=None, stop=None):
    retry = OutageRetry(stop or threading.Event(), first_wait_s=0.001)
    return ProjectTasks(project, retry, project.project_value, selection, limit)


def ids(tasks):
    return [task.id for task in tasks]


def number(column, operator, value):
    return Condition(f"filter:tasks:{column}", operator, "Number", msgspec.Raw(json.dumps(value).encode()))


def test_tasks_come_with_their_data_the_newest_first():
    tasks = list(listing(FakeProject(count=10)))
    assert ids(tasks) == list(range(10, 0, -1))
    assert tasks[0].data == {"image": "/data/upload/7/9.png"}


def test_labeled_tasks_come_last():
    project = FakeProject(count=10)
    for task in (10, 7, 6, 1, 2, 3):
        project.tasks[task].is_labeled = True
    assert ids(listing(project)) == [9, 8, 5, 4, 10, 7, 6, 3, 2, 1]


def test_an_empty_project_has_no_tasks():
    assert list(listing(FakeProject())) == []
    assert listing(FakeProject()).count() == 0


def test_a_limit_takes_the_first_ones_and_asks_for_no_more_pages_than_it_needs():
    project = FakeProject(count=100)
    tasks = listing(project, limit=3)
    assert tasks.count() == 3
    project.calls.clear()
    assert ids(tasks) == [100, 99, 98]
    assert project.calls == ["task_page"]


def test_pages_that_label_studio_shortens_are_read_to_the_end():
    project = FakeProject(count=11)
    project.longest_page = 2
    project.tasks[5].is_labeled = project.tasks[6].is_labeled = project.tasks[7].is_labeled = True
    assert ids(listing(project)) == [11, 10, 9, 8, 4, 3, 2, 1, 7, 6, 5]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 25),
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["add", "delete", "label", "unlabel"])), max_size=30),
    st.integers(1, 5),
)
def test_tasks_that_stay_come_once_whatever_is_added_deleted_or_labeled(count, changes, longest_page):
    project = FakeProject(count=count)
    project.longest_page = longest_page
    before, deleted, pending = set(project.tasks), set(), list(changes)

    def change():
        if not pending:
            return
        task, change_kind = pending.pop(0)
        if change_kind == "add":
            project.add({})
        elif task in project.tasks and change_kind == "delete":
            deleted.add(task)
            project.delete(task)
        elif task in project.tasks:
            project.tasks[task].is_labeled = change_kind == "label"

    project.before["task_page"] = change
    task_ids = ids(listing(project))
    assert len(task_ids) == len(set(task_ids))
    assert before - deleted <= set(task_ids)


def test_label_studio_may_be_away_in_between():
    project = FakeProject(count=9)
    project.failures["task_page"] = [None, away(), away(), None, away()]
    assert ids(listing(project)) == list(range(9, 0, -1))


def test_listing_stops_at_a_signal_while_label_studio_is_away():
    stop, project = threading.Event(), FakeProject(count=9)
    project.failures["task_page"] = [None, away()]
    tasks = iter(listing(project, stop=stop))
    assert ids(next(tasks) for _ in range(4)) == [9, 8, 7, 6]
    stop.set()
    with pytest.raises(Stopped):
        next(tasks)


def test_a_selection_narrows_every_page():
    selection = Selection((number("id", "less", 9), number("id", "greater", 2)))
    tasks = listing(FakeProject(count=12), selection)
    assert ids(tasks) == [8, 7, 6, 5, 4, 3]
    assert tasks.count() == 6


def test_a_view_that_joins_with_or_is_paged_all_the_same():
    project = FakeProject(count=20)
    project.tasks[12].is_labeled = project.tasks[19].is_labeled = True
    selection = Selection((number("id", "less", 7), number("id", "greater", 10)), is_any=True)
    expected = [*(task for task in range(20, 10, -1) if task not in (12, 19)), *range(6, 0, -1), 19, 12]
    assert ids(listing(project, selection)) == expected


def test_an_or_of_one_condition_is_narrowed_like_any_other():
    selection = Selection((number("id", "less", 7),), is_any=True)
    assert selection.and_also(number("id", "greater", 3)) == Selection(
        (number("id", "less", 7), number("id", "greater", 3))
    )


def test_an_or_with_filters_below_its_filters_is_refused():
    child = number("id", "less", 3)
    nested = Condition("filter:tasks:id", "greater", "Number", msgspec.Raw(b"1"), child)
    with pytest.raises(RequestError, match="cannot be narrowed down"):
        Selection((nested, child), is_any=True).and_also(child)


def test_a_view_is_read_and_written_as_label_studio_has_it():
    items = [
        {"filter": "filter:tasks:data.city", "operator": "in", "type": "Number", "value": {"min": 1, "max": 2}},
        {
            "filter": "filter:tasks:id",
            "operator": "less",
            "type": "Number",
            "value": 9,
            "child_filter": {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": 1},
        },
    ]
    raw = msgspec.Raw(json.dumps({"conjunction": "or", "items": items}).encode())
    written = json.loads(task_filters.dump(task_filters.read_view(raw)))
    assert written == {"filters": {"conjunction": "or", "items": items}, "ordering": ["-tasks:id"]}


def test_a_view_without_filters_shows_everything():
    assert task_filters.read_view(msgspec.Raw(b"null")) == Selection()
    assert json.loads(task_filters.dump(Selection())) == {"ordering": ["-tasks:id"]}


@pytest.mark.parametrize("raw", [b"[]", b"3", b'{"items": [{"filter": 3}]}'])
def test_a_view_of_another_form_is_refused(raw):
    with pytest.raises(RequestError, match="cannot be read"):
        task_filters.read_view(msgspec.Raw(raw))


def test_certain_tasks_are_asked_for_by_id():
    assert json.loads(task_filters.dump(Selection(), [3, 1]))["selectedItems"] == {"all": False, "included": [1, 3]}
