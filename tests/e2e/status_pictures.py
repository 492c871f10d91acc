"""Take pictures of the status page in every state it has: ``python -m tests.e2e.status_pictures [FOLDER]``.

A real service with the demo model is driven through them; with redis-server, a web process with two workers too.
Without a folder only the README's picture is taken again.
"""

import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from werkzeug.serving import make_server

from backend.composition import parts
from backend.composition import web as composition_web
from backend.settings import read
from model.demo import SAMPLES
from tests.e2e.annotator import chromium
from tests.e2e.label_studio_server import ROOT, chromium_executable
from tests.support.cluster import Cluster, eventually
from tests.support.fakes import HttpServer, Reply
from tests.support.redis_server import PROGRAM, RedisServer
from tests.support.wire_bodies import CONFIG, click, encoded, rectangle, result

TARGET = ROOT / "docs" / "images" / "status.png"
COLOURS = 256
DESKTOP = {"width": 1180, "height": 900}
PHONE = {"width": 390, "height": 844}
TOKEN = "0" * 40


class Driver:
    """A service, the server of its images, and a browser's view of it."""

    def __init__(self, images: HttpServer, folder: Path, **environ: str) -> None:
        names = {
            "LABEL_STUDIO_URL": images.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "PADDLE_SAM_CACHE_DIR": str(folder / "cache"),
            "PADDLE_SAM_PREFETCH_TASKS": "0",
        }
        self.settings = read({**names, **environ})
        self.service = composition_web.build(self.settings, parts.read_weights(self.settings))
        self.client = self.service.app.test_client()
        self.server = make_server("127.0.0.1", 0, self.service.app, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def start(self) -> None:
        self.service.start()
        eventually(lambda: b">ready<" in self.client.get("/", headers={"Accept": "text/html"}).data)

    def predict(self, body: dict) -> None:
        assert self.client.post("/predict", data=encoded(body)).status_code == 200

    def work(self, rounds: int) -> None:
        """Open and click through the samples, as annotators do."""
        samples = json.loads((SAMPLES / "samples.json").read_text())
        self.client.post("/setup", data=encoded({"project": "1.1", "schema": CONFIG}))
        for number in range(rounds):
            for index, (name, sample) in enumerate(samples.items()):
                task = [{"id": 10 + index, "data": {"image": f"/data/upload/1/{name}"}}]
                if not number:
                    self.predict(click(tasks=task, params={"context": None}))
                height, width = sample["size"]
                size = {"original_width": width, "original_height": height, "id": f"r{number}-{index}"}
                for each in sample["objects"][number % 2 :: 2]:
                    x, y = each["click"]
                    value = {"x": 100 * x / width, "y": 100 * y / height, "width": 0.5, "keypointlabels": ["Cat"]}
                    self.predict(click(result(value=value, **size), tasks=task))
                x1, y1, x2, y2 = sample["objects"][0]["box"]
                box = (100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height)
                self.predict(click(rectangle(*box, **size), tasks=task))

    def fail(self) -> None:
        """Ask for what cannot be had, in several ways."""
        for number, uri in enumerate(("/data/upload/1/gone.jpg", "gopher://x/y", "http://169.254.169.254/a.jpg")):
            for _ in range(3 - number):
                self.predict(click(result(), tasks=[{"id": 90 + number, "data": {"image": uri}}]))
        self.predict(click(result(), label_config="<View/>"))
        self.predict(click(result(is_positive=False)))
        self.client.post("/predict", data=b"nonsense")
        schema = "<View><Image name='page' value='$page'/><Choices name='c' toName='page'/></View>"
        self.client.post("/setup", data=encoded({"project": "7.1", "schema": schema}))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.service.close()


@contextmanager
def driver(folder: Path, **environ: str) -> Iterator[Driver]:
    """A driver with the samples behind its Label Studio's address."""
    with HttpServer() as images:
        for path in SAMPLES.glob("*.jpg"):
            images.routes[f"/data/upload/1/{path.name}"] = Reply(path.read_bytes())
        new_driver = Driver(images, folder, **environ)
        try:
            yield new_driver
        finally:
            new_driver.close()


def photograph(
    browser: Browser, url: str, target: Path, *, viewport: dict, scheme: str = "light", down_to: str | None = None
) -> None:
    """Take a picture of a page, or of its part above the end of an element; fails where the page complains."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=1)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    clip = None
    if down_to is not None:
        box = page.locator(down_to).last.bounding_box()
        clip = {"x": 0, "y": 0, "width": viewport["width"], "height": box["y"] + box["height"] + 16}
    page.screenshot(path=target, full_page=True, clip=clip)
    assert not complaints, complaints
    context.close()
    Image.open(target).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def english(page: Page) -> set[str]:
    """The texts of a page that hold two words in a row and no Chinese character.

    Names of reasons, stages and models are one word.
    """
    texts = page.evaluate(
        """() => {
            const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
            while (nodes.nextNode()) {
                const node = nodes.currentNode;
                if (!node.parentNode.closest("script, noscript, code, pre")) found.push(node.data);
            }
            return found.concat([...document.querySelectorAll("[aria-label]")].map((each) => each.ariaLabel));
        }"""
    )
    words = re.compile("[A-Za-z]{2,} [a-z]{2,}")
    return {text.strip() for text in texts if words.search(text) and not re.search("[\u4e00-\u9fff]", text)}


def alone(browser: Browser, folder: Path, work: Path) -> None:
    """Every state of a process without Redis."""
    with driver(work, LABEL_STUDIO_API_KEY="") as fresh:
        photograph(browser, fresh.url, folder / "1-fresh.png", viewport=DESKTOP)
    with driver(work) as busy:
        busy.start()
        busy.work(3)
        photograph(browser, busy.url, folder / "2-busy.png", viewport=DESKTOP)
        busy.fail()
        busy.work(1)
        for name, viewport, scheme in (
            ("3-failures", DESKTOP, "light"), ("4-dark", DESKTOP, "dark"),
            ("5-phone", PHONE, "light"), ("6-phone-dark", PHONE, "dark"),
        ):  # fmt: skip
            photograph(browser, busy.url, folder / f"{name}.png", viewport=viewport, scheme=scheme)


def team(browser: Browser, folder: Path, work: Path) -> None:
    """A web process with Redis: with two workers, then with none, then without its Redis."""
    with RedisServer(work) as redis, driver(work, REDIS_URL=redis.address) as web:
        environ = {"REDIS_URL": redis.address, "LABEL_STUDIO_URL": web.settings.label_studio_url}
        with Cluster(redis, work) as cluster:
            for _ in range(2):
                cluster.spawn("backend", "worker", env={**os.environ, **environ, "LABEL_STUDIO_API_KEY": TOKEN})
            web.start()
            web.work(3)
            eventually(lambda: "2 workers" in _page(web))
            photograph(browser, web.url, folder / "7-team.png", viewport=DESKTOP)
        redis.kill()
        web.predict(click(result()))
        photograph(browser, web.url, folder / "8-without-redis.png", viewport=DESKTOP)


def readme(browser: Browser, target: Path, work: Path) -> None:
    """The README's picture: work, and one thing to look at."""
    with driver(work) as busy:
        busy.start()
        busy.work(3)
        busy.predict(click(result(), tasks=[{"id": 90, "data": {"image": "/data/upload/1/gone.jpg"}}]))
        busy.work(1)
        photograph(browser, busy.url, target, viewport=DESKTOP, down_to=".cards")


def _page(web: Driver) -> str:
    return web.client.get("/", headers={"Accept": "text/html"}).text


def main(arguments: list[str]) -> None:
    executable = chromium_executable()
    if executable is None:
        raise SystemExit("Chromium is needed")
    with (
        tempfile.TemporaryDirectory() as work,
        sync_playwright() as playwright,
        chromium(playwright, executable) as browser,
    ):
        if not arguments:
            readme(browser, TARGET, Path(work))
            return
        folder = Path(arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        steps: list[Callable[[Browser, Path, Path], None]] = [alone, *([team] if PROGRAM else [])]
        for step in steps:
            step(browser, folder, Path(work))


if __name__ == "__main__":
    main(sys.argv[1:])
