"""Masks for whole projects: one prediction for each task, also after failures and beside other runs."""

import json
import threading
import time

import cv2
import numpy as np
import pytest

from backend.concurrency.retry import OutageRetry
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.images import decode as images_decode
from backend.label_studio.http import FaultError, ForbiddenError, RefusedError
from backend.label_studio.prediction_writer import PredictionWriter
from backend.label_studio.task_iterator import ProjectTasks
from backend.labeling import config as labeling_config
from backend.labeling import task_prompts
from backend.labeling.task_prompts import PromptSource
from backend.metrics import Metrics
from backend.projects import preannotate_loop, sinks
from backend.projects.engine import Engine
from backend.projects.preannotate_loop import GONE, MADE, NOTHING, SAME, THERE, PreannotateContext
from backend.projects.run import BatchRun
from backend.projects.sinks import overlay_sink
from backend.segmentation.decoding import MaskService
from backend.segmentation.tasks import TaskSegmenter
from backend.types import Prediction, Skipped, Task
from tests.support.fake_project import PROJECT, SIZE_WH, FakeProject, away, box
from tests.support.fakes import FakeEncoder, FakeSource, png
from tests.support.run_embeddings import run_embeddings
from tests.support.service import FakeDecoder
from tests.support.wire_bodies import CONFIG

VERSION = FakeDecoder().model_version


def point(x=50.0, y=50.0, label="Dog"):
    return {
        "id": f"point-{x}-{y}", "type": "keypointlabels", "from_name": "point", "to_name": "image",
        "original_width": SIZE_WH[0], "original_height": SIZE_WH[1], "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]},
    }  # fmt: skip


class FoundMask:
    def __init__(self, mask, score):
        self.mask, self.score = mask, score


class Run:
    """Everything around a run; each call of it is a new process."""

    def __init__(self, folder, config=CONFIG):
        self.folder, self.config = folder, config
        self.project, self.source = FakeProject(config), FakeSource()
        self.encoder, self.decoder = FakeEncoder(), FakeDecoder()
        self.sources, self.stop, self.finished = {PromptSource.BOXES}, threading.Event(), 0
        self.automatic, self.lasts_s, self.image_s, self.dry_run = None, 600.0, 10.0, None

    def add(self, *regions, uri=None, data=None, **more):
        """Add a task whose only annotation holds these regions."""
        number = len(self.project.tasks)
        uri = uri or f"{number}.png"
        self.source.contents[uri] = data or png((number, 50, 50), SIZE_WH)
        annotations = [{"id": 1, "result": list(regions)}] if regions else []
        return self.project.add({"image": uri}, annotations=annotations, **more)

    def __call__(self, replaces=False, store=None, limit=None, tidies=True):
        store = store or self.project
        retry = OutageRetry(self.stop, first_wait_s=0.001, between_attempts_s=0.001, lasts_s=self.lasts_s)
        controls = labeling_config.parse(self.config)
        embeddings = run_embeddings(self.folder, self.source, self.encoder)
        segmenter = TaskSegmenter(
            MaskService(lambda _: self.decoder, Metrics(), 1), embeddings, automatic=self.automatic
        )

        def segment(task):
            if self.automatic is not None:
                return segmenter.segment_everything(task, controls, PROJECT, self.image_s)
            prompts_read = task_prompts.read(task, self.sources, VERSION)
            return segmenter.segment(task, prompts_read, controls, PROJECT, self.image_s)

        tasks = ProjectTasks(store, retry, self.project.project_value, limit=limit)
        context = PreannotateContext(
            BatchRun(store, self.project.project_value, controls, tasks, 0, self.stop, retry),
            Engine(embeddings, embeddings.ensure, 3, None, embeddings.close),
            segment,
            not {PromptSource.BOXES, PromptSource.KEYPOINTS}.isdisjoint(self.sources),
            VERSION,
            replaces=replaces,
            ignores_stored=self.dry_run is not None,
        )
        writer = PredictionWriter(store, retry, self.project.project_value)
        sink = sinks.label_studio_sink(writer)
        if self.dry_run is not None:
            fetch = sinks.retrying_fetch(self.source, retry, store.version)
            sink = overlay_sink(self.dry_run, fetch, images_decode.PixelLimits(), controls, PROJECT)
        try:
            report = preannotate_loop.run(context, sink, self)
        finally:
            embeddings.close()
        if tidies and self.dry_run is None:
            writer.delete_duplicates(VERSION)
        return report

    def advance(self, count=1):
        self.finished += count

    def regions(self, task):
        [stored] = self.project.of(task, VERSION)
        return stored.result


