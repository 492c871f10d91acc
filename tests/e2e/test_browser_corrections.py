"""What the documentation says of choosing tools, of masks that are lost and of correcting them, done in the editor."""

import pytest

from backend.demo.project import LABEL_CONFIG
from tests.e2e.targets import Target, easy_pair
from tests.support.markdown import document
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

SIZE = (480, 640)
GOOD = 0.8
ASKED = '<TextArea name="words" toName="image"/>'


@pytest.fixture
def targets() -> tuple[Target, Target]:
    return easy_pair(SIZE)


@pytest.fixture
def opened(studio, annotator, targets):
    """Return a function that opens a task of its own in a project like the demo's."""
    projects = {}

    def open_task(name="scene.png", label_config=LABEL_CONFIG) -> int:
        project = projects.setdefault(label_config, None) or studio.project(label_config)
        projects[label_config] = project
        task = studio.task(project, name, targets[0].data)
        annotator.open_task(project, task, SIZE)
        return task

    return open_task


def kinds(regions: list[dict]) -> list[str]:
    return [region["type"] for region in regions]


def labels(regions: list[dict], kind: str = "labels") -> list[list[str]]:
    return [region["value"][kind] for region in regions if region["type"] == kind]


def with_text_field(field: str) -> str:
    """The demo's labeling config with one more control at its end."""
    return LABEL_CONFIG.removesuffix("</View>") + field + "</View>"


def test_the_hint_leads_to_a_labelled_mask_on_every_task_where_m_leads_to_a_click_without_a_request(
    annotator, opened, targets
):
    for name in ("first.png", "second.png"):  # Auto-Annotation is switched on, and found on
        opened(name)
        assert annotator.chosen_labels == ["Object"]
        annotator.take_smart_point()
        annotator.click(targets[0].centre)
        assert labels(annotator.clicks[-1]["result"]) == [["Object"]]
        annotator.accept()
    annotator.press("Escape")
    assert annotator.chosen_labels == []
    opened("third.png")
    assert annotator.active_tool == ("key-point-tool", True)
    annotator.press("m")
    assert annotator.active_tool == ("rectangle-tool", True)
    annotator.click_in_vain(targets[0].centre)
    opened("fourth.png")
    assert annotator.active_tool == ("rectangle-tool", True)
    annotator.take_smart_point()
    annotator.click(targets[0].centre)


def test_with_selected_the_first_label_is_chosen_on_every_task_and_others_can_be(studio, annotator, opened, targets):
    task = opened("first.png")
    annotator.take_smart_point()
    for label, target in zip(("Object", "Part"), targets, strict=True):
        if annotator.chosen_labels != [label]:
            annotator.choose_label(label)
        annotator.click(target.centre)
        annotator.accept()
        assert annotator.chosen_labels == [label], "it stays from mask to mask"
    annotator.submit()
    regions = studio.stored(task)
    assert labels(regions) == labels(regions, "brushlabels") == [["Object"], ["Part"]]
    opened("second.png")
    assert annotator.chosen_labels == ["Object"]


def test_submit_with_a_pending_mask_keeps_the_prompt_and_not_the_mask(studio, annotator, opened, targets):
    task = opened()
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.submit()
    assert kinds(studio.stored(task)) == ["keypoint", "labels"]


def test_a_click_with_another_label_drops_the_pending_mask_and_the_tick_gives_it_both(
    studio, annotator, opened, targets, stored_masks
):
    first, second = targets
    task = opened("dropped.png")
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.choose_label("Part")
    annotator.click(second.centre)
    annotator.accept()
    annotator.submit()
    regions = studio.stored(task)
    assert kinds(regions) == ["brushlabels", "labels"]
    assert labels(regions) == labels(regions, "brushlabels") == [["Part"]]
    assert iou(stored_masks.of(regions[0]), second.mask) >= GOOD
    task = opened("relabelled.png")
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.choose_label("Part")
    annotator.accept()
    annotator.submit()
    regions = studio.stored(task)
    assert (labels(regions), labels(regions, "brushlabels")) == ([["Part"]], [["Object"]])


def test_with_one_row_of_labels_the_tick_gives_a_pending_mask_the_new_label(studio, annotator, opened, targets):
    blocks = document("docs/labeling-configs.md").blocks
    config = next(block.text for block in blocks if block.language == "xml" and "<Brush " in block.text)
    task = opened("one-row.png", config)
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.choose_label("Dog")
    annotator.accept()
    annotator.submit()
    regions = studio.stored(task)
    assert (kinds(regions), labels(regions)) == (["brush", "labels"], [["Dog"]])


def test_a_label_chosen_for_a_mask_that_is_selected_changes_that_of_the_brush_alone(studio, annotator, opened, targets):
    task = opened()
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.accept()
    annotator.click_in_vain(targets[0].centre)
    annotator.choose_label("Part")
    annotator.submit()
    regions = studio.stored(task)
    assert (labels(regions), labels(regions, "brushlabels")) == ([["Object"]], [["Part"]])


def test_a_reload_loses_the_pending_mask_and_its_prompt(studio, annotator, opened, targets):
    opened()
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.page.reload()
    annotator.page.locator(".konvajs-content").first.wait_for()
    annotator.page.wait_for_timeout(1500)
    assert annotator.page.locator(".lsf-outliner-item").count() == 0


