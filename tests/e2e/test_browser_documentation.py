"""The README's instructions for Label Studio do what it says: connecting by hand, and its configs."""

import re

import pytest

from tests.e2e.targets import Target, easy_target
from tests.support.markdown import document
from tests.support.scenes import iou

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

README = document("README.md")
CONFIGS = {
    kind: block.text
    for kind, block in zip(
        ("brush", "polygon"), (block for block in README.blocks if block.language == "xml"), strict=True
    )
}
GOOD = 0.8


@pytest.fixture
def target() -> Target:
    return easy_target((480, 640))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_of_the_readme_gives_the_kind_of_region_it_says_with_its_label(
    studio, annotator, stored_masks, target, kind
):
    project = studio.project(CONFIGS[kind])
    task = studio.task(project, "scene.png", target.data)
    annotator.open_task(project, task, target.size)
    annotator.choose("Dog", 0, "key-point-tool")
    annotator.click(target.centre)
    annotator.accept()
    annotator.photograph(f"readme-{kind}")
    annotator.submit()
    regions = {region["type"]: region for region in studio.stored(task)}
    assert regions[f"{kind}labels"]["value"][f"{kind}labels"] == ["Dog"]
    assert regions.keys() <= {
        f"{kind}labels",
        "labels",
    }  # an accepted mask also takes what is chosen in the row of labels
    assert iou(stored_masks.of(regions[f"{kind}labels"]), target.mask) >= GOOD


def test_the_label_stays_chosen_for_the_next_object_and_a_rectangle_marks_one_too(
    studio, annotator, stored_masks, target
):
    project = studio.project(CONFIGS["brush"])
    task = studio.task(project, "scene.png", target.data)
    annotator.open_task(project, task, target.size)
    annotator.choose("Dog", 0, "key-point-tool")
    annotator.click(target.centre)
    annotator.accept()
    left, top, right, bottom = target.box
    annotator.choose("Dog", 0, "rectangle-tool")
    annotator.drag((left - 4, top - 4), (right + 4, bottom + 4))
    annotator.accept()
    annotator.submit()
    regions = studio.stored(task)
    masks = [region for region in regions if region["type"] == "brushlabels"]
    assert [region["value"]["brushlabels"] for region in masks] == [["Dog"], ["Dog"]]
    assert all(iou(stored_masks.of(region), target.mask) >= GOOD for region in masks)


def test_a_token_and_a_connection_are_made_where_the_readme_says(studio, annotator):
    project = studio.project(CONFIGS["brush"], backend=False)
    page = annotator.page
    page.goto(f"{studio.url}/projects/{project}/data")
    page.locator(".lsf-userpic, .ls-userpic, [class*=userpic]").first.click()
    page.get_by_role("link", name="Account & Settings", exact=True).click()
    page.get_by_text("Personal Access Token").first.click()
    page.get_by_text("Create New Token").click()
    whole = page.locator("input[value^=eyJ], textarea").last
    whole.wait_for()
    assert (whole.get_attribute("value") or whole.input_value()).count(".") == 2
    annotator.photograph("readme-token")
    page.goto(f"{studio.url}/projects/{project}/settings/ml")
    page.get_by_text("Connect Model", exact=True).first.click()
    page.get_by_label("Name").fill("SAM")
    page.get_by_label("Backend URL").fill(studio.backend_url)
    page.get_by_label("Interactive preannotations").click(force=True)
    annotator.photograph("readme-connect")
    page.get_by_text("Validate and Save").click()
    page.get_by_text("Connected", exact=True).wait_for()
    annotator.photograph("readme-connected")
    [connected] = studio.api.get("/api/ml", params={"project": project}).json()
    assert (connected["url"], connected["is_interactive"], connected["state"]) == (studio.backend_url, True, "CO")
    words = re.sub(r"\s+", " ", README.section("Connect your own Label Studio"))
    for word in ("Account & Settings", "Personal Access Token", "Create New Token", "Connect Model",
                 "Interactive preannotations", "Validate and Save"):  # fmt: skip
        assert f"*{word}*" in words or word in words


def test_each_of_two_images_keeps_its_label_from_click_to_click(studio, annotator, target):
    [config] = [
        block.text for block in document("docs/labeling-configs.md").blocks if '<Image name="before"' in block.text
    ]
    helper = studio.project(CONFIGS["brush"], backend=False)
    before, after = (studio.uploaded(helper, f"{name}.png", target.data) for name in ("before", "after"))
    task = studio.task_of(project := studio.project(config), {"before": before, "after": after})
    annotator.open_task(project, task, target.size)
    for number in range(2):
        annotator.page.locator(".lsf-labels").nth(number).locator(".lsf-label", has_text="Damage").click()
        annotator.page.locator(".lsf-toolbar__group > .lsf-tool_smart").nth(number).click()
        image = annotator.page.locator('img[alt="image"]').nth(number)
        for beside in (0, 4):
            image.scroll_into_view_if_needed()
            box = image.bounding_box()
            x, y = (target.centre[0] + beside) / target.size[1], target.centre[1] / target.size[0]
            with annotator.page.expect_response(lambda answer: "interactive-annotating" in answer.url):
                annotator.page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
            annotator.page.wait_for_timeout(700)
        annotator.accept()
    labels_sent = [
        [region["value"].get("labels") for region in click["result"] if region["type"] == "labels"]
        for click in annotator.clicks
    ]
    assert labels_sent == [[["Damage"]], [["Damage"], ["Damage"]]] * 2
    annotator.submit()
    labels_stored = [
        (region["to_name"], region["value"]["labels"]) for region in studio.stored(task) if region["type"] == "labels"
    ]
    assert labels_stored == [("before", ["Damage"]), ("after", ["Damage"])]


def test_every_task_opens_with_a_label_chosen(studio, annotator, target):
    project = studio.project(CONFIGS["polygon"])
    for name in ("a.png", "b.png"):
        task = studio.task(project, name, target.data)
        annotator.open_task(project, task, target.size)
        assert annotator.page.locator(".lsf-label_selected").all_inner_texts() == ["Cat\n1"]
        annotator.choose("Dog", 0, "key-point-tool")
        annotator.click(target.centre)
        annotator.accept()
        annotator.submit()
