"""Parts are taken out of accepted masks with Ctrl+Alt+click, in the editor of a real Label Studio."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from backend.demo.project import LABEL_CONFIG
from tests.e2e.conftest import SCREENSHOTS
from tests.e2e.targets import target_of_two_parts
from tests.support.cluster import KEYS, eventually
from tests.support.processes import commands, serving
from tests.support.redis_server import needs_redis
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

GOOD = 0.8
KINDS = ("brush", "bitmask", "polygon")


@pytest.fixture
def target():
    return target_of_two_parts()


def config(kind: str = "brush") -> str:
    """The demo's labeling config with another kind of mask."""
    return LABEL_CONFIG.replace("BrushLabels", f"{kind.capitalize()}Labels")


@pytest.fixture
def opened(studio, annotator, target):
    """Return a function that opens a task of its own, with the smart point chosen, and returns the task."""

    def open_task(kind: str = "brush", backend_url: str = "") -> int:
        project = studio.project(config(kind), backend=not backend_url)
        if backend_url:
            connect(studio, project, backend_url)
        task = studio.task(project, "scene.png", target.data)
        annotator.open_task(project, task, target.size)
        take_smart_point(annotator)
        return task

    return open_task


def take_smart_point(annotator) -> None:
    annotator.choose("Object", 0, "key-point-tool")


def connect(studio, project: int, url: str) -> None:
    """Connect a project to a backend at an address, in place of any other: an open editor keeps using its id."""
    connected = studio.api.get("/api/ml", params={"project": project}).json()
    for backend in connected:
        studio.patch(f"/api/ml/{backend['id']}", {"project": project, "url": url})
    if not connected:
        studio.post("/api/ml", {"project": project, "title": "SAM", "url": url, "is_interactive": True})


def masks_of(answer: dict) -> list[dict]:
    return [region for region in answer["data"]["result"] if region["type"] != "labels"]


def the_only_mask(regions: list[dict]) -> dict:
    """The region of an annotation that has one: a mask, and what it is called in the row of labels."""
    assert len({region["id"] for region in regions}) == 1
    (mask,) = (region for region in regions if region["type"] != "labels")
    return mask


def is_drafted(studio, task: int, key: str = "") -> bool:
    """Whether a draft of a task holds a mask, and this key in its value: ``touches`` are strokes of its annotator."""
    drafts = studio.api.get(f"/api/tasks/{task}/drafts").json()
    masks = [region for draft in drafts for region in draft["result"] if region["type"].startswith(KINDS)]
    return any(not key or region["value"].get(key) for region in masks)


def carve(annotator, target, kind: str = "brush") -> dict:
    """Put a negative point on the part; return what Label Studio answered the editor."""
    if kind == "bitmask":  # a click in it selects it, whatever keys are held, and then no answer is shown
        assert masks_of(annotator.click(target.beside, negative=True)) == []
        return annotator.drag(target.beside, target.part_centre)
    return annotator.click(target.part_centre, negative=True, inside=True)


def assert_carved(studio, task: int, region_id: str, stored_masks, target) -> None:
    mask = the_only_mask(studio.stored(task))
    assert mask["id"] == region_id
    assert mask["value"][mask["type"]] == ["Object"]
    assert iou(stored_masks.of(mask), target.carved) >= GOOD


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_taken_out_of_an_accepted_mask_of_every_kind(studio, annotator, opened, stored_masks, target, kind):
    task = opened(kind)
    [before] = masks_of(annotator.click(target.centre))
    assert iou(stored_masks.of(before), target.mask) >= GOOD
    assert iou(stored_masks.of(before), target.carved) < GOOD
    annotator.accept()
    [region] = masks_of(carve(annotator, target, kind))
    assert region["id"] == before["id"]
    annotator.accept()
    annotator.submit()
    assert_carved(studio, task, before["id"], stored_masks, target)


@contextmanager
def backend(studio, folder, **environ):
    settings = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    with serving(folder, **settings, **environ) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_restart_of_the_backend_the_mask_is_read_from_the_draft(
    studio, annotator, opened, stored_masks, target, tmp_path, kind
):
    with backend(studio, tmp_path) as url:
        task = opened(kind, url)
        [before] = masks_of(annotator.click(target.centre))
        annotator.accept()
        eventually(lambda: is_drafted(studio, task))
    with backend(studio, tmp_path) as url:
        connect(studio, studio.api.get(f"/api/tasks/{task}").json()["project"], url)
        carve(annotator, target, kind)
        annotator.accept()
        annotator.submit()
    assert_carved(studio, task, before["id"], stored_masks, target)


