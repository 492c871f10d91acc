"""One prediction per task: all its prompts, all its images, a bounded number of objects at a time."""

import math
import time

import numpy as np
import pytest

from backend.concurrency.fifo_limiter import FifoLimiter
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.labeling import config as labeling_config
from backend.labeling import task_prompts
from backend.labeling.output_choice import Outputs
from backend.labeling.task_prompts import PromptSource, TaskPrompts
from backend.protocol import messages
from backend.segmentation import pipeline
from backend.segmentation.planning import Rules, plan
from backend.segmentation.shape_prompts import ROUGH_SIDE
from backend.segmentation.tasks import TaskSegmenter
from backend.shapes import OUTPUT_KINDS, Bitmask, Brush, Polygon, Rectangle, ShapeKind
from backend.types import PromptRegion, Task
from model.types import Mask
from tests.support.fakes import embedding, png
from tests.support.orientation_files import plain, with_exif
from tests.support.service import IMAGE, SIZE_WH, VERSION, Service, wait_until
from tests.support.wire_bodies import CONFIG, click, encoded, rectangle, result, saved, task_with

SOON_S = 10.0
SIZE = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}
ANY = (PromptSource.BOXES, PromptSource.KEYPOINTS, PromptSource.PREDICTIONS)


@pytest.fixture
def service():
    with Service() as service:
        yield service


def box(name="b", at=(10, 10), **changes):
    return rectangle(*at, 20, 20, **(SIZE | {"id": name} | changes))


def point(name="p", at=(25.0, 50.0), label="Cat", **changes):
    value = {"x": at[0], "y": at[1], "width": 1, "keypointlabels": [label]}
    return result(value=value, **(SIZE | {"id": name} | changes))


def task(*annotation, data=None, predictions=()):
    body = click(tasks=[task_with([saved(*annotation)], list(predictions), data=data)], params=None)
    [task_read] = messages.parse_predict(encoded(body)).tasks
    return task_read


def segment(service, task_read, config=CONFIG, sources=ANY, image_s=SOON_S, outputs=OUTPUT_KINDS, **options):
    prompts_read = task_prompts.read(task_read, sources, VERSION)
    segmenter = TaskSegmenter(service.drawing, service.embeddings, outputs)
    return segmenter.segment(task_read, prompts_read, labeling_config.parse(config), 1, image_s, **options)


def test_every_box_of_an_annotation_becomes_a_mask_with_its_label(service):
    dog = box("d", (60, 60))
    dog["value"]["rectanglelabels"] = ["Dog"]
    answer = segment(service, task(box("c"), dog))
    assert [(region.control, region.labels) for region in answer.result] == [("brush", ("Cat",)), ("brush", ("Dog",))]
    assert all(isinstance(region.shape, Brush) for region in answer.result)
    assert (answer.score, answer.model_version, answer.reasons) == (0.875, VERSION, ())


def test_all_objects_of_an_image_are_one_encode_and_one_decode(service):
    segment(service, task(*(box(f"b{n}", (5 * n, 5 * n)) for n in range(10)), point()))
    assert service.encoder.calls == 1
    assert [len(prompts) for _, prompts in service.decoder.calls] == [11]


def test_the_same_prompts_give_the_same_prediction(service):
    annotated = task(box(), point())
    assert segment(service, annotated) == segment(service, annotated)


@pytest.mark.parametrize(("outputs", "kind"), [((ShapeKind.POLYGON, ShapeKind.BRUSH), Polygon), ((), Brush)])
def test_masks_are_drawn_as_the_labeling_config_and_the_preference_say(service, outputs, kind):
    extra = '<PolygonLabels name="poly" toName="image"><Label value="Cat"/></PolygonLabels></View>'
    answer = segment(service, task(box()), CONFIG.replace("</View>", extra), outputs=outputs or OUTPUT_KINDS)
    assert {type(region.shape) for region in answer.result} == {kind}


