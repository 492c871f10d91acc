"""The page at /try in a real browser, before a real service with the demo model."""

import io
import json

import numpy as np
import pytest

pytest.importorskip("playwright", reason="no playwright: see tests/e2e/requirements.txt")
from PIL import Image
from playwright.sync_api import expect

from model.demo import SAMPLES
from tests.e2e.conftest import SCREENSHOTS
from tests.e2e.status_pictures import DESKTOP, PHONE, driver, english
from tests.support import detector_directories as directories

pytestmark = pytest.mark.browser
SOON_MS = 60_000
NAME, SIZE_WH = "gears", (800, 800)
SAMPLE = json.loads((SAMPLES / "samples.json").read_text())[f"{NAME}.jpg"]
GEAR, HORSESHOE = SAMPLE["objects"][1], SAMPLE["objects"][4]


class TryPage:
    """The page, with a picture's pixels as its coordinates."""

    def __init__(self, browser, url, viewport=DESKTOP, locale="en"):
        self.page = browser.new_context(viewport=viewport, accept_downloads=True, locale=locale).new_page()
        self.complaints, self.addresses, self.bodies = [], [], []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("request", self.note)
        self.url = url
        self.page.goto(f"{url}try")
        self.view, self.state = self.page.locator("#view"), self.page.get_by_role("status")

    def note(self, request):
        self.addresses.append(request.url)
        if request.method == "POST":
            self.bodies.append(json.loads(request.post_data))

    def take_sample(self):
        self.page.get_by_role("button", name=NAME).click()
        expect(self.state).to_contain_text("800 × 800", timeout=SOON_MS)

    def on_screen(self, x, y):
        box = self.view.bounding_box()
        return box["x"] + x * box["width"] / SIZE_WH[0], box["y"] + y * box["height"] / SIZE_WH[1]

    def click(self, x, y, **options):
        self.page.mouse.click(*self.on_screen(x, y), **options)

    def drag(self, x1, y1, x2, y2):
        self.page.mouse.move(*self.on_screen(x1, y1))
        self.page.mouse.down()
        self.page.mouse.move(*self.on_screen(x2, y2), steps=4)
        self.page.mouse.up()

    def expect_mask(self):
        expect(self.state).to_contain_text("score", timeout=SOON_MS)

    def prompts(self):
        """The prompts of the last request that had any."""
        return [body["params"]["context"]["result"] for body in self.bodies if body["params"]["context"]][-1]

    def save(self, key):
        with self.page.expect_download() as download:
            self.page.keyboard.press(key)
        return download.value.suggested_filename, download.value.path().read_bytes()


@pytest.fixture
def service(tmp_path):
    with driver(tmp_path) as service:
        service.start()
        yield service


def test_a_click_shows_a_mask_that_can_be_saved_and_everything_comes_from_the_service(service, browser):
    try_page = TryPage(browser, service.url)
    try_page.take_sample()
    x, y = GEAR["click"]
    try_page.click(x, y)
    try_page.expect_mask()
    expect(try_page.state).to_contain_text("ms")
    for kind in ("PNG", "Polygons", "COCO"):
        expect(try_page.page.get_by_role("button", name=kind)).to_be_enabled()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    try_page.page.screenshot(path=SCREENSHOTS / "try.png", full_page=True)
    name, png = try_page.save("s")
    assert name == "gears-mask.png"
    mask = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert mask.shape == SIZE_WH[::-1]
    assert set(np.unique(mask)) == {0, 255}
    assert mask[y, x] == 255
    name, text = try_page.save("p")
    polygons = json.loads(text)
    assert (name, polygons["width"], polygons["height"]) == ("gears-polygons.json", *SIZE_WH)
    assert len(polygons["polygons"][0]) > 2
    name, text = try_page.save("c")
    coco = json.loads(text)
    assert name == "gears-coco.json"
    assert coco["images"] == [{"id": 1, "file_name": "gears.jpg", "width": 800, "height": 800}]
    areas = sum(annotation["area"] for annotation in coco["annotations"])
    assert areas == pytest.approx((mask == 255).sum(), rel=0.05)
    boxes = [annotation["bbox"] for annotation in coco["annotations"]]
    assert any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes)
    assert all(address.startswith((service.url, "data:", "blob:")) for address in try_page.addresses)
    assert not try_page.complaints


def test_alt_and_the_right_button_exclude_a_drag_is_a_box_and_undo_takes_the_last_back(service, browser):
    try_page = TryPage(browser, service.url)
    try_page.take_sample()
    try_page.click(*GEAR["click"])
    try_page.page.keyboard.down("Alt")
    try_page.click(40, 760)
    try_page.page.keyboard.up("Alt")
    try_page.click(60, 700, button="right")
    try_page.drag(*HORSESHOE["box"])
    expect(try_page.state).to_contain_text("2 masks", timeout=SOON_MS)
    *points, box = try_page.prompts()
    assert [point["is_positive"] for point in points] == [True, False, False]
    x1, y1, x2, y2 = (part / 8 for part in HORSESHOE["box"])
    assert [box["value"][key] for key in ("x", "y", "width", "height")] == pytest.approx(
        [x1, y1, x2 - x1, y2 - y1], abs=0.5
    )
    try_page.page.keyboard.press("z")
    expect(try_page.state).to_contain_text("Mask in", timeout=SOON_MS)
    assert len(try_page.prompts()) == 3
    try_page.page.keyboard.press("Escape")
    for kind in ("Undo", "PNG"):
        expect(try_page.page.get_by_role("button", name=kind)).to_be_disabled()
    assert not try_page.complaints