@pytest.fixture
def make(tmp_path):
    return lambda *arguments, **options: Run(tmp_path, *arguments, **options)


@pytest.fixture
def run(make):
    return make()


def counts(report):
    return {kind: count for kind, count in report.counts.items() if count}


def reasons(report):
    return [(failure.task_id, failure.reason) for failure in report.failures]


def test_boxes_become_masks_with_their_labels(run):
    task = run.add(box(10, 20, label="Cat"), box(60, 20, label="Dog"))
    report = run()
    assert counts(report) == {MADE: 1}
    assert report.is_clean
    regions = run.regions(task)
    assert [region["type"] for region in regions] == ["brushlabels", "brushlabels"]
    assert [region["value"]["brushlabels"] for region in regions] == [["Cat"], ["Dog"]]
    assert {region["from_name"] for region in regions} == {"brush"}
    assert all(region["score"] == 0.875 for region in regions)


def test_all_objects_of_an_image_are_decoded_together(run):
    run.add(*(box(10 * number, 20, 9, 30) for number in range(8)))
    run()
    assert len(run.decoder.calls) == 1
    assert len(run.decoder.prompts) == 8


def test_the_labeling_config_says_what_masks_are_drawn_as(make):
    run = make(CONFIG.replace("BrushLabels", "PolygonLabels"))
    task = run.add(box())
    run()
    assert [region["type"] for region in run.regions(task)] == ["polygonlabels"]


def test_points_are_prompts_where_they_are_asked_for(run):
    task = run.add(point())
    assert counts(run()) == {NOTHING: 1}
    run.sources = {PromptSource.KEYPOINTS}
    assert counts(run()) == {MADE: 1}
    assert [region["value"]["brushlabels"] for region in run.regions(task)] == [["Dog"]]


def test_another_models_predictions_are_prompts_and_annotations_not_even_read(run):
    run.sources = {PromptSource.PREDICTIONS}
    task = run.add()
    run.project.store(task, "detector@1", [box()])
    assert counts(run()) == {MADE: 1}
    assert len(run.regions(task)) == 1
    assert "annotations" not in run.project.calls


def test_everything_needs_no_prompts(run):
    task = run.add()
    mask = run.decoder.mask(type("Prompt", (), {"box": np.array([10, 10, 30, 30])})(), SIZE_WH[::-1])
    run.automatic = lambda embedding: [FoundMask(mask, 0.9), FoundMask(mask, 0.8)]
    assert counts(run()) == {MADE: 1}
    assert [region["score"] for region in run.regions(task)] == [0.9, 0.8]


def test_a_second_run_makes_nothing_again(run):
    tasks = [run.add(box()) for _ in range(20)]
    assert counts(run()) == {MADE: 20}
    decoded = len(run.decoder.calls)
    assert counts(run()) == {THERE: 20}
    assert len(run.decoder.calls) == decoded
    assert all(len(run.project.of(task, VERSION)) == 1 for task in tasks)


def test_a_task_without_prompts_gets_no_prediction_and_is_no_failure(run):
    task = run.add()
    report = run()
    assert counts(report) == {NOTHING: 1}
    assert report.is_clean
    assert run.project.of(task) == []


