"""Film the README's moving picture: `python -m tests.e2e.animation`.

A person marks four objects of a sample picture, three with a click and one with a rectangle, in a real Label Studio
with the demo model. Frames are screenshots with a pointer drawn in, since a browser without a screen shows none; how
long each is shown is chosen for the eye and says nothing of how long the answer took.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from backend.demo.processes import free_port
from model.demo import SAMPLES
from tests.e2e.annotator import Annotator, chromium
from tests.e2e.label_studio_server import ROOT, Studio, chromium_executable, label_studio_python

TARGET = ROOT / "docs" / "images" / "annotator.webp"
VIEWPORT = {"width": 1180, "height": 950}
LEFT, TOP = 239, 92
"""Left of and above this are the list of tasks and the site's menu."""

WIDTH = 860
SAMPLE, CLICKED, BOXED = "square.jpg", (2, 0, 7), 3
MARGIN = 6
"""Pixels of the picture by which the rectangle is wider than the object."""

STEPS, DRAG_STEPS, STEP_MS = 7, 6, 60
PRESS_MS, LOOK_MS, ACCEPTED_MS, END_MS = 250, 1100, 500, 3000
POINTER = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))


class Actor(Annotator):
    """An annotator whose screen is filmed; ``film`` holds screenshots and for how many milliseconds each is shown."""

    film: list[tuple[Image.Image, int]]
    at = (560.0, 400.0)

    def shoot(self, shown_ms: int) -> None:
        """Add a screenshot to the film."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        draw = ImageDraw.Draw(picture)
        draw.polygon([(self.at[0] + x, self.at[1] + y) for x, y in POINTER], fill="black", outline="white")
        picture = picture.crop((LEFT, TOP, *picture.size))
        size = WIDTH, round(picture.height * WIDTH / picture.width)
        self.film.append((picture.resize(size, Image.Resampling.LANCZOS), shown_ms))

    def move(self, to: tuple[float, float], steps: int = STEPS) -> None:
        """Take the pointer to a place on the screen, slower at both ends."""
        start = self.at
        for step in range(1, steps + 1):
            share = (step / steps) ** 2 * (3 - 2 * step / steps)
            self.at = (start[0] + (to[0] - start[0]) * share, start[1] + (to[1] - start[1]) * share)
            self.page.mouse.move(*self.at)
            self.page.wait_for_timeout(STEP_MS)  # what is being drawn comes after the pointer
            self.shoot(STEP_MS)

    def mark(self, point: tuple[float, float]) -> None:
        """Click on an object and keep its mask."""
        self.move(self._on_screen(point))
        self.shoot(PRESS_MS)
        self.click(point)
        self.shoot(LOOK_MS)
        self.keep()

    def frame(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a rectangle around an object and keep its mask."""
        self.move(self._on_screen(start))
        self.page.mouse.down()
        self.move(self._on_screen(end), DRAG_STEPS)
        self.shoot(PRESS_MS)
        with self._answer() as answered:
            self.page.mouse.up()
        self._seen(answered)
        self.shoot(LOOK_MS)
        self.keep()

    def keep(self) -> None:
        """Press the tick."""
        box = self.page.get_by_test_id("bottombar-accept-suggestions-button").bounding_box()
        assert box is not None
        self.move((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
        self.shoot(PRESS_MS)
        self.accept()
        self.shoot(ACCEPTED_MS)


def play(actor: Actor, objects: list[dict]) -> None:
    """Mark the objects."""
    actor.film = []
    actor.choose("Object", 0, "key-point-tool")
    actor.shoot(LOOK_MS)
    for number in CLICKED:
        actor.choose("Object", 0, "key-point-tool")
        actor.mark(objects[number]["click"])
    left, top, right, bottom = objects[BOXED]["box"]
    actor.choose("Part", 0, "rectangle-tool")
    actor.frame((left - MARGIN, top - MARGIN), (right + MARGIN, bottom + MARGIN))
    actor.shoot(END_MS)


def save(film: list[tuple[Image.Image, int]], path: Path) -> None:
    """Write the film, which repeats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, shown_ms = zip(*film, strict=True)
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=list(shown_ms), loop=0, quality=85, method=6,
        minimize_size=True,
    )  # fmt: skip


def take(folder: Path, target: Path) -> None:
    """Film it with a Label Studio and a backend of its own in ``folder``."""
    samples = json.loads((SAMPLES / "samples.json").read_text())[SAMPLE]
    python, executable = label_studio_python(), chromium_executable()
    if python is None or executable is None:
        raise SystemExit("Label Studio and Chromium are needed")
    studio = Studio(folder / "demo", python, free_port(29090, "it"), free_port(28080, "it"))
    try:
        studio.start()
        (task,) = [task["id"] for task in studio.tasks(1) if task["data"]["image"].endswith(f"-{SAMPLE}")]
        with sync_playwright() as playwright, chromium(playwright, executable) as browser:
            actor = Actor(browser, studio.url, folder)
            actor.page.set_viewport_size(VIEWPORT)
            actor.log_in(studio.username, studio.password)
            actor.open_task(1, task, tuple(samples["size"]))
            play(actor, samples["objects"])
            actor.close()
    finally:
        studio.stop()
    save(actor.film, target)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        take(Path(folder), Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