@needs_redis
def test_another_web_process_carves_what_the_first_one_answered(
    studio, annotator, opened, stored_masks, target, tmp_path, redis_server
):
    redis = {"REDIS_URL": redis_server.address, "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    with ExitStack() as stack:
        start = stack.enter_context(commands(**redis))
        start("worker")
        with redis_server.client() as client:
            eventually(lambda: client.zcard(KEYS.workers))
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        first, second = (
            stack.enter_context(backend(studio, folder, REDIS_URL=redis_server.address)) for folder in folders
        )
        task = opened(backend_url=first)
        [before] = masks_of(annotator.click(target.centre))
        annotator.accept()
        connect(studio, studio.api.get(f"/api/tasks/{task}").json()["project"], second)
        carve(annotator, target)
        annotator.accept()
        annotator.submit()
    assert_carved(studio, task, before["id"], stored_masks, target)


def test_a_submitted_mask_is_carved_when_its_task_is_opened_again(studio, annotator, opened, stored_masks, target):
    task = opened()
    [before] = masks_of(annotator.click(target.centre))
    annotator.accept()
    annotator.submit()
    annotator.open_task(studio.api.get(f"/api/tasks/{task}").json()["project"], task, target.size)
    take_smart_point(annotator)
    [region] = masks_of(carve(annotator, target))
    assert region["id"] == before["id"]
    annotator.accept()
    annotator.update()
    assert_carved(studio, task, before["id"], stored_masks, target)


def test_a_carving_that_is_moved_undone_or_rejected_leaves_one_mask(studio, annotator, opened, stored_masks, target):
    task = opened()
    rows = annotator.page.locator(".lsf-outliner-item")
    [before] = masks_of(annotator.click(target.centre))
    annotator.accept()
    (x, y), away = target.part_centre, target.centre
    carve(annotator, target)
    [moved] = masks_of(annotator.drag((x, y), (x - 6, y + 6)))
    assert moved["id"] == before["id"]
    annotator.reject()
    assert rows.count() == 1
    carve(annotator, target)
    annotator.press("Control+z")
    annotator.reject()
    assert rows.count() == 1
    take_smart_point(annotator)
    carve(annotator, target)
    annotator.accept()
    annotator.click_in_vain(away)  # it selects the mask that is left
    annotator.press("Escape")
    annotator.submit()
    assert_carved(studio, task, before["id"], stored_masks, target)


def test_a_mask_that_was_deleted_is_not_brought_back(studio, annotator, opened, target):
    task = opened()
    annotator.click(target.centre)
    annotator.accept()
    eventually(lambda: is_drafted(studio, task))
    annotator.click_in_vain(target.centre)
    annotator.press("Backspace")
    eventually(lambda: not is_drafted(studio, task))
    take_smart_point(annotator)
    assert masks_of(annotator.click(target.part_centre, negative=True)) == []


def test_a_mask_that_was_repainted_is_carved_as_it_is(studio, annotator, opened, stored_masks, target):
    task = opened()
    annotator.click(target.centre)
    annotator.accept()
    annotator.click_in_vain(target.centre)
    x, y = target.centre
    annotator.stroke("eraser", (x - 8, y), (x + 8, y))
    annotator.press("Escape")
    eventually(lambda: is_drafted(studio, task, "touches"))
    take_smart_point(annotator)
    [region] = masks_of(carve(annotator, target))
    mask = stored_masks.of(region)
    assert not mask[y, x]
    assert iou(mask, target.carved) >= GOOD


@pytest.fixture
def colleague(browser, studio):
    """A second annotator, who was invited."""
    from tests.e2e.annotator import Annotator

    colleague = Annotator(browser, studio.url, SCREENSHOTS)
    colleague.sign_up(studio.invitation(), f"colleague-{np.random.default_rng().integers(1 << 30)}@example.com")
    yield colleague
    colleague.close()


def test_two_annotators_of_an_image_never_get_each_others_masks(
    studio, annotator, colleague, opened, stored_masks, target
):
    task = opened()
    [mine] = masks_of(annotator.click(target.centre))
    annotator.accept()
    eventually(lambda: is_drafted(studio, task))
    colleague.open_task(studio.api.get(f"/api/tasks/{task}").json()["project"], task, target.size)
    take_smart_point(colleague)
    colleague.page.wait_for_timeout(6000)  # an answer without a draft counts for ten seconds
    assert masks_of(carve(colleague, target)) == []
    colleague.press("Control+z")
    colleague.choose_label("Object")
    [theirs] = masks_of(colleague.click(target.centre))
    colleague.accept()
    assert [region["id"] for region in masks_of(carve(colleague, target))] == [theirs["id"]]
    assert [region["id"] for region in masks_of(carve(annotator, target))] == [mine["id"]]
    for person in (annotator, colleague):
        person.accept()
        person.submit()
    annotations = studio.api.get(f"/api/tasks/{task}/annotations").json()
    masks = [the_only_mask(annotation["result"]) for annotation in annotations]
    assert {mask["id"] for mask in masks} == {mine["id"], theirs["id"]}
    assert all(iou(stored_masks.of(mask), target.carved) >= GOOD for mask in masks)


def test_shift_asks_nothing_so_no_gesture_is_left_to_extend_a_mask(annotator, opened, target):
    opened()
    annotator.click(target.centre)
    annotator.accept()
    clicks_before = len(annotator.clicks)
    for keys in (("Shift",), ("Shift", "Alt"), ("Shift", "Control")):
        for key in keys:
            annotator.page.keyboard.down(key)
        annotator.click_in_vain(target.centre)
        for key in keys:
            annotator.page.keyboard.up(key)
    assert len(annotator.clicks) == clicks_before