def test_an_empty_prediction_from_opening_a_task_does_not_keep_it_from_getting_masks(run):
    task = run.add(box())
    run.project.store(task, VERSION, [])
    assert counts(run()) == {MADE: 1}
    assert len(run.regions(task)) == 1


def test_one_broken_image_is_reported_and_the_others_are_done(run):
    tasks = [run.add(box()) for _ in range(5)]
    broken = run.add(box(), data=b"\x89PNG broken")
    report = run()
    assert counts(report) == {MADE: 5}
    assert reasons(report) == [(broken, Reason.IMAGE_UNREADABLE)]
    assert "expected one of JPEG, PNG" in report.failures[0].text
    assert all(len(run.project.of(task, VERSION)) == 1 for task in tasks)
    assert run.finished == 6


def test_a_failure_is_reported_with_the_message_about_its_own_task(run):
    for number in range(6):
        run.add(box(), uri=f"{number}", data=png((number, 1, 1), SIZE_WH))
        run.source.contents[str(number)] = ImageError(f"no image {number}", Reason.IMAGE_NOT_FOUND)
    report = run()
    assert {failure.task_id: failure.text for failure in report.failures} == {
        number + 1: f"no image {number}" for number in range(6)
    }


def test_a_box_outside_its_image_is_reported_and_the_other_drawn(run):
    task = run.add(box(), box(150, 20))
    report = run()
    assert counts(report) == {MADE: 1}
    assert reasons(report) == [(task, Reason.OUTSIDE_IMAGE)]
    assert len(run.regions(task)) == 1


def oval(radius_x, radius_y, **more):
    value = {"x": 50, "y": 50, "radiusX": radius_x, "radiusY": radius_y, "ellipselabels": ["Cat"]}
    return box() | {"id": "oval", "type": "ellipselabels", "from_name": "oval", "value": value} | more


def ring(*points):
    value = {"points": points, "closed": True, "polygonlabels": ["Cat"]}
    return box() | {"id": "ring", "type": "polygonlabels", "from_name": "ring", "value": value}


@pytest.mark.parametrize(("region", "message"), [
    (box(50, 50, 0, 0), "rectangle: expected at least 1 × 1 pixels, got 0 × 0"),
    (box(50, 50, 0, 30), "got 0 × 18"),
    (box(50, 50, 30, 0), "got 24 × 0"),
    (box(50, 50, 0.6, 0.6), "got 0.48 × 0.36"),
    (box(50, 50, -0.6, 20), "got 0.48 × 12"),
    (box(50, 50, 0.5, 0.5, value={"x": 50, "y": 50, "width": 0.5, "height": 50, "rotation": 45}), "got 0.4 × 30"),
    (oval(0, 0), "ellipse: expected at least 1 × 1 pixels, got 0 × 0"),
    (oval(10, 0), "got 16 × 0"),
    (oval(0.4, -0.4), "got 0.64 × 0.48"),
    (ring((50, 50), (50, 50), (50, 50)), "polygon: expected at least 1 × 1 pixels, got 0 × 0"),
    (ring((10, 10), (10, 90), (10, 50)), "got 0 × 48"),
    (ring((10, 10), (90, 90), (50, 50)), "polygon: expected an area of at least 1 pixel, got 0"),
], ids=str)  # fmt: skip
def test_a_shape_that_goes_around_nothing_is_reported_and_becomes_no_mask(run, region, message):
    task = run.add(region | {"id": "flat"}, box(60, 20))
    report = run()
    assert counts(report) == {MADE: 1}
    assert len(run.regions(task)) == 1
    assert reasons(report) == [(task, Reason.BAD_GEOMETRY)]
    assert message in report.failures[0].text
    assert report.failures[0].text.endswith("(id flat)")


def test_of_a_task_that_holds_nothing_but_a_click_with_the_rectangle_tool_nothing_is_stored(run):
    task = run.add(box(50, 50, 0, 0))
    report = run()
    assert (counts(report), reasons(report)) == ({}, [(task, Reason.BAD_GEOMETRY)])
    assert not run.project.of(task)


