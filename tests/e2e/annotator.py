"""An annotator at work: Label Studio's editor in a real Chromium, driven by what a person would point at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:  # tests that are skipped without playwright are collected without it
    from playwright.sync_api import Browser, Page, Playwright, Request, Response, StorageState, ViewportSize

SmartTool = Literal["key-point-tool", "rectangle-tool", "rectangle-3-point-tool"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT: ViewportSize = {"width": 1300, "height": 1300}
"""High enough for an upright picture to be seen whole: what lies below the fold cannot be pointed at."""

TOGGLES = {
    "bottombar-auto-annotation-toggle": "Auto-Annotation",
    "bottombar-auto-accept-toggle": "Auto-Accept Suggestions",
}
"""What people read beside them; Label Studio 1.22 has no other names for its switches."""

PATIENCE_MS = 60_000
ANSWER_MS = 100_000
"""Label Studio waits as long for a backend."""
SETTLE_MS = 700
"""The editor draws some time after it has got an answer; nothing in the page says when it is done."""


@contextmanager
def chromium(playwright: Playwright, executable: Path) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=executable, headless=True, args=list(FLAGS))
    try:
        yield browser
    finally:
        browser.close()


class Annotator:
    """One person with one browser tab. Points are (x, y) in pixels of the upright image, as the test knows it."""

    def __init__(self, browser: Browser, url: str, screenshots: Path, cookies: StorageState | None = None) -> None:
        context = browser.new_context(viewport=VIEWPORT, storage_state=cookies)
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.url = url
        self.outside: list[str] = []
        """The requests of the page to other hosts."""
        self.clicks: list[dict] = []
        """The context of each interactive request, oldest first."""
        self._screenshots = screenshots
        self._size_wh, self._turned = (0, 0), False
        self.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != urlsplit(self.url).netloc:
            self.outside.append(request.url)
        if "interactive-annotating" in request.url:
            self.clicks.append(json.loads(request.post_data or "{}")["context"])

    def close(self) -> None:
        self.page.context.close()

    def log_in(self, username: str, password: str) -> StorageState:
        """Log in on the page for it; return the cookies with which the next tab need not."""
        self.page.goto(f"{self.url}/user/login/")
        self.page.fill("#email", username)
        self.page.fill("#password", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/user/login" not in url)
        return {"cookies": self.page.context.storage_state()["cookies"]}

    def sign_up(self, url: str, username: str) -> None:
        """Make an account on the page of an invitation, and log in with it."""
        self.page.goto(url)
        self.page.fill("#email", username)
        self.page.fill("#password", "a long password")
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/user/signup" not in url)

    def open_task(self, project: int, task: int, size: tuple[int, int]) -> None:
        """Open a task whose upright image has ``size`` (height, width), with Auto-Annotation switched on."""
        self.page.goto(f"{self.url}/projects/{project}/data?task={task}")
        self._canvas.wait_for()
        self._size_wh, self._turned = (size[1], size[0]), False
        self.page.wait_for_timeout(SETTLE_MS)
        self._switch("bottombar-auto-annotation-toggle", True)

    def auto_accept(self, on: bool) -> None:
        self._switch("bottombar-auto-accept-toggle", on)

    def _switch(self, name: str, on: bool) -> None:
        toggle = self._named(name, self.page.get_by_label(TOGGLES[name]))
        toggle.wait_for(state="attached")
        if toggle.is_checked() != on:
            toggle.click(force=True)
        assert toggle.is_checked() == on
        self.page.evaluate("document.activeElement.blur()")  # else it swallows the next keys

    def _named(self, name: str, otherwise):
        """What Label Studio from 1.23 on has named for tests; the other one in older releases."""
        named = self.page.get_by_test_id(name)
        named.or_(otherwise).first.wait_for(state="attached")
        return named if named.count() else otherwise

    @property
    def _canvas(self):
        return self.page.locator(".konvajs-content").first

    def show_image(self, number: int, size: tuple[int, int]) -> None:
        """Go from the first to another image, counted from 0, of a task with several; ``size`` is (height, width)."""
        for _ in range(number):
            self.page.locator(".lsf-pagination__btn_arrow-right").first.click()
            self.page.wait_for_timeout(SETTLE_MS)
        self._size_wh = (size[1], size[0])

    def turn_right(self) -> None:
        """Turn the picture by a quarter, clockwise."""
        self.page.locator('button[aria-label="rotate-right"]').click()
        self.page.wait_for_timeout(SETTLE_MS)
        self._turned = True

    def choose(self, label: str, row: int, tool: SmartTool) -> None:
        """Choose a label from the row of labels of this number, then a smart tool.

        A label of KeyPointLabels or RectangleLabels has to be chosen again for every prompt, one of Labels does not.
        """
        chip = self.page.locator(".lsf-labels").nth(row).locator(".lsf-label", has_text=label)
        if "lsf-label_selected" not in (chip.get_attribute("class") or ""):  # else the click would take it back
            chip.click()
        self.page.locator(".lsf-toolbar__group > .lsf-tool_smart").hover()
        chosen = self.page.locator(f'.lsf-toolbar__smart button[aria-label="{tool}"]')
        chosen.click()
        self.page.wait_for_selector(f'.lsf-tool_smart.lsf-tool_active[aria-label="{tool}"]', state="attached")

    def _on_screen(self, point: tuple[float, float]) -> tuple[float, float]:
        box = self.page.locator('img[alt="image"]').first.bounding_box()  # a turned picture does not fill its canvas
        assert box is not None
        x, y = point[0] / self._size_wh[0], point[1] / self._size_wh[1]
        if self._turned:
            x, y = 1 - y, x
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def take_smart_point(self) -> None:
        """Do what the demo's hint says: click the lowest tool at the right until it shows three dots and is framed."""
        lowest = self.page.locator(".lsf-toolbar__group > .lsf-tool_smart")
        for _ in range(4):
            if self.active_tool == ("key-point-tool", True):
                return
            lowest.click()
            self.page.mouse.move(5, 5)  # from the tools that open beside it
            self.page.wait_for_timeout(SETTLE_MS)
        raise AssertionError(f"the smart point was not reached, but {self.active_tool}")

    @property
    def active_tool(self) -> tuple[str, bool]:
        """The tool that is framed, and whether it is a smart one."""
        tool = self.page.locator(".lsf-tool_active[aria-label]").last
        return tool.get_attribute("aria-label") or "", "lsf-tool_smart" in (tool.get_attribute("class") or "")

    @property
    def chosen_labels(self) -> list[str]:
        """The labels that are chosen, of all rows."""
        return [text.split()[0] for text in self.page.locator(".lsf-labels .lsf-label_selected").all_inner_texts()]

    def choose_label(self, label: str) -> None:
        """Click a label of the only row that is shown."""
        self.page.locator(".lsf-labels .lsf-label:visible", has_text=label).click()
        self.page.wait_for_timeout(SETTLE_MS)

    def type_words(self, words: str) -> dict:
        """Enter words into the only text field about the image; return what Label Studio answered the editor."""
        self.page.locator(".lsf-text-area textarea, .lsf-text-area input").first.fill(words)
        with self._answer() as answered:
            self.page.keyboard.press("Enter")
        return self._seen(answered)

    def press(self, keys: str) -> None:
        """Press a key, or several at once (``Control+z``)."""
        self.page.keyboard.press(keys)
        self.page.wait_for_timeout(SETTLE_MS)

    def click(self, point: tuple[float, float], *, negative: bool = False, inside: bool = False) -> dict:
        """Click; return what Label Studio answered the editor. With Ctrl where that is ``inside`` an accepted mask."""
        with self._answer() as answered:
            self._click(point, negative, inside)
        return self._seen(answered)

    def click_in_vain(self, point: tuple[float, float], *, negative: bool = False) -> None:
        """Click where the editor sends the backend no request."""
        before = len(self.clicks)
        self._click(point, negative, inside=False)
        self.page.wait_for_timeout(2 * SETTLE_MS)
        assert len(self.clicks) == before, self.clicks[before:]

    def _click(self, point: tuple[float, float], negative: bool, inside: bool) -> None:
        keys = [key for key, is_held in (("Control", inside), ("Alt", negative)) if is_held]
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self._on_screen(point))
        for key in keys:
            self.page.keyboard.up(key)

    def stroke(self, tool: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw with an ordinary tool (``eraser``, ``brush-tool``)."""
        self.page.locator(f'.lsf-toolbar [aria-label="{tool}"]').first.click()
        self.page.mouse.move(*self._on_screen(start))
        self.page.mouse.down()
        self.page.mouse.move(*self._on_screen(end), steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(SETTLE_MS)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> dict:
        """Draw a rectangle; return what Label Studio answered the editor."""
        self.page.mouse.move(*self._on_screen(start))
        self.page.mouse.down()
        self.page.mouse.move(*self._on_screen(((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)), steps=4)
        self.page.mouse.move(*self._on_screen(end), steps=4)
        with self._answer() as answered:
            self.page.mouse.up()
        return self._seen(answered)

    def _answer(self):
        return self.page.expect_response(lambda answer: "interactive-annotating" in answer.url, timeout=ANSWER_MS)

    def _seen(self, answered) -> dict:
        answer: Response = answered.value
        self.page.wait_for_timeout(SETTLE_MS)
        return answer.json()

    def accept(self) -> None:
        otherwise = self.page.locator(".lsf-auto-accept__action_type_accept")
        self._named("bottombar-accept-suggestions-button", otherwise).click()
        self.page.wait_for_timeout(SETTLE_MS)

    def reject(self) -> None:
        otherwise = self.page.locator(".lsf-auto-accept__action_type_reject")
        self._named("bottombar-reject-suggestions-button", otherwise).click()
        self.page.wait_for_timeout(SETTLE_MS)

    def update(self) -> None:
        """Save a change of an annotation that was submitted before."""
        with self.page.expect_response(
            lambda answer: "/annotations/" in answer.url and answer.request.method == "PATCH"
        ) as answered:
            self._named("bottombar-update-button", self.page.locator('button[name="update"]')).click()
        assert answered.value.ok, answered.value.text()

    @property
    def corners_shown(self) -> int:
        """How many corners the only polygon on the canvas has, as the editor draws it."""
        return self.page.evaluate(
            "Konva.stages.flatMap(stage => stage.find('Line')).filter(line => line.closed())[0].points().length / 2"
        )

    def submit(self) -> list[dict]:
        """Submit; return the regions as Label Studio kept them."""
        with self.page.expect_response(
            lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
        ) as answered:
            self._named("bottombar-submit-button", self.page.locator('button[name="submit"]')).click()
        assert answered.value.status == 201, answered.value.text()
        return answered.value.json()["result"]

    def photograph(self, name: str) -> Path:
        self._screenshots.mkdir(parents=True, exist_ok=True)
        path = self._screenshots / f"{name}.png"
        self.page.mouse.move(5, 5)
        self.page.screenshot(path=path)
        return path