def test_a_label_that_only_another_kind_of_output_offers_is_drawn_as_that(service):
    extra = '<BitmaskLabels name="bits" toName="image"><Label value="Bird"/></BitmaskLabels></View>'
    bird = box("bird")
    bird["value"]["rectanglelabels"] = ["Bird"]
    answer = segment(service, task(box(), bird), CONFIG.replace("</View>", extra))
    assert [type(region.shape) for region in answer.result] == [Brush, Bitmask]


def test_points_without_a_sign_mark_an_object_each(service):
    answer = segment(service, task(point("a", (20, 20)), point("b", (70, 70)), point("c", (20, 70), "Dog")))
    assert [region.labels for region in answer.result] == [("Cat",), ("Cat",), ("Dog",)]
    assert [prompt.point_labels.tolist() for prompt in service.decoder.prompts] == [[1], [1], [1]]


def test_signed_points_belong_together_as_in_the_click_that_left_them(service):
    segment(service, task(
        point("a", (20, 20), is_positive=True), point("b", (30, 20), is_positive=True),
        point("n", (70, 70), is_positive=False), point("other", (60, 10)), point("more", (60, 90)),
    ))  # fmt: skip
    assert [prompt.point_labels.tolist() for prompt in service.decoder.prompts] == [[1, 1, 0], [1], [1]]


def test_a_negative_point_takes_part_in_the_only_object_of_its_label(service):
    segment(service, task(point("a", (20, 20)), point("n", (70, 70), is_positive=False)))
    assert [prompt.point_labels.tolist() for prompt in service.decoder.prompts] == [[1, 0]]


def test_a_negative_point_among_several_objects_is_left_out_with_its_reason(service):
    annotated = task(point("a", (20, 20)), point("b", (40, 20)), point("n", (70, 70), is_positive=False))
    answer = segment(service, annotated)
    assert len(answer.result) == 2
    assert answer.reasons == (Reason.ONLY_NEGATIVE_POINTS,)


def test_points_in_a_box_refine_it(service):
    segment(service, task(box(), point("in", (15, 15)), point("off", (20, 20), is_positive=False)))
    [prompt] = service.decoder.prompts
    assert prompt.box is not None
    assert prompt.point_labels.tolist() == [1, 0]


def test_from_boxes_a_point_in_no_box_makes_no_mask(service):
    answer = segment(service, task(box(), point("alone", (80, 80))), sources=(PromptSource.BOXES,))
    assert len(answer.result) == 1
    assert answer.reasons == ()


def test_from_keypoints_boxes_make_no_mask(service):
    segment(service, task(box(), point("in", (15, 15))), sources=(PromptSource.KEYPOINTS,))
    [prompt] = service.decoder.prompts
    assert prompt.box is None


def test_the_boxes_of_another_model_become_masks(service):
    annotated = task(predictions=[saved(box(), model_version="yolo")])
    assert len(segment(service, annotated).result) == 1


def test_a_task_without_prompts_is_an_empty_answer_with_its_reason_and_costs_nothing(service):
    answer = segment(service, task())
    assert (answer.result, answer.score, answer.reasons) == ((), 0.0, (Reason.NO_PROMPT,))
    assert service.source.fetched == []


# Pictures.


def test_every_image_of_a_task_gets_its_own_masks(service):
    config = (
        '<View><Image name="pages" valueList="$pages"/><Image name="side" value="$side"/>'
        '<BrushLabels name="brush" toName="pages,side"><Label value="Cat"/></BrushLabels></View>'
    )
    service.source.contents |= {"second": png((0, 0, 250), (40, 40)), "third": png((0, 250, 0), (50, 20))}
    annotated = task(
        point("a", to_name="pages", item_index=0),
        point("b", to_name="pages", item_index=1, original_width=40, original_height=40),
        point("c", to_name="side", original_width=50, original_height=20),
        data={"pages": [IMAGE, "second"], "side": "third"},
    )
    answer = segment(service, annotated, config)
    assert [(region.to_name, region.item_index, region.original_size) for region in answer.result] == [
        ("pages", 0, (60, 80)), ("pages", 1, (40, 40)), ("side", None, (20, 50)),
    ]  # fmt: skip