@pytest.mark.parametrize("region", [box(99.9, 20, 30, 30), box(-29.9, 20, 30, 30), box(20, 99.9, 30, 30)], ids=str)
def test_a_box_of_which_less_than_a_pixel_lies_in_the_image_is_reported(run, region):
    task = run.add(region)
    assert reasons(run()) == [(task, Reason.OUTSIDE_IMAGE)]


@pytest.mark.parametrize("region", [
    box(50, 50, 100 / SIZE_WH[0], 100 / SIZE_WH[1]), box(100, 100, -100 / SIZE_WH[0], -100 / SIZE_WH[1]),
    box(100 / 3, 100 / 3, 100 / SIZE_WH[0], 30), oval(50 / SIZE_WH[0], 50 / SIZE_WH[1]),
    ring((10, 10), (90, 90), (90, 10), (10, 90)),
], ids=str)  # fmt: skip
def test_a_shape_around_a_pixel_or_one_that_crosses_itself_is_an_object(run, region):
    task = run.add(region)
    assert (counts(run()), len(run.regions(task))) == ({MADE: 1}, 1)


def test_boxes_that_are_lost_are_reported_with_their_number_and_why(run):
    task = run.add(box(), *(box(150, 20, id=f"off-{number}") for number in range(5)), box(10, 20, original_width=33))
    report = run()
    assert counts(report) == {MADE: 1}
    outside, other = sorted(report.lines()[-2:])
    assert outside.startswith(f"    task {task}: outside_image: ")
    assert outside.endswith("(5 times) (id off-0, off-1, off-2 and 2 more)")
    assert other.startswith(f"    task {task}: size_mismatch: ")
    assert "33" in other


def test_of_many_different_messages_about_a_task_the_first_are_listed_and_the_others_counted():
    skipped = tuple(Skipped(str(n), Reason.UNKNOWN_LABEL, f"no\nlabel {n // 2}") for n in range(10))
    [failure] = preannotate_loop.failures_of(Task(1, {}), Prediction((), 0.0, VERSION, skipped=skipped))
    assert failure.text == (
        "no label 0 (2 times) (id 0, 1); no label 1 (2 times) (id 2, 3); no label 2 (2 times) (id 4, 5); and 4 more"
    )


def test_a_defect_over_one_task_leaves_the_others(run):
    for _ in range(3):
        run.add(box())
    run.decoder.failures = [ZeroDivisionError("a defect")]
    report = run()
    assert counts(report) == {MADE: 2}
    assert [failure.reason for failure in report.failures] == [Reason.DECODE_FAILED]


def test_annotations_that_cannot_be_read_are_reported(run):
    task = run.add(box())
    run.project.tasks[task].annotations = [{"id": 1, "result": "no list"}]
    assert counts(run()) == {NOTHING: 1}


def test_a_task_that_is_deleted_meanwhile_is_no_failure(run):
    tasks = [run.add(box()) for _ in range(3)]
    calls = []

    def delete():
        calls.append(1)
        if len(calls) == 1:
            run.project.delete(tasks[0])

    run.project.before["predictions"] = delete
    report = run()
    assert counts(report) == {MADE: 2, GONE: 1}
    assert report.is_clean


@pytest.mark.parametrize("call", ["predictions", "annotations"])
@pytest.mark.parametrize("status", [400, 403, 409, 413, 422])
def test_a_task_that_label_studio_refuses_to_show_is_reported_and_the_others_are_done(run, call, status):
    tasks = [run.add(box()) for _ in range(3)]
    text = f"Label Studio answers {status}: no"
    run.project.failures[call] = [ForbiddenError(text) if status == 403 else RefusedError(text, status)]
    report = run()
    assert counts(report) == {MADE: 2}
    assert [(failure.task_id, failure.text) for failure in report.failures] == [(tasks[2], text)]


