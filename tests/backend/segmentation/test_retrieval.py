"""What opened tasks and "Retrieve predictions" get: masks of what tasks hold, in order, in time, and once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.embeddings.pipeline import RESERVED, THREADS
from backend.errors import Reason, RetryLater
from backend.protocol import messages
from backend.segmentation.recently_answered import DEDUP_WINDOW_S
from backend.segmentation.retrieval import HEAVY_BYTES, OpenedTaskPolicy, RetrievalPolicy
from tests.support.fakes import png
from tests.support.held_tasks import SIZE, bare, box, boxed, predicted, request
from tests.support.service import IMAGE, SIZE_WH, VERSION, Service, wait_until
from tests.support.wire_bodies import CONFIG, JUNK, RESULTS, click, encoded, result, saved, task_with

SOON_S = 20.0


class FakeLater:
    """Keeps what came too late."""

    def __init__(self):
        self.late, self.tidied = [], None

    def add(self, late):
        self.late += late

    def answered(self, project_id):
        self.tidied = project_id


@pytest.fixture
def service():
    with Service() as service:
        yield service


def answers(service, *tasks, **changes):
    """What tasks are answered, some time after everything before has settled."""
    service.clock.advance(DEDUP_WINDOW_S)
    return service.segmenter.predict(messages.parse_predict(encoded(request(*tasks, **changes))))


def images(service, *names):
    for number, name in enumerate(names):
        service.source.contents[name] = png((40 * number, 90, 0), SIZE_WH)


# What several tasks get.


def test_tasks_with_boxes_get_masks_in_their_order_and_the_others_nothing(service):
    images(service, "a", "b")
    items = service.predict(request(boxed(1, "a"), bare(2), predicted(3, "b"), boxed(4, "a")))
    assert [len(item["result"]) if item else None for item in items] == [1, None, 1, 1]
    assert [entry["value"]["brushlabels"] for item in items if item for entry in item["result"]] == [["Cat"]] * 3
    assert service.reasons() == ["no_context"]


def test_images_of_tasks_that_hold_nothing_are_encoded_ahead_as_at_their_opening(service):
    images(service, "a", "b")
    answers(service, bare(1, "a"), bare(2, "b"))
    wait_until(lambda: service.encoder.calls >= 2)
    assert service.encoder.calls == 2


def test_each_task_gets_one_decode_however_many_boxes_it_holds(service):
    images(service, "a", "b")
    answers(service, boxed(1, "a", box("second"), box("third")), boxed(2, "b"))
    assert sorted(len(prompts) for _, prompts in service.decoder.calls) == [1, 3]


def test_predictions_of_this_model_are_not_made_masks_of_again(service):
    assert service.predict(request(predicted(1, version="fake@11111111"), bare(2))) == [[], []]


def test_a_broken_image_leaves_the_other_tasks_their_masks(service):
    images(service, "a")
    predictions = answers(service, boxed(1, "missing"), boxed(2, "a"), task_with([7], task_id=3), boxed(4, ""))
    assert [bool(prediction.result) for prediction in predictions] == [False, True, False, False]
    assert [prediction.reasons for prediction in predictions] == [
        (Reason.IMAGE_NOT_FOUND,), (), (Reason.NO_CONTEXT,), (Reason.NO_IMAGE_IN_TASK,),
    ]  # fmt: skip
    assert [prediction.should_store for prediction in predictions] == [False, True, False, False]


def test_a_task_one_of_whose_images_fails_gets_no_half_prediction_to_be_kept(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    images(service, "a", "b")
    drawn = saved(box("first", item_index=0), box("second", item_index=1))
    tasks = [
        task_with([drawn], task_id=n, data={"pages": pages}) for n, pages in enumerate([["a", "missing"], ["a", "b"]])
    ]
    half, whole = answers(service, *tasks, label_config=config)
    assert (half.result, half.reasons, half.should_store) == ((), (Reason.IMAGE_NOT_FOUND,), False)
    assert [region.item_index for region in whole.result] == [0, 1]


@pytest.mark.parametrize("config", ["", "<View>", "<View/>"])
def test_with_a_config_that_cannot_be_read_every_task_keeps_its_place(service, config):
    assert service.predict(request(boxed(1), boxed(2), label_config=config)) == [[], []]


def test_a_config_that_can_hold_no_mask_is_reported(service):
    config = '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"'
    config += ' model_output="false"><Label value="Cat"/></RectangleLabels></View>'
    predictions = answers(service, boxed(1), boxed(2), label_config=config)
    assert [prediction.reasons for prediction in predictions] == [(Reason.NO_OUTPUT_CONTROL,)] * 2


def test_answers_come_in_the_tasks_order_whatever_order_they_were_made_in(service):
    names = [f"image-{n}" for n in range(12)]
    images(service, *names)
    encoded_before = [boxed(n, names[n]) for n in (3, 7, 11)]
    answers(service, *encoded_before)
    several = [boxed(n, name) for n, name in enumerate(names)]
    predictions = answers(service, *several)
    assert all(prediction.result for prediction in predictions)
    assert answers(service, *reversed(several)) == predictions[::-1]
    assert len({prediction.result[0].id for prediction in predictions}) == len(names)


HELD = st.one_of(
    JUNK,
    st.lists(
        st.one_of(
            JUNK,
            st.fixed_dictionaries(
                {"result": st.one_of(JUNK, st.lists(RESULTS, max_size=4))},
                optional={"model_version": st.one_of(JUNK, st.just("yolo")), "was_cancelled": JUNK},
            ),
        ),
        max_size=3,
    ),
)


@given(st.lists(st.tuples(HELD, HELD, st.sampled_from([IMAGE, "missing", ""])), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_tasks_hold_each_gets_a_well_formed_item(service, values):
    tasks = [
        task_with(annotations, predictions, number, {"image": uri})
        for number, (annotations, predictions, uri) in enumerate(values)
    ]
    items = service.predict(request(*tasks, project=None))
    assert len(items) == len(tasks)
    assert service.reasons() or all(items)
    assert "internal_error" not in service.reasons()


# Time.


def test_tasks_whose_images_are_encoded_are_answered_though_others_before_them_are_not():
    with Service(retrieval=RetrievalPolicy(wait_s=0.5)) as service:
        images(service, "cold", "warm")
        answers(service, boxed(1, "warm"), bare(2))
        service.encoder.gate.clear()
        predictions = answers(service, boxed(3, "cold"), boxed(4, "warm"))
        assert [bool(prediction.result) for prediction in predictions] == [False, True]


def test_what_is_not_ready_in_time_is_not_answered_and_there_the_next_time():
    with Service(retrieval=RetrievalPolicy(wait_s=0.2)) as service:
        images(service, "a", "b")
        service.encoder.gate.clear()
        assert service.predict(request(boxed(1, "a"), boxed(2, "b"))) == [[], []]
        assert set(service.reasons()) == {"budget_exceeded", "label_studio_not_configured"}
        service.encoder.gate.set()
        wait_until(lambda: service.encoder.calls == 2 and not service.embeddings.encoding)
        assert all(item["result"] for item in service.predict(request(boxed(1, "a"), boxed(2, "b"))))


def test_with_an_api_key_what_is_not_ready_in_time_is_left_to_be_stored_later():
    later = FakeLater()
    with Service(retrieval=RetrievalPolicy(wait_s=0.2), later=later) as service:
        images(service, "a", "b")
        answers(service, boxed(1, "b"), bare(9))
        service.encoder.gate.clear()
        predictions = answers(service, boxed(1, "a"), boxed(2, "b"), boxed(3, "a"))
        assert [prediction.reasons for prediction in predictions] == [
            (Reason.BUDGET_EXCEEDED,),
            (),
            (Reason.BUDGET_EXCEEDED,),
        ]
        assert [(deferred.project_id, deferred.task.id) for deferred in later.late] == [(1, 1), (1, 3)]
        assert [region.id for region in later.late[1].prompts.regions] == ["box-3"]
        assert bytes(later.late[0].task.annotations) == b"[]", "the megabytes of a task must not wait with it"


def test_what_fails_for_now_is_left_for_later():
    later = FakeLater()
    with Service(later=later) as service:
        images(service, "a")
        service.source.contents["b"] = RetryLater("no", Reason.IMAGE_FETCH_FAILED)
        predictions = answers(service, boxed(1, "b"), boxed(2, "a"))
        assert [bool(prediction.result) for prediction in predictions] == [False, True]
        assert [deferred.task.id for deferred in later.late] == [1]


def test_few_images_are_in_hand_at_a_time_however_many_tasks_are_asked_for():
    with Service(retrieval=RetrievalPolicy(wait_s=1.0)) as service:
        names = [f"image-{n}" for n in range(40)]
        images(service, *names)
        service.source.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            answering = pool.submit(answers, service, *(boxed(n, name) for n, name in enumerate(names)))
            wait_until(lambda: len(service.source.fetched) == THREADS - RESERVED, SOON_S)
            answering.result(SOON_S)
        assert len(service.source.fetched) <= THREADS - RESERVED + 1, "one more is encoded ahead, after the answer"
        service.source.gate.set()  # or the end would wait for those in hand


# One task alone.


def test_opening_a_task_on_which_an_annotator_drew_boxes_makes_no_predictions_of_them(service):
    assert service.predict(request(boxed(1))) == [[]]
    assert service.reasons() == ["no_context", "opened_task"]
    wait_until(lambda: service.encoder.calls == 1)
    assert service.predict(request(boxed(1))) == [[]], "nor once its image is encoded"


def test_the_last_task_that_the_button_asks_for_alone_gets_masks_where_it_was_pressed_before(service):
    """Label Studio leaves out tasks that have predictions: of all selected tasks one may be left."""
    service.predict(request(boxed(1), boxed(2)))
    [item] = service.predict(request(boxed(3)))
    assert len(item["result"]) == 1
    assert service.predict(request(boxed(3), project="8.1")) == [[]], "another project"


def test_pages_of_tasks_without_annotations_do_not_count_as_the_button(service):
    service.predict(request(bare(1), predicted(2)))
    assert service.predict(request(boxed(3))) == [[]]


def test_an_opened_task_with_boxes_is_not_segmented_in_the_background_either():
    later = FakeLater()
    with Service(later=later) as service:
        answers(service, boxed(1))
        assert later.late == []


def test_the_setting_lets_an_opened_task_have_masks_of_what_people_drew():
    with Service(retrieval=RetrievalPolicy(opened=OpenedTaskPolicy.ALWAYS)) as service:
        assert service.predict(request(boxed(1))) == [[]]
        wait_until(lambda: service.encoder.calls == 1 and not service.embeddings.encoding)
        [item] = service.predict(request(boxed(1)))
        assert len(item["result"]) == 1


def test_the_setting_keeps_opened_tasks_from_masks_whatever_was_asked_for_before():
    later = FakeLater()
    with Service(retrieval=RetrievalPolicy(opened=OpenedTaskPolicy.NEVER), later=later) as service:
        service.predict(request(boxed(1), boxed(2)))
        assert service.predict(request(boxed(3))) == [[]]
        assert later.late == []


def test_one_task_never_waits_for_its_image():
    later = FakeLater()
    with Service(later=later) as service:
        service.encoder.gate.clear()
        service.source.gate.clear()
        [predictions] = answers(service, predicted(1))
        assert predictions.reasons == (Reason.BUDGET_EXCEEDED,)
        assert [deferred.task.id for deferred in later.late] == [1]


def test_one_task_that_another_model_predicted_boxes_on_gets_masks_when_its_image_is_encoded(service):
    answers(service, bare(1))
    wait_until(lambda: service.encoder.calls == 1 and not service.embeddings.encoding)
    [item] = service.predict(request(predicted(1)))
    assert len(item["result"]) == 1


def test_a_task_heavy_with_masks_and_nothing_to_be_made_one_is_settled_so_that_it_is_not_sent_again(service):
    mask = result("brushlabels", {"format": "rle", "rle": [200] * (HEAVY_BYTES // 4)}, id="mask")
    heavy = task_with([saved(mask)])
    [item] = service.predict(request(heavy))
    assert item == {"result": [], "score": 0.0, "model_version": VERSION}
    assert service.predict(request(task_with([saved(mask, box())]))) == [[]], "boxes may be asked for yet"


# Once.


def test_of_two_who_press_the_button_at_once_one_gets_the_answer(service):
    """Label Studio would store both."""
    images(service, "a", "b")
    service.encoder.gate.clear()
    tasks = [boxed(1, "a"), boxed(2, "b")]
    with ThreadPoolExecutor(2) as pool:
        asked_for = messages.parse_predict(encoded(request(*tasks)))
        requests = [pool.submit(service.segmenter.predict, asked_for) for _ in range(2)]
        wait_until(lambda: service.count("paddle_sam_waiting") == 4)
        service.encoder.gate.set()
        answers_of_both = [future.result(SOON_S) for future in requests]
    for task in range(2):
        results = [answer[task] for answer in answers_of_both]
        assert sorted(len(prediction.result) for prediction in results) == [0, 1]
        assert {prediction.reasons for prediction in results} == {(), (Reason.JUST_ANSWERED,)}


def test_who_asks_again_before_label_studio_has_stored_the_answer_gets_nothing_and_later_all(service):
    tasks = [boxed(1), boxed(2)]
    first = answers(service, *tasks)
    assert service.predict(request(*tasks)) == [[], []]
    assert service.reasons() == ["just_answered"]
    assert answers(service, *tasks) == first
    assert all(prediction.result for prediction in first)


def test_callers_other_than_label_studio_are_answered_as_often_as_they_ask(service):
    both = request(boxed(1), boxed(2), project=None)
    first, second = service.predict(both), service.predict(both)
    assert first == second
    assert all(item["result"] for item in first)


def test_with_an_api_key_it_is_seen_later_that_nothing_was_stored_twice():
    later = FakeLater()
    with Service(later=later) as service:
        answers(service, bare(1), bare(2))
        assert later.tidied is None
        answers(service, boxed(1), boxed(2))
        assert later.tidied == 1


def test_tasks_without_an_id_are_all_answered(service):
    body = request(*(boxed(n) | {"id": None} for n in range(2)))
    assert all(item["result"] for item in service.predict(body))


def test_clicks_are_answered_while_many_tasks_are_waited_for(service):
    images(service, "a", "b")
    service.encoder.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(answers, service, boxed(1, "a"), boxed(2, "b"))
        wait_until(lambda: service.encoder.running.is_set())
        answered = threading.Event()

        def ask():
            [item] = service.predict(click(result(**SIZE), label_config=CONFIG))
            assert item["result"]
            answered.set()

        clicker = threading.Thread(target=ask)
        clicker.start()
        service.encoder.gate.set()
        clicker.join(SOON_S)
        assert answered.is_set()
        assert all(prediction.result for prediction in answering.result(SOON_S))
