"""The use cases: clicks, opened tasks, what is warmed up, and that every failure is an empty answer with a reason."""

import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.protocol import messages, rle
from backend.segmentation import pipeline
from backend.segmentation.decoding import MaskService, at_size, check_size
from backend.segmentation.service import ClickPolicy
from backend.segmentation.shape_prompts import ROUGH_SIDE
from backend.shapes import Bitmask, Brush, Polygon, ShapeKind
from backend.types import SetupRequest, WebhookEvent
from model.errors import CapabilityError
from model.types import Mask
from tests.support.fakes import embedding, png
from tests.support.orientation_files import plain, with_exif
from tests.support.service import IMAGE, SIZE_WH, VERSION, FakeDecoder, FakeNextTasks, Service, tasks, wait_until
from tests.support.wire_bodies import CONFIG, click, encoded, recorded, rectangle, result

SOON_S = 10.0


@pytest.fixture
def service():
    with Service() as service:
        yield service


def click_request(*results, **changes):
    return messages.parse_predict(encoded(click(*results, **changes)))


def opened(*, ids=(1,), uri=IMAGE, project="7.1795"):
    tasks = [{"id": task_id, "data": {"image": uri}} for task_id in ids]
    return click_request(tasks=tasks, params={"context": None}, project=project)


def point(x=25.0, y=50.0, **changes):
    """A positive point on an image of the size that the fake source serves."""
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    return result(value={"x": x, "y": y, "width": 1, "keypointlabels": ["Cat"]}, **(size | changes))