def test_a_refused_prediction_is_reported_and_the_others_are_stored(run):
    tasks = [run.add(box()) for _ in range(4)]
    run.project.invalid = {tasks[1]}
    report = run()
    assert counts(report) == {MADE: 3}
    assert [failure.task_id for failure in report.failures] == [tasks[1]]


def test_label_studio_may_restart_while_a_run_goes_on(run):
    tasks = [run.add(box()) for _ in range(8)]
    for name in ("predictions", "annotations", "import_predictions", "task_page"):
        run.project.failures[name] = [None, away(), away(), None, away()]
    run.source.contents["3.png"], good = RetryLater("refused", Reason.IMAGE_FETCH_FAILED), run.source.contents["3.png"]
    run.project.after["version"] = lambda: run.source.contents.update({"3.png": good})
    report = run()
    assert counts(report) == {MADE: 8}
    assert report.is_clean
    assert all(len(run.project.of(task, VERSION)) == 1 for task in tasks)


@pytest.mark.parametrize("call", ["predictions", "annotations"])
def test_a_task_over_which_label_studio_always_fails_is_reported_and_the_others_are_done(run, call):
    tasks = [run.add(box()) for _ in range(40)]
    read = getattr(run.project, call)

    def fail(task_id):
        if task_id == tasks[-1]:
            raise FaultError("Label Studio answers 500", Reason.LABEL_STUDIO_UNREACHABLE)
        return read(task_id)

    setattr(run.project, call, fail)
    report = run()
    assert counts(report) == {MADE: 39}
    assert reasons(report) == [(tasks[-1], Reason.LABEL_STUDIO_UNREACHABLE)]
    assert not report.ended


def test_a_database_that_is_away_is_waited_for_however_often_it_fails(run):
    for _ in range(8):
        run.add(box())
    run.project.failures["predictions"] = [
        FaultError("Label Studio answers 500", Reason.LABEL_STUDIO_UNREACHABLE) for _ in range(30)
    ]
    report = run()
    assert (counts(report), report.is_clean) == ({MADE: 8}, True)


def test_a_task_that_takes_longer_than_an_image_is_waited_for_is_made_and_the_run_goes_on(run):
    image = {"uri": "0.png", "data": png(size_wh=SIZE_WH)}
    run.add(box(), **image)
    run()  # the image is encoded, so that no encode races with the limits below
    run.decoder.calls.clear()
    tasks = [run.add(*(box(number, 20, 9, 30) for number in range(40)), **image) for _ in range(2)]
    tasks.append(run.add(box(), **image))
    run.image_s = run.lasts_s = 0.02
    decode = run.decoder.decode

    def decode_slowly(*arguments):
        time.sleep(0.03)
        return decode(*arguments)

    run.decoder.decode = decode_slowly
    report = run()
    assert (counts(report), report.is_clean) == ({MADE: 3, THERE: 1}, True)
    assert [len(run.regions(task)) for task in tasks] == [40, 40, 1]
    assert len(run.decoder.calls) == 7  # sixteen objects at a time, and nothing twice


def test_a_refused_key_ends_the_run(run):
    for _ in range(3):
        run.add(box())
    run.project.failures["task_page"] = [AccessError("the token was revoked")]
    report = run(tidies=False)
    assert "revoked" in report.ended


def test_stop_finishes_what_is_in_hand_and_delivers_it(run):
    for _ in range(40):
        run.add(box())
    run.encoder.latency_s = 0.005
    answers = []
    decode = run.decoder.decode

    def decode_and_stop(*arguments):
        answers.append(1)
        if len(answers) == 4:
            run.stop.set()
        return decode(*arguments)

    run.decoder.decode = decode_and_stop
    report = run()
    assert report.ended == "stopped"
    assert not report.failures
    assert 4 <= counts(report)[MADE] <= 8
    assert len(run.project.stored) == counts(report)[MADE]
    run.stop.clear()
    assert counts(run()) == {MADE: 40 - counts(report)[MADE], THERE: counts(report)[MADE]}


