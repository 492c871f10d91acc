"""The status page in a real browser: it keeps itself up to date, says when it cannot, and works without scripts."""

import re

import pytest

pytest.importorskip("playwright", reason="no playwright: see tests/e2e/requirements.txt")
from playwright.sync_api import expect

from tests.e2e.status_pictures import DESKTOP, PHONE, driver, english
from tests.support.wire_bodies import click, result

pytestmark = pytest.mark.browser
SOON_MS = 30_000


@pytest.fixture
def service(tmp_path):
    with driver(tmp_path) as service:
        yield service


def fail_once(service):
    service.predict(click(result(), tasks=[{"id": 1, "data": {"image": "gopher://x/y"}}]))


def test_it_keeps_itself_up_to_date_and_says_when_it_cannot(service, browser):
    page = browser.new_page()
    complaints, loads = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("load", lambda: loads.append(page.url))
    page.goto(service.url)
    expect(page.get_by_text("Nothing was asked yet")).to_be_visible()
    fail_once(service)
    expect(page.get_by_role("rowheader", name="unsupported_image_source")).to_be_visible(timeout=SOON_MS)
    expect(page.get_by_text("no longer up to date")).to_be_hidden()
    service.server.shutdown()
    service.server.server_close()
    expect(page.get_by_text("no longer up to date")).to_be_visible(timeout=SOON_MS)
    assert not complaints
    assert len(loads) == 1, "it was not loaded again, so it stays where the reader has scrolled to"


def test_without_scripts_it_loads_itself_again(service, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(service.url)
    fail_once(service)
    expect(page.get_by_role("rowheader", name="unsupported_image_source")).to_be_visible(timeout=SOON_MS)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_never_wider_than_the_window(service, browser, viewport):
    service.fail()
    page = browser.new_context(viewport=viewport).new_page()
    page.goto(service.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_browser_that_prefers_chinese_is_shown_chinese_and_so_is_what_comes_later(service, browser):
    page = browser.new_context(locale="zh-CN").new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(service.url)
    expect(page).to_have_title("正在加载模型 – PaddlePaddle SAM 后端")
    expect(page.get_by_role("heading", name="还没有请求")).to_be_visible()
    service.start()
    service.work(1)
    service.fail()
    expect(page).to_have_title("就绪 – PaddlePaddle SAM 后端", timeout=SOON_MS)
    expect(page.get_by_role("cell", name="不读取这种地址 → 使用 http(s)、上传或云存储")).to_be_visible(timeout=SOON_MS)
    chart = page.get_by_role("img", name="热点击").first
    assert re.fullmatch(
        r"热点击：最近 \d+ 次，最早的在前；中位数 [\d.]+ 毫秒，95 % 在 [\d.]+ (毫秒|秒) 以内",
        chart.get_attribute("aria-label"),
    )
    assert {text for text in english(page) if not text.startswith("label_config: ")} == set()  # errors are English
    assert not complaints