def test_the_cross_throws_a_mask_away_and_backspace_an_accepted_one(annotator, opened, targets):
    opened()
    rows = annotator.page.locator(".lsf-outliner-item")
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.page.get_by_test_id("bottombar-reject-suggestions-button").click()
    annotator.page.wait_for_timeout(1000)
    assert rows.count() == 0
    annotator.click(targets[0].centre)
    annotator.accept()
    annotator.click_in_vain(targets[0].centre)
    annotator.press("Backspace")
    assert rows.count() == 0


def test_with_auto_accept_a_click_on_a_mask_only_selects_it(annotator, opened, targets):
    opened()
    annotator.auto_accept(True)
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.click_in_vain(targets[0].centre)


def test_before_the_tick_moving_a_prompt_asks_again_and_undoing_one_does_not(annotator, opened, targets):
    first, second = targets
    opened()
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.click(second.centre, negative=True)
    x, y = second.centre
    annotator.drag((x, y), (x + 12, y + 12))
    points = [region for region in annotator.clicks[-1]["result"] if region["type"] == "keypoint"]
    assert [point["is_positive"] for point in points] == [True, False]
    assert points[1]["value"]["x"] > 100 * x / SIZE[1] + 1
    clicks_before = len(annotator.clicks)
    annotator.press("Control+z")
    assert len(annotator.clicks) == clicks_before
    assert annotator.chosen_labels == []


def test_after_the_tick_undo_brings_the_prompts_back_and_a_click_replaces_the_mask(studio, annotator, opened, targets):
    first, second = targets
    task = opened()
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.accept()
    annotator.click_in_vain(first.centre, negative=True)  # it only selects the mask
    annotator.press("Control+z")
    assert annotator.chosen_labels == [], "it has to be chosen again"
    annotator.choose_label("Object")
    annotator.click(second.centre, negative=True)
    signs = [region["is_positive"] for region in annotator.clicks[-1]["result"] if region["type"] == "keypoint"]
    assert signs == [True, False]
    annotator.accept()
    annotator.submit()
    assert (kinds(studio.stored(task)), labels(studio.stored(task))) == (["brushlabels", "labels"], [["Object"]])


def test_inside_an_accepted_mask_clicks_need_ctrl(studio, annotator, opened, targets):
    first, second = targets
    task = opened()
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.accept()
    annotator.click(second.centre)
    annotator.click(first.centre, negative=True, inside=True)
    signs = [region["is_positive"] for region in annotator.clicks[-1]["result"] if region["type"] == "keypoint"]
    assert signs == [True, False]
    annotator.accept()
    annotator.click(first.centre, inside=True)
    annotator.accept()
    annotator.photograph("ctrl-click-inside")
    assert annotator.click(first.centre, negative=True, inside=True)["data"]["result"] == []
    annotator.press("Control+z")
    annotator.submit()
    assert kinds(studio.stored(task)) == ["brushlabels", "labels"] * 3


def test_inside_an_accepted_mask_a_smart_rectangle_can_be_drawn(annotator, opened, targets):
    opened()
    annotator.take_smart_point()
    annotator.click(targets[0].centre)
    annotator.accept()
    annotator.choose("Object", 0, "rectangle-tool")
    x, y = targets[0].centre
    annotator.drag((x - 10, y - 10), (x + 10, y + 10))
    assert "rectangle" in kinds(annotator.clicks[-1]["result"])


def test_the_eraser_and_the_brush_change_the_mask_that_is_selected(studio, annotator, opened, targets, stored_masks):
    first, second = targets
    task = opened()
    annotator.take_smart_point()
    annotator.click(first.centre)
    annotator.accept()
    annotator.click_in_vain(first.centre)
    (x, y), (far_x, far_y) = first.centre, second.centre
    annotator.stroke("eraser", (x - 8, y), (x + 8, y))
    annotator.stroke("brush-tool", (far_x - 8, far_y), (far_x + 8, far_y))
    annotator.photograph("erased-and-painted")
    annotator.submit()
    [region] = [region for region in studio.stored(task) if region["type"] == "brushlabels"]
    mask = stored_masks.of(region)
    assert not mask[y, x]
    assert mask[far_y, far_x]


def write(annotator, words: str) -> None:
    """Write into the only text field about the image."""
    annotator.page.locator(".lsf-text-area textarea, .lsf-text-area input").first.fill(words)
    annotator.page.keyboard.press("Enter")
    annotator.page.wait_for_timeout(2000)


def test_a_text_about_the_image_asks_the_backend_and_is_kept_without_any_mask(studio, annotator, opened):
    task = opened("words.png", with_text_field(ASKED))
    with annotator.page.expect_response(lambda answer: "interactive-annotating" in answer.url) as answered:
        write(annotator, "two things")
    assert answered.value.json()["data"]["result"] == []
    assert kinds(annotator.clicks[-1]["result"]) == ["textarea"]
    annotator.submit()
    assert kinds(studio.stored(task)) == ["textarea"]


def test_a_text_field_with_smart_false_asks_nothing(studio, annotator, opened):
    task = opened("words.png", with_text_field(ASKED.replace("/>", ' smart="false"/>')))
    write(annotator, "two things")
    assert annotator.clicks == []
    annotator.submit()
    assert kinds(studio.stored(task)) == ["textarea"]