# Replacing


def test_replace_leaves_what_is_the_same_and_makes_the_rest_again(run):
    same, changed = run.add(box()), run.add(box())
    run()
    before = {task: run.project.of(task, VERSION)[0].id for task in (same, changed)}
    run.project.tasks[changed].annotations = [{"id": 1, "result": [box(40, 40)]}]
    report = run(replaces=True)
    assert counts(report) == {MADE: 1, SAME: 1}
    assert run.project.of(same, VERSION)[0].id == before[same]
    assert run.project.of(changed, VERSION)[0].id != before[changed]


def test_replace_keeps_masks_whose_prompts_are_gone(run):
    task = run.add(box())
    run()
    run.project.tasks[task].annotations = []
    assert counts(run(replaces=True)) == {NOTHING: 1}
    assert len(run.regions(task)) == 1


def test_replace_leaves_one_where_there_were_several(run):
    task = run.add(box())
    for _ in range(3):
        run.project.store(task, VERSION, [{"id": "old"}])
    assert counts(run(replaces=True)) == {MADE: 1}
    assert [region["type"] for region in run.regions(task)] == ["brushlabels"]


# Tasks with several images


def add_pages(run, *names):
    """Add a task of several images with a box on each."""
    for number, name in enumerate(names):
        run.source.contents[name] = png((number, 9, 9), SIZE_WH)
    regions = [box(10 + number, 20, item_index=number) for number in range(len(names))]
    return run.project.add({"pages": list(names)}, annotations=[{"id": 1, "result": regions}])


@pytest.fixture
def paged(make):
    return make(CONFIG.replace('value="$image"', 'valueList="$pages"'))


@pytest.mark.parametrize("error", [ImageError("404", Reason.IMAGE_NOT_FOUND), AccessError("a login page")])
def test_replace_keeps_all_masks_of_a_task_one_of_whose_images_cannot_be_had(paged, error):
    task = add_pages(paged, "a", "b")
    paged()
    [before] = paged.project.of(task, VERSION)
    paged.source.contents["b"] = error
    paged.project.tasks[task].annotations[0]["result"][0]["value"]["x"] = 40.0
    report = paged(replaces=True)
    assert reasons(report) == [(task, error.reason)]
    assert counts(report) == {}
    assert paged.project.of(task, VERSION) == [before]
    assert [region["item_index"] for region in before.result] == [0, 1]


def test_a_task_one_of_whose_images_fails_is_left_to_the_next_run(paged):
    task = add_pages(paged, "a", "b")
    good = paged.source.contents["b"]
    paged.source.contents["b"] = ImageError("404", Reason.IMAGE_NOT_FOUND)
    assert reasons(paged()) == [(task, Reason.IMAGE_NOT_FOUND)]
    assert paged.project.of(task) == []
    paged.source.contents["b"] = good
    report = paged()
    assert (counts(report), report.is_clean) == ({MADE: 1}, True)
    assert [region["item_index"] for region in paged.regions(task)] == [0, 1]


def test_a_box_on_an_image_that_the_task_no_longer_has_leaves_the_others_their_masks(paged):
    task = add_pages(paged, "a", "b")
    paged.project.tasks[task].data = {"pages": ["a"]}
    report = paged()
    assert reasons(report) == [(task, Reason.ITEM_INDEX_OUT_OF_RANGE)]
    assert [region["item_index"] for region in paged.regions(task)] == [0]


# Dry runs