def test_the_keyboard_alone_clicks_and_draws_a_box(service, browser):
    try_page = TryPage(browser, service.url)
    try_page.page.get_by_role("button", name=NAME).press("Enter")
    expect(try_page.view).to_be_focused(timeout=SOON_MS)
    try_page.page.keyboard.press("Enter")
    try_page.expect_mask()
    (point,) = try_page.prompts()
    assert (point["value"]["x"], point["value"]["y"], point["is_positive"]) == (50, 50, True)
    for _ in range(8):
        try_page.page.keyboard.press("Shift+ArrowDown")
    try_page.page.keyboard.press("Alt+Enter")
    for _ in range(8):
        try_page.page.keyboard.press("Shift+ArrowUp")
    try_page.page.keyboard.press("b")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "ArrowDown"):
        try_page.page.keyboard.press(key)
    try_page.page.keyboard.press("b")
    try_page.expect_mask()
    _, background, box = try_page.prompts()
    assert (background["value"]["y"], background["is_positive"]) == (90, False)
    assert [box["value"][key] for key in ("x", "y", "width", "height")] == [50, 50, 5, 5.5]
    assert not try_page.complaints


def test_a_dropped_picture_is_used_as_the_browser_turns_it_and_the_request_is_shown(service, browser):
    try_page = TryPage(browser, service.url)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(SAMPLES / "wide.jpg").save(turned, "JPEG", exif=exif)
    try_page.page.evaluate(
        """(bytes) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "turned.jpg", { type: "image/jpeg" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        list(turned.getvalue()),
    )
    expect(try_page.state).to_contain_text("turned.jpg, 480 × 960", timeout=SOON_MS)
    try_page.view.click()
    try_page.expect_mask()
    _, png = try_page.save("s")
    assert Image.open(io.BytesIO(png)).size == (480, 960)
    try_page.page.get_by_text("The request that Label Studio").click()
    request = try_page.page.locator("#request").inner_text()
    assert f"POST {service.url}predict" in request
    assert '"is_positive": true' in request
    assert not try_page.complaints


def test_what_is_no_picture_and_a_service_that_is_gone_are_reported(service, browser):
    try_page = TryPage(browser, service.url)
    upload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    try_page.page.locator("#file").set_input_files([upload])
    expect(try_page.state).to_contain_text("cannot show notes.txt")
    try_page.take_sample()
    service.server.shutdown()
    service.server.server_close()
    try_page.click(*GEAR["click"])
    expect(try_page.state).to_contain_text("No mask", timeout=SOON_MS)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_never_wider_than_the_window(service, browser, viewport):
    try_page = TryPage(browser, service.url, viewport)
    try_page.take_sample()
    assert try_page.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_browser_that_prefers_chinese_is_shown_chinese(service, browser):
    try_page = TryPage(browser, service.url, locale="zh-CN")
    expect(try_page.page).to_have_title("试用 – PaddlePaddle SAM 后端")
    expect(try_page.state).to_have_text("还没有图片。")
    try_page.page.get_by_role("button", name=NAME).click()
    expect(try_page.state).to_have_text(f"{NAME}.jpg，800 × 800。点击一个物体，或在它周围拖出一个框。", timeout=SOON_MS)
    try_page.click(*GEAR["click"])
    expect(try_page.state).to_contain_text("毫秒 · 分数", timeout=SOON_MS)
    expect(try_page.page.get_by_label("图片，带提示和掩码")).to_be_visible()
    expect(try_page.page.get_by_role("button", name="清除")).to_be_enabled()
    expect(try_page.page.get_by_text("按住 Alt 或用右键")).to_be_visible()
    try_page.page.keyboard.press("Escape")
    try_page.click(*GEAR["click"], button="right")
    expect(try_page.state).to_have_text("只有背景不标记任何东西：请同时点击物体。", timeout=SOON_MS)
    assert english(try_page.page) <= {"PNG", "COCO", "Esc", "Enter", "Alt"}, "the same in every language"
    assert not try_page.complaints


def test_words_show_labelled_masks_where_there_is_a_detector(tmp_path, browser):
    detector = directories.write_colour_finder(tmp_path / "colours", ["red disc", "green", "blue disc"])
    (tmp_path / "discs.png").write_bytes(directories.png(directories.coloured_discs(1)[0]))
    with driver(tmp_path, PADDLE_SAM_DETECTOR=str(detector)) as service:
        service.start()
        try_page = TryPage(browser, service.url)
        try_page.page.locator("#file").set_input_files(tmp_path / "discs.png")
        expect(try_page.state).to_contain_text("400 × 300", timeout=SOON_MS)
        try_page.page.get_by_label("Words").fill("red disc, green; blue disc")
        try_page.page.keyboard.press("Enter")
        expect(try_page.state).to_contain_text("2 masks", timeout=SOON_MS)
        labels = [name for name in ("red disc", "green", "blue disc") if f"{name} 0.750" in try_page.state.inner_text()]
        assert len(labels) == 2
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        try_page.page.screenshot(path=SCREENSHOTS / "try-words.png", full_page=True)
        try_page.page.get_by_label("Words").press("Escape")
        with try_page.page.expect_download() as download:
            try_page.page.get_by_role("button", name="COCO").click()
        saved = json.loads(download.value.path().read_bytes())
        assert {category["name"] for category in saved["categories"]} == set(labels)
        assert {annotation["category_id"] for annotation in saved["annotations"]} == {1, 2}
        try_page.page.get_by_label("Words").fill("a cow")
        try_page.page.get_by_role("button", name="Find").click()
        expect(try_page.state).to_contain_text("No mask", timeout=SOON_MS)
        assert not try_page.complaints
