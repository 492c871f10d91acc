"""What users ran into with backends of this kind, each through the whole application."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backend.composition import web
from backend.segmentation.superseded_clicks import Clicks
from backend.settings import read
from model.types import Mask
from tests.support.fakes import FakeEncoder, png
from tests.support.service import IMAGE, SIZE_WH, VERSION, Service, wait_until
from tests.support.wire_bodies import CONFIG, GOLDEN, click, data_uri, encoded, recorded, rectangle, result
from tests.support.wire_reader import checked, mask_of

SIZE = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
SOON_S = 20.0


@pytest.fixture
def service():
    with Service() as service:
        yield service


@pytest.fixture
def real(tmp_path, tiny_checkpoint):
    """The service with a small random network."""
    chosen = read({"PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"), "PADDLE_SAM_DEVICE": "cpu"})
    service = web.build(chosen, tiny_checkpoint)
    yield service
    service.close()


def point(x=25.0, y=50.0, **changes):
    return result(value={"x": x, "y": y, "width": 1, "keypointlabels": ["Cat"]}, **(SIZE | changes))


def ask_in_thread(service, body, answers):
    def ask():
        answers.append(service.app.test_client().post("/predict", data=encoded(body)))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


# The request.


@pytest.mark.parametrize("params", [{"context": None}, {}, None, [], "x", 5, {"context": []}])
def test_what_is_no_click_gets_an_item_without_a_prediction_per_task_and_warms_its_image(service, params):
    body = click(params=params, tasks=[{"id": n, "data": {"image": IMAGE}} for n in (1, 2)])
    assert service.predict(body) == [[], []]
    assert service.reasons() == ["no_context"]
    wait_until(lambda: service.encoder.calls == 1)


@pytest.mark.parametrize("context", [{}, {"result": None}, {"result": []}])
def test_a_click_whose_prompt_was_deleted_gets_an_empty_item_which_the_editor_can_read(service, context):
    body = click(params={"context": context}, tasks=[{"id": 1, "data": {"image": IMAGE}}])
    assert [item["result"] for item in service.predict(body)] == [[]]
    assert service.reasons() == ["no_prompt"]
    wait_until(lambda: service.encoder.calls == 1)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"label_config": ""}, "no_label_config"), ({"label_config": None}, "no_label_config"),
    ({"label_config": "<View>"}, "bad_label_config"), ({"label_config": "<View/>"}, "no_image_tag"),
    ({"tasks": [None]}, "no_image_in_task"), ({"tasks": [7]}, "no_image_in_task"),
])  # fmt: skip
def test_a_click_that_lacks_something_is_empty_with_its_reason(service, changes, reason):
    body = click(point(), **changes)
    [item] = service.predict(body)
    assert item["result"] == []
    assert service.reasons() == [reason]


def test_a_click_without_a_project_is_answered(service):
    body = click(point())
    del body["project"]
    [item] = service.predict(body)
    assert item["result"]


@pytest.mark.parametrize("data", [None, {}, [], "", 5, {"image": None}, {"image": ""}, {"image": 5}, {"image": {}},
                                  {"image": []}, {"picture": IMAGE}, {"image": "  "}])  # fmt: skip
def test_a_task_without_an_image_is_empty_with_its_reason(service, data):
    [item] = service.predict(click(point(), tasks=[{"id": 1, "data": data}]))
    assert item["result"] == []
    assert service.reasons() == ["no_image_in_task"]


def test_one_broken_task_on_a_page_leaves_the_others_their_warm_image(service):
    service.source.contents["b"] = png((9, 9, 9))
    tasks = [{"id": 1, "data": {"image": "missing"}}, None, {"id": 3, "data": []}, {"id": 4, "data": {"image": "b"}}]
    assert len(service.predict(click(tasks=tasks, params=None))) == 4
    wait_until(lambda: service.encoder.calls == 1)


def test_a_repeaters_image_is_the_one_that_was_clicked(service):
    service.source.contents |= {"p0": png((1, 1, 1)), "p1": png((2, 2, 2), SIZE_WH)}
    config = (
        '<View><Repeater on="$pages"><Image name="page-{{idx}}" value="$pages[{{idx}}].url"/>'
        '<BrushLabels name="mask-{{idx}}" toName="page-{{idx}}"><Label value="Cat"/></BrushLabels></Repeater></View>'
    )
    pages = [{"url": "p0"}, {"url": "p1"}]
    body = click(point(to_name="page-1"), label_config=config, tasks=[{"id": 1, "data": {"pages": pages}}])
    [entry] = service.predict(body)[0]["result"]
    assert (entry["to_name"], entry["from_name"]) == ("page-1", "mask-1")
    assert service.source.fetched == ["p1"]


def test_points_in_a_rectangle_refine_it_and_it_stays_one_object(service):
    context = [rectangle(10, 10, 50, 50, **SIZE), point(20, 20, is_positive=True, id="in")]
    [entry] = service.predict(click(*context))[0]["result"]
    [prompt] = service.decoder.prompts
    assert prompt.box is not None
    assert prompt.point_labels.tolist() == [1]
    assert entry["value"]["brushlabels"] == ["Cat"]


# The answer.


@pytest.mark.parametrize(
    "output", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels", "EllipseLabels"]
)
def test_a_mask_that_touches_every_border_is_a_full_region(service, output):
    service.decoder.masks = [Mask.from_array(np.ones((60, 80), bool))]
    body = click(
        point(), label_config=CONFIG.replace("<BrushLabels", f"<{output}").replace("/BrushLabels", f"/{output}")
    )
    entry = service.predict(body)[0]["result"][0]
    wanted = 0.75 if output == "EllipseLabels" else 0.99
    assert mask_of(entry).mean() >= wanted


def test_a_mask_without_a_pixel_is_no_region(service):
    service.decoder.is_blind = True
    [item] = service.predict(click(point()))
    assert item["result"] == []
    assert service.reasons() == ["empty_mask"]


def test_a_moved_prompt_replaces_its_own_region_and_adds_none(service):
    (before,), (after,) = (service.predict(click(point(x)))[0]["result"] for x in (25, 60))
    assert before["id"] == after["id"]
    assert before["value"] != after["value"]


def test_a_score_that_is_no_number_is_left_out(service):
    service.decoder.score = float("nan")
    [item] = service.predict(click(point()))
    assert "score" not in item["result"][0]
    assert item["score"] == 0.0


# Large bodies.


def with_saved_masks(body, count, length):
    saved = {"type": "brushlabels", "value": {"format": "rle", "rle": list(range(256)) * (length // 256)}}
    annotations = [{"id": n, "result": [saved]} for n in range(count)]
    return body | {"tasks": [body["tasks"][0] | {"annotations": annotations, "drafts": annotations}]}


def test_saved_masks_change_nothing_about_an_answer(service):
    body = click(point())
    small = service.client.post("/predict", data=encoded(body))
    large = service.client.post("/predict", data=encoded(with_saved_masks(body, 20, 8192)))
    assert large.data == small.data
    assert service.metrics.recent()[0].body_bytes > 1_000_000


def test_an_event_of_megabytes_is_taken(service):
    body = recorded("webhook_annotation_created")
    body["annotation"]["result"] = [{"value": {"rle": list(range(256)) * 4000}}]
    assert service.client.post("/webhook", data=encoded(body)).status_code == 200


# Time and threads.


def test_a_click_to_which_the_annotator_has_added_meanwhile_is_not_decoded(service):
    service.encoder.gate.clear()
    answers = []
    first = ask_in_thread(service, click(point(id="a")), answers)
    wait_until(lambda: service.count("paddle_sam_waiting") == 1)
    second = ask_in_thread(service, click(point(id="a"), point(60, id="b")), answers)
    wait_until(lambda: service.count("paddle_sam_waiting") == 2)
    service.encoder.gate.set()
    for thread in (first, second):
        thread.join(SOON_S)
    assert sorted(len(answer.json["results"][0]["result"]) for answer in answers) == [0, 1]
    assert len(service.decoder.calls) == 1
    assert len(service.decoder.prompts[0].point_coords) == 2
    assert service.count("paddle_sam_reasons_total", reason="superseded") == 1


def test_clicks_of_two_annotators_on_one_task_are_both_answered(service):
    service.encoder.gate.clear()
    answers = []
    threads = [ask_in_thread(service, click(point(id=name), point(60, id=name * 2)), answers) for name in "ab"]
    wait_until(lambda: service.count("paddle_sam_waiting") == 2)
    service.encoder.gate.set()
    for thread in threads:
        thread.join(SOON_S)
    assert [len(answer.json["results"][0]["result"]) for answer in answers] == [1, 1]


def test_the_same_click_sent_twice_is_answered_twice(service):
    service.encoder.gate.clear()
    answers = []
    threads = [ask_in_thread(service, click(point()), answers) for _ in range(2)]
    wait_until(lambda: service.count("paddle_sam_waiting") == 2)
    service.encoder.gate.set()
    for thread in threads:
        thread.join(SOON_S)
    assert answers[0].data == answers[1].data
    assert answers[0].json["results"][0]["result"]
    assert service.encoder.calls == 1


def test_clicks_that_are_done_leave_nothing_behind():
    clicks = Clicks()
    with (
        clicks.enter("task", ["a"]) as first,
        clicks.enter("task", ["a", "b"]) as second,
        clicks.enter("other task", ["a", "b", "c"]),
    ):
        assert (first.is_superseded, second.is_superseded) == (True, False)
    with clicks.enter("task", ["a"]) as again:
        assert not again.is_superseded, "the clicks before are gone"
    assert len(clicks) == 0


@pytest.mark.parametrize(("earlier", "later"), [
    ([], ["a"]), (["#0"], ["#0", "#1"]), (["#0"], ["#0", "a"]), (["a"], ["a"]), (["a", "b"], ["a"]),
    (["a"], ["b", "c"]),
])  # fmt: skip
def test_only_prompts_added_to_supersede_a_click(earlier, later):
    clicks = Clicks()
    with clicks.enter("task", earlier) as first, clicks.enter("task", later):
        assert not first.is_superseded


def test_tasks_created_twice_are_encoded_once(service):
    event = encoded({
        "action": "TASKS_CREATED", "project": {"id": 1, "label_config": CONFIG},
        "tasks": [{"id": 1, "data": {"image": IMAGE}}],
    })  # fmt: skip
    for _ in range(2):
        assert service.client.post("/webhook", data=event).status_code == 200
    wait_until(lambda: service.encoder.calls == 1 and service.embeddings.ahead == 0)
    [item] = service.predict(click(point()))
    assert item["result"]
    assert service.encoder.calls == 1


def test_annotators_on_several_images_each_get_their_own(service):
    """One shared predictor that keeps its image as state gave three right answers of sixteen."""
    sizes = [(40 + 10 * n, 30 + 7 * n) for n in range(4)]
    for number, size in enumerate(sizes):
        service.source.contents[f"image-{number}"] = png((60 * number, 0, 90), size)

    def ask(number):
        width, height = sizes[number]
        context = result(original_width=width, original_height=height)
        body = click(context, tasks=[{"id": number, "data": {"image": f"image-{number}"}}])
        [item] = checked(body, service.app.test_client().post("/predict", data=encoded(body)), VERSION)
        return number, item["result"][0]

    with ThreadPoolExecutor(8) as pool:
        for number, entry in pool.map(ask, [index % 4 for index in range(32)]):
            assert mask_of(entry).shape == sizes[number][::-1]
    colours = {embedding.original_size: embedding.image_embedding[0, 0, 0] for embedding, _ in service.decoder.calls}
    assert [round(float(colours[size[::-1]]) * 255) for size in sizes] == [0, 60, 120, 180]
    assert service.encoder.calls == 4


def test_many_threads_on_warm_images_get_the_answers_of_one_alone(real):
    """A real network, shared: each answer is, byte for byte, what a single thread gets."""
    uris = [data_uri((64 + 16 * n, 96), (12 * n, 200 - 9 * n, 90)) for n in range(16)]

    def body(number):
        width = 64 + 16 * (number % 16)
        context = point(10 + 5 * (number % 16), 40 + number // 16 * 20, original_width=width, original_height=96)
        return encoded(click(context, tasks=[{"id": number, "data": {"image": uris[number % 16]}}]))

    def ask(number):
        return real.app.test_client().post("/predict", data=body(number)).data

    alone = [ask(number) for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, [*range(32), *range(32)]))
    assert together == alone * 2
    assert len(set(alone)) > 8, "answers that differ, or the comparison would prove nothing"


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 5000), (5000, 1), (10_000, 20)], ids=str)
def test_an_image_of_any_shape_is_answered(real, size_wh):
    width, height = size_wh
    body = click(
        point(original_width=width, original_height=height), rectangle(0, 0, 100, 100, id="all", **{
            "original_width": width, "original_height": height}),
        tasks=[{"id": 1, "data": {"image": data_uri(size_wh)}}],
    )  # fmt: skip
    answer = real.app.test_client().post("/predict", data=encoded(body))
    checked(body, answer, real.segmenter.model_version)
    assert set(map(str, real.metrics.recent()[0].reasons)) <= {"empty_mask"}


def test_the_recorded_photo_with_an_orientation_is_answered_as_the_browser_shows_it(real):
    body = recorded("keypoint_exif6")
    photo = (GOLDEN / "exif6_stored800x600.jpg").read_bytes()
    [key] = [key for key, value in body["tasks"][0]["data"].items() if isinstance(value, str)]
    body["tasks"][0]["data"][key] = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    answer = real.app.test_client().post("/predict", data=encoded(body))
    checked(body, answer, real.segmenter.model_version)
    assert "size_mismatch" not in map(str, real.metrics.recent()[0].reasons)


def test_a_model_that_runs_out_of_memory_once_is_none_the_worse(service):
    service.encoder.failures = [MemoryError(), MemoryError()]
    [item] = service.predict(click(point()))
    assert item["result"] == []
    assert service.reasons() == ["out_of_memory"]
    service.source.contents["other"] = png((1, 2, 3), SIZE_WH)
    [item] = service.predict(click(point(), tasks=[{"id": 2, "data": {"image": "other"}}]))
    assert item["result"]


def test_the_name_of_a_container_is_no_address_of_label_studio():
    assert read({"HOSTNAME": "3f2a9c", "HOST": "127.0.0.1"}).label_studio_url == "http://localhost:8080"


def test_answers_are_json_that_any_reader_takes(service):
    text = service.client.post("/predict", data=encoded(click(point()))).data.decode("utf-8")
    assert json.loads(text)["results"][0]["model_version"] == FakeEncoder().model_version