def test_a_dry_run_draws_and_stores_nothing(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    first, second = run.add(box(10, 20), box(60, 20)), run.add(box())
    run.project.store(first, VERSION, [{"id": "there"}])
    assert counts(run()) == {MADE: 2}
    assert sorted(path.name for path in run.dry_run.iterdir()) == [f"task-{first}.jpg", f"task-{second}.jpg"]
    assert len(run.project.stored) == 1
    picture = cv2.imread(str(run.dry_run / f"task-{first}.jpg"))
    assert picture.shape == (SIZE_WH[1], SIZE_WH[0], 3)
    plain = np.array((50, 50, 0))  # blue, green, red of the first task's image
    is_tinted = np.abs(picture.astype(int) - plain).max(axis=2) > 40
    assert is_tinted[24, 20]
    assert is_tinted[24, 60]
    assert not is_tinted[5, 40]


def test_a_dry_run_reports_what_it_cannot_draw(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    task = run.add(box())
    fetch, fetched = run.source.fetch, []

    def vanishes(ref, cached=None):
        fetched.append(ref)
        if len(fetched) > 1:
            raise ImageError("gone", Reason.IMAGE_NOT_FOUND)
        return fetch(ref, cached)

    run.source.fetch = vanishes
    report = run()
    assert reasons(report) == [(task, Reason.IMAGE_NOT_FOUND)]
    assert not run.dry_run.exists()


def test_a_dry_run_waits_for_an_image_that_cannot_be_had_for_a_moment(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    task = run.add(box())
    run()
    fetch, failures = run.source.fetch, [RetryLater("refused", Reason.IMAGE_FETCH_FAILED), away()]

    def is_away_for_a_moment(ref, cached=None):
        if cached is None and failures:  # the embedding is there; the file is wanted for the drawing
            raise failures.pop()
        return fetch(ref, cached)

    run.source.fetch = is_away_for_a_moment
    report = run()
    assert (counts(report), report.is_clean, failures) == ({MADE: 1}, True, [])
    assert [path.name for path in run.dry_run.iterdir()] == [f"task-{task}.jpg"]


def test_a_dry_run_that_is_stopped_over_a_drawing_leaves_that_task_undone(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    run.add(box())
    run()
    fetch = run.source.fetch

    def stops(ref, cached=None):
        if cached is None:
            run.stop.set()
            raise away()
        return fetch(ref, cached)

    run.source.fetch = stops
    report = run()
    assert (counts(report), report.failures, report.ended) == ({}, [], "stopped")


def test_a_defect_over_one_drawing_leaves_the_others(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    first, second = run.add(box()), run.add(box())
    run()
    (run.dry_run / f"task-{first}.jpg").unlink()
    fetch = run.source.fetch

    def is_odd(ref, cached=None):
        return None if cached is None and ref.task_id == first else fetch(ref, cached)

    run.source.fetch = is_odd
    report = run()
    assert reasons(report) == [(first, Reason.INTERNAL_ERROR)]
    assert counts(report) == {MADE: 1}
    assert [path.name for path in run.dry_run.iterdir()] == [f"task-{second}.jpg"]


def test_a_dry_run_into_a_folder_that_cannot_be_written_is_reported(run, tmp_path):
    run.dry_run = tmp_path / "shown"
    run.dry_run.write_text("a file")
    task = run.add(box())
    report = run()
    assert reasons(report) == [(task, Reason.STORE_UNAVAILABLE)]


# Two at once


def test_two_runs_at_once_leave_one_prediction_of_each_task(make):
    run = make()
    tasks = [run.add(box()) for _ in range(60)]
    run.encoder.latency_s = 0.001
    meeting = threading.Barrier(2)
    reports = []

    def run_once():
        meeting.wait(20)
        reports.append(run())

    threads = [threading.Thread(target=run_once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(run.project.of(task, VERSION)) for task in tasks] == [1] * 60
    assert all(report.is_clean for report in reports)
    assert sum(report.counts[MADE] + report.counts[THERE] for report in reports) == 120


def test_what_is_stored_is_what_the_service_would_answer(run):
    task = run.add(box())
    run()
    [region] = run.regions(task)
    assert json.dumps(region)  # plain JSON all the way
    assert {
        "id",
        "type",
        "from_name",
        "to_name",
        "original_width",
        "original_height",
        "value",
        "score",
    } <= region.keys()
    assert (region["original_width"], region["original_height"]) == SIZE_WH