def test_one_broken_image_leaves_the_others_their_masks_and_is_reported(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    annotated = task(point("a", item_index=0), point("b", item_index=1), data={"pages": [IMAGE, "missing"]})
    answer = segment(service, annotated, config)
    assert [region.item_index for region in answer.result] == [0]
    assert answer.reasons == (Reason.IMAGE_NOT_FOUND,)
    assert not answer.is_complete


@pytest.mark.parametrize("error", [ImageError("no", Reason.IMAGE_UNREADABLE), AccessError("no")])
def test_a_task_whose_image_cannot_be_had_is_empty_with_its_reason(service, error):
    service.source.contents[IMAGE] = error
    answer = segment(service, task(box()))
    assert (answer.result, answer.reasons) == ((), (error.reason,))


def test_what_may_pass_is_raised_so_that_no_half_prediction_is_stored(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    service.source.contents["slow"] = RetryLater("no", Reason.IMAGE_FETCH_FAILED)
    annotated = task(point("a", item_index=0), point("b", item_index=1), data={"pages": [IMAGE, "slow"]})
    with pytest.raises(RetryLater) as caught:
        segment(service, annotated, config)
    assert caught.value.reason is Reason.IMAGE_FETCH_FAILED


def test_an_embedding_that_is_not_ready_in_time_is_raised_and_there_the_next_time(service):
    service.encoder.gate.clear()
    with pytest.raises(RetryLater) as caught:
        segment(service, task(box()), image_s=0.05)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    service.encoder.gate.set()
    wait_until(lambda: service.embeddings.encoding == 0)
    assert segment(service, task(box()), image_s=0.0).result
    assert service.encoder.calls == 1


def test_without_waiting_only_what_is_there_is_answered_and_nothing_is_begun(service):
    with pytest.raises(RetryLater):
        segment(service, task(box()), wait=False)
    assert service.source.fetched == []
    segment(service, task(box()))
    assert segment(service, task(box()), wait=False).result


def test_answers_have_the_size_of_the_image_whatever_copy_the_prompts_were_drawn_on(service):
    answer = segment(service, task(point(original_width=161, original_height=121)))
    assert [region.original_size for region in answer.result] == [(60, 80)]
    assert service.decoder.prompts[0].point_coords.tolist() == [[20.0, 30.0]]


def test_prompts_drawn_where_another_browser_turned_the_photo_are_answered_as_it_shows_it(service):
    service.source.contents[IMAGE] = with_exif("WebP", plain(6))
    shown = [
        point("a", (25, 75), original_width=32, original_height=48),
        point("b", original_width=48, original_height=32),
    ]
    answer = segment(service, task(*shown))
    assert {region.original_size for region in answer.result} == {(48, 32), (32, 48)}
    assert service.encoder.calls == 1
    points = {tuple(prompt.point_coords[0].tolist()) for prompt in service.decoder.prompts}
    assert points == {(36.0, 24.0), (12.0, 16.0)}


def test_prompts_drawn_on_another_picture_are_left_out_with_their_reason(service):
    answer = segment(service, task(point("a"), box("turned", original_width=60, original_height=80)))
    assert len(answer.result) == 1
    assert answer.reasons == (Reason.SIZE_MISMATCH,)


def test_prompts_without_a_size_are_those_of_the_image(service):
    answer = segment(service, task(point(original_width=..., original_height=...)))
    assert [region.original_size for region in answer.result] == [(60, 80)]


# What goes wrong.


@pytest.mark.parametrize(("to_name", "reason"), [("nowhere", Reason.NO_IMAGE_TAG)])
def test_prompts_on_an_image_that_is_no_longer_in_the_config_are_reported(service, to_name, reason):
    answer = segment(service, task(box(), box("gone", to_name=to_name)))
    assert len(answer.result) == 1
    assert answer.reasons == (reason,)
    assert answer.is_complete


def test_a_config_that_can_hold_no_answer_is_reported(service):
    config = '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image"/></View>'
    assert segment(service, task(point()), config).reasons == (Reason.NO_OUTPUT_CONTROL,)


def test_a_task_without_an_image_is_reported(service):
    assert segment(service, task(box(), data={})).reasons == (Reason.NO_IMAGE_IN_TASK,)


def test_an_empty_mask_is_no_region_and_is_reported(service):
    service.decoder.is_blind = True
    assert segment(service, task(box())).reasons == (Reason.EMPTY_MASK,)


def test_a_defect_is_reported_and_does_not_end_a_run(service, caplog):
    service.decoder.masks = [Mask(np.ones((1, 1), bool), (0, 0), (1, 1))]  # of another size than was asked for
    assert segment(service, task(box())).reasons == (Reason.INTERNAL_ERROR,)
    assert "Traceback" in caplog.text


def test_a_decode_without_memory_may_be_tried_again(service):
    service.decoder.failures.append(MemoryError())
    with pytest.raises(RetryLater) as caught:
        segment(service, task(box()))
    assert caught.value.reason is Reason.OUT_OF_MEMORY


# Polygons.


CORNERS = [[10, 10], [40, 10], [40, 40], [10, 40]]


def polygon(name="p", corners=CORNERS, **changes):
    return result("polygonlabels", {"points": corners, "polygonlabels": ["Cat"]}, **(SIZE | {"id": name} | changes))


def test_a_polygon_is_a_box_a_rough_mask_and_a_point_inside(service):
    segment(service, task(polygon()))
    [prompt] = service.decoder.prompts
    assert prompt.box.tolist() == pytest.approx([8, 6, 32, 24])
    assert prompt.rough_mask[6:24, 8:32].all()
    assert prompt.rough_mask.sum() == pytest.approx(18 * 24, rel=0.15)


def test_points_in_a_polygon_refine_it(service):
    segment(service, task(polygon(), point("off", (38, 38), is_positive=False)))
    [prompt] = service.decoder.prompts
    assert prompt.rough_mask is not None
    assert prompt.point_labels.tolist()[-1] == 0


def test_a_polygon_that_would_be_answered_as_a_polygon_is_left_as_it_is(service):
    config = (
        '<View><Image name="image" value="$image"/><PolygonLabels name="poly" toName="image"><Label value="Cat"/>'
        "</PolygonLabels></View>"
    )
    answer = segment(service, task(polygon(from_name="poly")), config)
    assert (answer.result, answer.reasons) == ((), (Reason.NOT_A_PROMPT,))
    assert segment(service, task(polygon(from_name="coarse")), config).result


# Memory.


def regions(shape, count, size):
    return tuple(PromptRegion(f"r{n}", shape, "box", "image", ("Cat",), original_size=size) for n in range(count))


class EmbeddingOfSize:
    """Has the embedding of an image of one size, whatever image is asked for."""

    def __init__(self, size):
        self.embedding = embedding(original_size=size)

    def get(self, ref, within_s, priority):
        return self.embedding


@pytest.mark.parametrize(("size", "most"), [((600, 800), 16), ((3000, 4000), 16), ((9000, 12000), 2)])
def test_objects_are_decoded_so_many_at_a_time_that_their_masks_stay_within_bounds(service, size, most):
    service.decoder.is_blind = True
    segmenter = TaskSegmenter(service.drawing, EmbeddingOfSize(size))
    prompts = TaskPrompts(regions(Rectangle(10, 10, 20, 20), 40, size))
    segmenter.segment(task(), prompts, labeling_config.parse(CONFIG), 1, SOON_S)
    batches = [len(prompts) for _, prompts in service.decoder.calls]
    assert max(batches) == most
    assert sum(batches) == 40
    assert max(batches) * math.prod(size) <= pipeline.BATCH_PIXELS or max(batches) == 1


def planned(prompts, size):
    controls = labeling_config.on_image(labeling_config.parse(CONFIG), "image")
    return plan(prompts, embedding(original_size=size), "image", Outputs(controls), Rules(is_click=False))


def test_prompts_drawn_on_a_copy_many_times_larger_are_answered_in_the_images_own_size():
    plan = planned(regions(Rectangle(10, 10, 20, 20), 1, (12000, 16000)), (60, 80))
    assert [prompt.original_size for prompt, _ in plan.objects] == [(60, 80)]


def test_many_polygons_on_a_large_image_take_no_more_memory_than_the_decoder_needs_of_them():
    shape = Polygon(((10, 10), (40, 10), (40, 40)))
    plan = planned(regions(shape, 300, (6000, 8000)), (6000, 8000))
    assert len(plan.objects) == 300
    assert all(prompt.prompt.rough_mask.nbytes <= ROUGH_SIDE**2 for prompt, _ in plan.objects)


def test_a_task_whose_turn_at_the_decoder_does_not_come_in_time_is_raised(service):
    segment(service, task(box()))
    limiter = service.drawing.slots = FifoLimiter(1)
    with limiter:
        started = time.monotonic()
        with pytest.raises(RetryLater) as caught:
            segment(service, task(box()), within_s=0.1)
        assert time.monotonic() - started < 2
    assert caught.value.reason is Reason.BUDGET_EXCEEDED
    assert segment(service, task(box()), within_s=0.1).result


def test_a_task_that_runs_out_of_time_between_objects_is_raised(service):
    segment(service, task(box()))
    with pytest.raises(RetryLater) as caught:
        segment(service, task(*(box(f"b{n}", (n, n)) for n in range(40))), within_s=0.0)
    assert caught.value.reason is Reason.BUDGET_EXCEEDED


def test_without_a_deadline_all_objects_are_drawn_and_each_image_is_waited_for_again(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    service.source.contents["second"] = png((0, 0, 250), SIZE_WH)
    boxes = [box(f"{page}-{n}", (n, n), item_index=page) for page in (0, 1) for n in range(40)]
    service.encoder.latency_s = 0.3
    answer = segment(service, task(*boxes, data={"pages": [IMAGE, "second"]}), config, image_s=0.5)
    assert (len(answer.result), answer.reasons) == (80, ())


# Everything.


class Found:
    def __init__(self, mask, score=0.9):
        self.mask, self.score = mask, score


def square(at, side=10, size=(60, 80)):
    pixels = np.zeros(size, bool)
    pixels[at[1] : at[1] + side, at[0] : at[0] + side] = True
    return Mask.from_array(pixels)


def everything(service, annotated, masks, config=CONFIG):
    segmenter = TaskSegmenter(service.drawing, service.embeddings, automatic=lambda _: masks)
    return segmenter.segment_everything(annotated, labeling_config.parse(config), 1, SOON_S)


def test_everything_becomes_regions_without_a_label_where_there_are_several(service):
    answer = everything(service, task(), [Found(square((0, 0)), 0.9), Found(square((30, 30)), 0.7)])
    assert [(region.labels, region.score) for region in answer.result] == [((), 0.9), ((), 0.7)]
    assert answer.score == pytest.approx(0.8)
    assert len({region.id for region in answer.result}) == 2


def test_everything_gets_the_only_label_where_there_is_one(service):
    config = CONFIG.replace('<Label value="Dog"/>', "")
    assert [region.labels for region in everything(service, task(), [Found(square((0, 0)))], config).result] == [
        ("Cat",)
    ]


def test_everything_is_found_on_every_image(service):
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    annotated = task(data={"pages": [IMAGE, IMAGE, "missing"]})
    answer = everything(service, annotated, [Found(square((0, 0)))], config)
    assert [region.item_index for region in answer.result] == [0, 1]
    assert len({region.id for region in answer.result}) == 2
    assert answer.reasons == (Reason.IMAGE_NOT_FOUND,)


def test_where_nothing_is_found_the_answer_says_so(service):
    assert everything(service, task(), []).reasons == (Reason.EMPTY_MASK,)
    assert everything(service, Task(1, {}), []).reasons == (Reason.NO_IMAGE_IN_TASK,)


def test_a_segmenter_that_cannot_find_everything_says_so(service):
    segmenter = TaskSegmenter(service.drawing, service.embeddings)
    answer = segmenter.segment_everything(task(), labeling_config.parse(CONFIG), 1, SOON_S)
    assert (answer.result, answer.reasons) == ((), (Reason.UNSUPPORTED_PROMPT,))