def box(x, y, width, height, **changes):
    return rectangle(x, y, width, height, **({"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]} | changes))


def test_a_click_becomes_a_region(service):
    [answer] = service.segmenter.predict(click_request(point(25, 50)))
    [region] = answer.result
    assert (region.control, region.type, region.to_name, region.labels) == ("brush", "brushlabels", "image", ("Cat",))
    assert region.original_size == (60, 80)
    assert answer.model_version == VERSION
    assert answer.score == region.score == 0.875
    assert answer.reasons == ()


def test_prompts_reach_the_decoder_in_pixels_of_the_image(service):
    service.segmenter.predict(click_request(point(25, 50)))
    [prompt] = service.decoder.prompts
    assert prompt.point_coords.tolist() == [[20.0, 30.0]]
    assert service.encoder.sizes == [(60, 80)]


def test_several_rectangles_are_several_objects_in_one_decode(service):
    boxes = [box(10, 10, 20, 20, id="one"), box(60, 60, 20, 20, id="two"), box(10, 60, 20, 20, id="three")]
    [answer] = service.segmenter.predict(click_request(*boxes))
    assert len(answer.result) == 3
    assert len({region.id for region in answer.result}) == 3
    assert [len(prompts) for _, prompts in service.decoder.calls] == [3]


def test_images_of_two_names_are_answered_each_on_its_own(service):
    config = CONFIG.replace("</View>", '<Image name="other" value="$second"/>'
                            '<Brush name="paint" toName="other"/></View>')  # fmt: skip
    service.source.contents["second"] = png((0, 0, 250), (40, 40))
    body = click(
        point(id="a"),
        point(id="b", to_name="other", original_width=40, original_height=40),
        label_config=config,
        tasks=[{"id": 1, "data": {"image": IMAGE, "second": "second"}}],
    )
    [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
    answered = [(region.to_name, region.control, region.original_size) for region in answer.result]
    assert answered == [("image", "brush", (60, 80)), ("other", "paint", (40, 40))]


def test_an_image_that_fails_leaves_the_others_their_answer(service):
    config = CONFIG.replace("</View>", '<Image name="other" value="$second"/>'
                            '<Brush name="paint" toName="other"/></View>')  # fmt: skip
    body = click(
        point(id="a"), point(id="b", to_name="other"), label_config=config,
        tasks=[{"id": 1, "data": {"image": IMAGE, "second": "missing"}}],
    )  # fmt: skip
    [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
    assert [region.to_name for region in answer.result] == ["image"]
    assert answer.reasons == (Reason.IMAGE_NOT_FOUND,)


def test_a_click_on_a_list_of_images_is_answered_on_its_item(service):
    service.source.contents["second"] = png((0, 0, 250), (40, 40))
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    body = click(
        point(item_index=1, original_width=40, original_height=40),
        label_config=config,
        tasks=[{"id": 1, "data": {"pages": [IMAGE, "second"]}}],
    )
    [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
    assert service.source.fetched == ["second"]
    assert [region.item_index for region in answer.result] == [1]


def test_an_item_that_is_not_there_has_its_reason(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    body = click(point(item_index=5), label_config=config, tasks=[{"id": 1, "data": {"pages": [IMAGE]}}])
    [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
    assert (answer.result, answer.reasons) == ((), (Reason.ITEM_INDEX_OUT_OF_RANGE,))


def test_a_browser_that_shows_a_scaled_copy_gets_masks_of_its_size(service):
    [answer] = service.segmenter.predict(click_request(point(original_width=161, original_height=121)))
    assert [region.original_size for region in answer.result] == [(121, 161)]
    assert service.decoder.prompts[0].point_coords.tolist() == [[161 / 4, 121 / 2]]


def test_a_browser_that_shows_another_picture_gets_none(service):
    [answer] = service.segmenter.predict(click_request(point(original_width=60, original_height=80)))
    assert (answer.result, answer.reasons) == ((), (Reason.SIZE_MISMATCH,))


@pytest.mark.parametrize(("kind", "stored"), [("WebP", 6), ("WebP", 8), ("WebP", 5), ("JPEG", 6), ("PNG", 7)])
def test_a_browser_that_turns_a_photo_the_other_way_gets_masks_of_what_it_shows(service, kind, stored):
    """Chromium turns JPEG and PNG, not WebP: 48 x 32 as stored. A click whose size fits only the other way is right."""
    service.source.contents[IMAGE] = with_exif(kind, plain(stored))
    width, height = (32, 48) if kind == "WebP" else (48, 32)
    shown_size = {"original_width": width, "original_height": height}
    [answer] = service.segmenter.predict(
        click_request(box(50, 0, 25, 50, **shown_size), box(0, 75, 25, 25, id="b", **shown_size))
    )
    assert [region.original_size for region in answer.result] == [(height, width)] * 2
    for region, (x, y) in zip(answer.result, ((0.625, 0.25), (0.125, 0.875)), strict=True):
        middle = np.argwhere(rle.decode(region.shape.rle, (height, width)).to_array()).mean(axis=0)
        assert middle == pytest.approx((y * height, x * width), abs=2), "where the annotator drew it"
    assert service.decoder.calls[0][0].original_size == (width, height), "the embedding stays as it was made"
    assert service.encoder.calls == 1


def test_the_same_file_clicked_on_in_two_browsers_is_encoded_once(service):
    service.source.contents[IMAGE] = with_exif("WebP", plain(6))
    for width, height in ((48, 32), (32, 48), (320, 480)):
        [answer] = service.segmenter.predict(click_request(point(original_width=width, original_height=height)))
        assert [region.original_size for region in answer.result] == [(height, width)]
    assert service.encoder.calls == 1


@pytest.mark.parametrize("stored", [1, 2, 3, 4])
def test_orientations_that_keep_the_sides_are_no_reason_to_take_another_size(service, stored):
    service.source.contents[IMAGE] = with_exif("WebP", plain(stored))
    [answer] = service.segmenter.predict(click_request(point(original_width=32, original_height=48)))
    assert answer.reasons == (Reason.SIZE_MISMATCH,)


def test_a_caller_that_gives_no_size_gets_masks_of_the_images_own(service):
    [answer] = service.segmenter.predict(click_request(point(original_width=..., original_height=...)))
    assert [region.original_size for region in answer.result] == [(60, 80)]
    assert service.decoder.prompts[0].point_coords.tolist() == [[20.0, 30.0]]


def test_a_prompt_that_names_no_image_is_answered_with_the_name_of_the_only_one(service):
    [answer] = service.segmenter.predict(click_request(point(to_name="")))
    assert [region.to_name for region in answer.result] == ["image"]


def test_a_copy_scaled_down_to_a_pixel_still_counts_as_one():
    assert at_size(embedding(original_size=(1000, 2000)), (1, 2)).original_size == (1, 2)


@pytest.mark.parametrize(
    ("photo", "shown"),
    [
        ((1000, 2000), (500, 1000)),
        ((30, 40), (3, 4)),
        ((10000, 20), (100, 1)),
        ((5000, 3), (2500, 2)),
        ((7, 7), (1, 1)),
    ],
)
def test_a_copy_scaled_down_is_one_however_its_sides_were_rounded(photo, shown):
    assert at_size(embedding(original_size=photo), shown).original_size == shown


@pytest.mark.parametrize(
    ("photo", "shown"),
    [
        ((60, 80), (4500, 6000)),  # a thumbnail is fetched, the browser shows a camera's picture
        ((3000, 4000), (6000, 8000)),
        ((12000, 12000), (12000, 12000)),
        ((20000, 20000), (20000, 20000)),
        ((20000, 20000), (10000, 10000)),
    ],
)
def test_a_size_that_a_browser_may_well_show_is_taken(photo, shown):
    assert at_size(embedding(original_size=photo), shown).original_size == shown


@pytest.mark.parametrize(
    ("photo", "shown"),
    [((60, 80), (12000, 16000)), ((3000, 4000), (6300, 8400)), ((3000, 4000), (12000, 16000)), ((1, 1), (6000, 6000))],
)
def test_a_size_many_times_the_photos_is_refused_though_the_proportions_are_right(photo, shown):
    with pytest.raises(ImageError, match=r"has .* pixels.*shows .*expected at most") as caught:
        at_size(embedding(original_size=photo), shown)
    assert caught.value.reason is Reason.SIZE_MISMATCH


def test_no_size_beyond_the_limit_of_pictures_is_taken_but_a_photos_own():
    photo = embedding(original_size=(300, 400))
    assert check_size(photo, (600, 800), 480_000) == check_size(photo, (300, 400), 100) == 1
    with pytest.raises(ImageError, match="expected at most 479,999") as caught:
        check_size(photo, (600, 800), 479_999)
    assert caught.value.reason is Reason.SIZE_MISMATCH


def test_the_limit_of_pictures_holds_for_what_a_click_says(service):
    segmenter = service.segmenting(policy=ClickPolicy(wait_s=SOON_S, max_pixels=20_000))
    [answer] = segmenter.predict(click_request(point(original_width=160, original_height=120)))
    assert len(answer.result) == 1
    [answer] = segmenter.predict(click_request(point(original_width=240, original_height=180)))
    assert (answer.result, answer.reasons) == ((), (Reason.SIZE_MISMATCH,))


@pytest.mark.parametrize("size", [(2000, 1000), (1000, 1950), (500, 1050), (1, 1_000_000), (1_000_000, 1)])
def test_a_size_that_no_scaling_explains_is_named_with_both(size):
    with pytest.raises(ImageError, match=r"2000 x 1000 pixels.*browser shows") as caught:
        at_size(embedding(original_size=(1000, 2000)), size)
    assert caught.value.reason is Reason.SIZE_MISMATCH


def test_a_click_that_takes_too_long_is_empty_and_the_next_one_is_warm():
    with Service(policy=ClickPolicy(wait_s=0.05)) as service:
        service.encoder.gate.clear()
        [answer] = service.segmenter.predict(click_request(point()))
        assert (answer.result, answer.reasons) == ((), (Reason.BUDGET_EXCEEDED,))
        service.encoder.gate.set()
        wait_until(lambda: service.embeddings.encoding == 0)
        [answer] = service.segmenter.predict(click_request(point()))
        assert len(answer.result) == 1
        assert service.encoder.calls == 1


def test_the_budget_is_one_for_all_images_of_a_click(service):
    class Slow:
        def __init__(self):
            self.deadlines = []

        def get(self, ref, within_s, priority):
            self.deadlines.append(within_s)
            threading.Event().wait(0.02)
            raise RetryLater("not yet")

    slow = Slow()
    segmenter = service.segmenting(embeddings=slow, policy=ClickPolicy(wait_s=0.05))
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    points = [point(item_index=index, id=f"p{index}") for index in range(8)]
    segmenter.predict(
        click_request(*points, label_config=config, tasks=[{"id": 1, "data": {"pages": list("abcdefgh")}}])
    )
    assert slow.deadlines[0] <= 0.05
    assert slow.deadlines == sorted(slow.deadlines, reverse=True)
    assert slow.deadlines[-1] == 0.0


class ForgetfulDecoder:
    """Answers as `FakeDecoder` does, and keeps of its calls only how much of each was in memory.

    Attributes:
        drawn: how many drawn masks there were at each call, those of earlier calls included.
        drawn_bytes: how much memory they took.
        takes_s: how long each call takes.
        before: is called at the beginning of each call.
    """

    def __init__(self):
        self.model_version, self.takes_s, self.before = VERSION, 0.0, lambda: None
        self.drawn, self.drawn_bytes = [], []
        self._masks = weakref.WeakSet()

    def wait(self, within_s):
        """It is loaded."""

    def decode(self, embedding, prompts, multimask_output=None):
        self.before()
        for prompt in prompts:
            self._masks.add(prompt)
        drawn = [prompt.rough_mask.nbytes for prompt in self._masks if prompt.rough_mask is not None]
        self.drawn.append(len(drawn))
        self.drawn_bytes.append(sum(drawn))
        time.sleep(self.takes_s)
        return FakeDecoder().decode(embedding, prompts)


def polygons(count, **changes):
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]} | changes
    value = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["Cat"]}
    return [result("polygonlabels", value, id=f"polygon-{number}", **size) for number in range(count)]


def forgetful(service, **policy):
    decoder = ForgetfulDecoder()
    service.drawing = MaskService(lambda _: decoder, service.metrics, decodes_at_once=4)
    return decoder, service.segmenting(policy=ClickPolicy(**policy))


@pytest.mark.parametrize("size_wh", [SIZE_WH, (6400, 4800)])
def test_a_click_of_many_areas_holds_few_bytes_of_them_drawn_whatever_size_the_browser_shows(service, size_wh):
    decoder, segmenter = forgetful(service)
    [answer] = segmenter.predict(click_request(*polygons(18, original_width=size_wh[0], original_height=size_wh[1])))
    assert (len(answer.result), answer.reasons) == (18, ())
    assert max(decoder.drawn) == 18
    assert max(decoder.drawn_bytes) <= 18 * ROUGH_SIDE**2


def test_a_click_of_more_areas_than_there_is_time_for_gets_those_that_were_done(service):
    decoder, segmenter = forgetful(service, wait_s=0.5)
    service.segmenter.predict(click_request(point()))
    decoder.takes_s = 0.6
    [answer] = segmenter.predict(click_request(*polygons(50)))
    assert (len(answer.result), answer.reasons) == (pipeline.BATCH, (Reason.BUDGET_EXCEEDED,))


def test_a_click_whose_turn_at_the_decoder_does_not_come_in_time_is_empty_with_the_reason(service):
    service.drawing = MaskService(lambda _: service.decoder, service.metrics, decodes_at_once=1)
    segmenter = service.segmenting(policy=ClickPolicy(wait_s=0.2))
    service.segmenter.predict(click_request(point()))
    started = time.monotonic()
    with service.drawing.slots:
        [answer] = segmenter.predict(click_request(point()))
    assert time.monotonic() - started < 2
    assert (answer.result, answer.reasons) == ((), (Reason.BUDGET_EXCEEDED,))
    [answer] = segmenter.predict(click_request(point()))
    assert len(answer.result) == 1


def test_a_click_of_many_areas_whose_next_turn_does_not_come_in_time_gets_those_that_were_done(service):
    decoder, segmenter = forgetful(service, wait_s=1.0)
    limiter = service.drawing.slots = FifoLimiter(1)
    service.segmenter.predict(click_request(point()))

    def hold():
        with limiter:
            time.sleep(1.5)

    def come_in_between():
        if not other.ident:
            other.start()
            time.sleep(0.1)  # until it waits for its turn

    other = threading.Thread(target=hold)
    decoder.before = come_in_between
    [answer] = segmenter.predict(click_request(*polygons(50)))
    other.join()
    assert (len(answer.result), answer.reasons) == (pipeline.BATCH, (Reason.BUDGET_EXCEEDED,))


def test_a_click_that_comes_before_the_decoder_is_loaded_is_empty_when_its_time_is_up(service):
    def not_yet(within_s):
        waited.append(within_s)
        raise RetryLater("loading", Reason.MODEL_NOT_READY)

    waited = []
    service.decoder.wait = not_yet
    service.drawing = MaskService(lambda _: service.decoder, service.metrics, decodes_at_once=1)
    segmenter = service.segmenting(policy=ClickPolicy(wait_s=5.0))
    [answer] = segmenter.predict(click_request(point()))
    assert (answer.result, answer.reasons) == ((), (Reason.MODEL_NOT_READY,))
    assert 0 < waited[0] <= 5.0
    with service.drawing.slots.slot(0.0):
        pass  # the slot is free


@pytest.mark.parametrize("is_refined", [False, True])
@pytest.mark.parametrize("size_wh", [(8000, 8000), (16000, 12000)])
def test_a_size_that_is_not_the_photos_is_refused_before_anything_is_drawn_of_it(service, size_wh, is_refined):
    claimed = {"original_width": size_wh[0], "original_height": size_wh[1]}
    code = huge_mask(size_wh)
    brush = result("brushlabels", {"format": "rle", "rle": code, "brushlabels": ["Cat"]}, id="brush", **claimed)
    inside = [result(id="inside", **claimed)] if is_refined else []
    request = click_request(*polygons(2, **claimed), brush, *inside)
    service.segmenter.predict(click_request(point()))
    tracemalloc.start()
    try:
        [answer] = service.segmenter.predict(request)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.result, answer.reasons) == ((), (Reason.SIZE_MISMATCH,))
    assert peak < 16_000_000


def huge_mask(size_wh):
    """The code of a mask of which the first 100 rows are painted."""
    return list(rle.encode(Mask(np.ones((100, size_wh[0]), bool), (0, 0), size_wh[::-1])))


def test_a_painted_prompt_is_refined_by_the_points_that_lie_in_it(service):
    painted = list(rle.encode(Mask(np.ones((30, 40), bool), (0, 0), SIZE_WH[::-1])))
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    brush = result("brushlabels", {"format": "rle", "rle": painted, "brushlabels": ["Cat"]}, id="brush", **size)
    service.segmenter.predict(click_request(brush, point(10, 10, id="in"), point(90, 90, id="out")))
    first, second = service.decoder.prompts
    assert (first.rough_mask.sum(), first.point_coords[-1].tolist()) == (1200, [8.0, 6.0])
    assert (second.rough_mask, second.point_coords.tolist()) == (None, [[72.0, 54.0]])


def test_an_empty_painting_has_the_reason_that_there_is_no_prompt(service):
    nothing = list(rle.encode(Mask(np.zeros((0, 0), bool), (0, 0), SIZE_WH[::-1])))
    size = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
    brush = result("brushlabels", {"format": "rle", "rle": nothing, "brushlabels": ["Cat"]}, **size)
    [answer] = service.segmenter.predict(click_request(brush))
    assert (answer.result, answer.reasons) == ((), (Reason.NO_PROMPT,))


@pytest.mark.parametrize("error", [
    ImageError("no", Reason.IMAGE_UNREADABLE), AccessError("no"), RetryLater("no", Reason.IMAGE_FETCH_FAILED),
])  # fmt: skip
def test_an_image_that_cannot_be_had_is_an_empty_answer_with_its_reason(service, error):
    service.source.contents[IMAGE] = error
    [answer] = service.segmenter.predict(click_request(point()))
    assert (answer.result, answer.score, answer.reasons) == ((), 0.0, (error.reason,))


def test_a_defect_is_an_empty_answer_and_its_traceback_is_logged(service, caplog):
    service.decoder.masks = [Mask(np.ones((1, 1), bool), (0, 0), (1, 1))]  # of another size than was asked for
    [answer] = service.segmenter.predict(click_request(point()))
    assert (answer.result, answer.reasons) == ((), (Reason.INTERNAL_ERROR,))
    assert "Traceback" in caplog.text
    service.decoder.masks = None
    [answer] = service.segmenter.predict(click_request(point()))
    assert len(answer.result) == 1


def test_a_decode_that_fails_is_an_empty_answer_and_its_traceback_is_logged(service, caplog):
    service.decoder.failures.append(ZeroDivisionError("a slip"))
    [answer] = service.segmenter.predict(click_request(point()))
    assert (answer.result, answer.reasons) == ((), (Reason.DECODE_FAILED,))
    assert "Traceback" in caplog.text
    assert "a slip" in caplog.text
    [answer] = service.segmenter.predict(click_request(point()))
    assert len(answer.result) == 1


def test_weights_that_cannot_take_a_prompt_say_so(service):
    service.decoder.failures.append(CapabilityError("fake cannot take boxes"))
    [answer] = service.segmenter.predict(click_request(box(10, 10, 20, 20)))
    assert (answer.result, answer.reasons) == ((), (Reason.UNSUPPORTED_PROMPT,))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("ResourceExhaustedError: out of memory on GPU 0")])
def test_a_decode_without_memory_says_so_and_the_next_one_works(service, error):
    service.decoder.failures.append(error)
    [answer] = service.segmenter.predict(click_request(point()))
    assert (answer.result, answer.reasons) == ((), (Reason.OUT_OF_MEMORY,))
    [answer] = service.segmenter.predict(click_request(point()))
    assert len(answer.result) == 1


def test_an_empty_mask_is_no_region_and_says_so(service):
    service.decoder.is_blind = True
    [answer] = service.segmenter.predict(click_request(point()))
    assert (answer.result, answer.reasons) == ((), (Reason.EMPTY_MASK,))


def test_weights_without_a_score_give_regions_without_one(service):
    service.decoder.score = None
    [answer] = service.segmenter.predict(click_request(point()))
    assert [region.score for region in answer.result] == [None]
    assert answer.score == 0.0


def test_prompts_left_out_are_reported_beside_those_that_were_used(service):
    wrong = result(value={"x": None, "y": 3}, id="bad")
    [answer] = service.segmenter.predict(click_request(point(), wrong))
    assert len(answer.result) == 1
    assert answer.reasons == (Reason.BAD_GEOMETRY,)


def test_of_prompts_that_mark_nothing_each_has_its_reason(service):
    [answer] = service.segmenter.predict(click_request(point(250, 50), result("choices", {"choices": ["a"]}, id="c")))
    assert answer.result == ()
    assert set(answer.reasons) == {Reason.OUTSIDE_IMAGE, Reason.NOT_A_PROMPT}


def test_a_defect_in_warming_up_leaves_the_answer_alone(service, caplog):
    class Broken:
        def next_tasks(self, project_id, after_task_id, count):
            raise AssertionError("is only asked in the background")

    class Closed:
        def submit(self, job):
            raise RuntimeError("closed")

    segmenter = service.segmenting(background=Closed(), next_tasks=Broken())
    [answer] = segmenter.predict(click_request(point()))
    assert len(answer.result) == 1
    [answer] = segmenter.predict(opened())
    assert answer.reasons == (Reason.NO_CONTEXT,)
    assert "RuntimeError: closed" in caplog.text


def test_prompts_that_mark_nothing_do_not_wait_for_the_image(service):
    service.encoder.gate.clear()
    [answer] = service.segmenter.predict(click_request(point(is_positive=False)))
    assert answer.reasons == (Reason.ONLY_NEGATIVE_POINTS,)


def test_a_config_that_can_hold_no_answer_is_reported_without_an_encode(service):
    config = '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image"/></View>'
    [answer] = service.segmenter.predict(click_request(point(), label_config=config))
    assert answer.reasons == (Reason.NO_OUTPUT_CONTROL,)
    assert service.encoder.calls == 0


@pytest.mark.parametrize(("preference", "kind"), [
    ((), Brush), ((ShapeKind.POLYGON,), Polygon), ((ShapeKind.BITMASK, ShapeKind.BRUSH), Bitmask),
])  # fmt: skip
def test_the_preferred_of_several_outputs_answers(preference, kind):
    extra = ('<PolygonLabels name="poly" toName="image"><Label value="Cat"/></PolygonLabels>'
             '<BitmaskLabels name="bit" toName="image"><Label value="Cat"/></BitmaskLabels></View>')  # fmt: skip
    with Service(policy=ClickPolicy(wait_s=SOON_S, output_preference=preference)) as service:
        request = click_request(point(), label_config=CONFIG.replace("</View>", extra))
        [answer] = service.segmenter.predict(request)
        assert [type(region.shape) for region in answer.result] == [kind]


def test_a_preference_is_an_order_and_rules_nothing_out():
    with Service(policy=ClickPolicy(wait_s=SOON_S, output_preference=(ShapeKind.POLYGON,))) as service:
        config = ('<View><Image name="image" value="$image"/>'
                  '<VectorLabels name="path" toName="image"><Label value="Cat"/></VectorLabels></View>')  # fmt: skip
        for words in (CONFIG, config):
            [answer] = service.segmenter.predict(click_request(point(), label_config=words))
            assert len(answer.result) == 1


def test_a_click_without_a_task_is_one_empty_answer(service):
    [answer] = service.segmenter.predict(click_request(point(), tasks=[]))
    assert answer.reasons == (Reason.NO_IMAGE_IN_TASK,)


def test_a_click_on_several_tasks_answers_the_first_and_keeps_every_place(service):
    tasks = [{"id": n, "data": {"image": IMAGE}} for n in (1, 2, 3)]
    answers = service.segmenter.predict(click_request(point(), tasks=tasks))
    assert [len(answer.result) for answer in answers] == [1, 0, 0]


def test_the_same_prompts_give_the_same_answer(service):
    first, second = (service.segmenter.predict(click_request(point())) for _ in range(2))
    assert first == second


def test_an_opened_task_is_answered_at_once_and_encoded_meanwhile(service):
    service.encoder.gate.clear()
    [answer] = service.segmenter.predict(opened())
    assert (answer.result, answer.score, answer.reasons) == ((), 0.0, (Reason.NO_CONTEXT,))
    service.encoder.gate.set()
    wait_until(lambda: service.encoder.calls == 1)


def test_a_page_of_tasks_is_answered_in_order_and_encoded_meanwhile(service):
    service.source.contents["b"] = png((0, 0, 250))
    tasks = [{"id": 1, "data": {"image": IMAGE}}, {"id": 2, "data": None}, {"id": 3, "data": {"image": "b"}}]
    answers = service.segmenter.predict(click_request(tasks=tasks, params=None))
    assert [answer.reasons for answer in answers] == [(Reason.NO_CONTEXT,)] * 3
    wait_until(lambda: service.encoder.calls == 2)


def test_an_opened_task_with_a_config_that_cannot_be_read_is_answered_all_the_same(service):
    [answer] = service.segmenter.predict(click_request(params=None, label_config="<View>"))
    assert answer.reasons == (Reason.NO_CONTEXT,)


def test_a_prompt_that_was_deleted_is_distinguished_from_an_opened_task(service):
    [answer] = service.segmenter.predict(click_request())
    assert answer.reasons == (Reason.NO_PROMPT,)


def test_the_next_tasks_follow_an_opened_one_and_no_answer_waits_for_that():
    source = FakeNextTasks(tasks("b", "c", "d", "e", first=2))
    with Service(next_tasks=source) as service:
        for task_id, name in enumerate("bcde"):
            service.source.contents[name] = png((task_id * 50, 0, 250))
        service.segmenter.predict(opened())
        assert source.calls == []
        service.background.run()
        assert source.calls == [(7, 1, 3)]
        wait_until(lambda: service.encoder.calls == 4)
        assert set(service.source.fetched) == {IMAGE, "b", "c", "d"}


def test_the_next_tasks_follow_a_click():
    source = FakeNextTasks(tasks("b", first=2))
    with Service(next_tasks=source) as service:
        service.source.contents["b"] = png((0, 0, 250))
        service.segmenter.predict(click_request(point()))
        service.background.run()
        assert source.calls == [(1, 1, 3)]
        wait_until(lambda: service.encoder.calls == 2)


def test_many_clicks_on_one_task_ask_for_the_next_tasks_once():
    source = FakeNextTasks(tasks("b", first=2))
    with Service(next_tasks=source) as service:
        for _ in range(5):
            service.segmenter.predict(click_request(point()))
            service.background.run()
        assert len(source.calls) == 1


def test_without_an_api_key_nothing_is_asked_of_label_studio(service):
    service.segmenter.predict(opened())
    service.segmenter.predict(click_request(point()))
    assert service.background.waiting == []


def test_no_next_tasks_are_asked_for_where_the_setting_says_none():
    source = FakeNextTasks()
    with Service(next_tasks=source, policy=ClickPolicy(prefetch_tasks=0)) as service:
        service.segmenter.predict(opened())
        assert service.background.waiting == []


def test_whole_pages_do_not_ask_for_the_next_tasks():
    with Service(next_tasks=FakeNextTasks()) as service:
        service.segmenter.predict(opened(ids=(1, 2)))
        assert service.background.waiting == []


def test_next_tasks_that_cannot_be_had_harm_nothing():
    source = FakeNextTasks(error=RetryLater("down", Reason.LABEL_STUDIO_UNREACHABLE))
    with Service(next_tasks=source) as service:
        service.segmenter.predict(click_request(point()))
        service.background.run()
        [answer] = service.segmenter.predict(click_request(point()))
        assert len(answer.result) == 1


def test_created_tasks_are_encoded_ahead(service):
    service.segmenter.webhook(WebhookEvent("TASKS_CREATED", 1, CONFIG, tasks(IMAGE)))
    wait_until(lambda: service.encoder.calls == 1)
    service.encoder.gate.clear()
    [answer] = service.segmenter.predict(click_request(point()))
    assert len(answer.result) == 1


def test_other_events_encode_nothing(service):
    for action in ("ANNOTATION_CREATED", "TASKS_DELETED", "PROJECT_UPDATED", ""):
        service.segmenter.webhook(WebhookEvent(action, 1, CONFIG, tasks(IMAGE)))
    assert service.embeddings.ahead == 0
    assert service.source.fetched == []


def test_what_a_config_lacks_is_noted_until_it_is_put_right(service):
    poor = '<View><Image name="image" value="$image"/></View>'
    service.segmenter.setup(SetupRequest(3, poor))
    assert service.metrics.configs.by_project()[3]
    service.segmenter.setup(SetupRequest(3, CONFIG))
    assert service.metrics.configs.by_project()[3] == ()


@pytest.mark.parametrize("config", ["", "<View>", "<View/>", "not xml"])
def test_a_config_that_cannot_be_read_is_noted_in_one_line(service, config):
    service.segmenter.setup(SetupRequest(3, config))
    [problem] = service.metrics.configs.by_project()[3]
    assert problem.startswith("label_config: expected")


def test_a_config_of_any_output_that_is_answered_is_not_complained_about():
    config = ('<View><Image name="image" value="$image"/><VectorLabels name="path" toName="image" smart="false">'
              '<Label value="Cat"/></VectorLabels><KeyPointLabels name="point" toName="image" smart="true">'
              '<Label value="Cat"/></KeyPointLabels></View>')  # fmt: skip
    with Service(policy=ClickPolicy(output_preference=(ShapeKind.BRUSH,))) as service:
        service.segmenter.setup(SetupRequest(3, config))
        assert service.metrics.configs.by_project()[3] == ()


def test_stages_of_a_click_are_timed(service):
    service.client.post("/predict", data=encoded(click(point())))
    [note] = service.metrics.recent()
    assert {"receive", "embedding", "decoder", "rle", "total"} == set(note.stages_ms)


def test_drawing_anything_but_a_brush_is_timed_as_such(service):
    config = CONFIG.replace("BrushLabels", "PolygonLabels")
    service.client.post("/predict", data=encoded(click(point(), label_config=config)))
    [note] = service.metrics.recent()
    assert "postprocess" in note.stages_ms
    assert "rle" not in note.stages_ms


def test_the_recorded_clicks_on_one_image_share_its_embedding(service):
    names = ("keypoint", "keypoints_two_positive", "keypoints_with_negative", "rectangle")
    bodies = [recorded(name) for name in names]
    for body in bodies:
        [uri] = [value for value in body["tasks"][0]["data"].values() if isinstance(value, str)]
        service.source.contents[uri] = png(size_wh=(800, 600))
    for body in bodies:
        [answer] = service.segmenter.predict(messages.parse_predict(encoded(body)))
        assert answer.result
    assert service.encoder.calls == 1
    assert np.ptp([embedding.original_size for embedding, _ in service.decoder.calls], axis=0).tolist() == [0, 0]
