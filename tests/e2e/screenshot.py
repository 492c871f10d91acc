"""Take the README's picture of the editor again: `python -m tests.e2e.screenshot SAMPLE OBJECT [OBJECT ...]`.

Each of the numbered objects of the sample is clicked and accepted, the last one only suggested. Cut out of it: the bar
of tools, and what lies between the switch of Auto-Annotation and Submit. ``python -m tests.e2e.screenshot carving``
takes that of a part that is taken out of a mask.
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from backend.demo.processes import free_port
from backend.demo.project import LABEL_CONFIG
from model.demo import SAMPLES
from tests.e2e.annotator import Annotator, chromium
from tests.e2e.label_studio_server import ROOT, Studio, chromium_executable, label_studio_python
from tests.e2e.targets import target_of_two_parts

IMAGES = ROOT / "docs" / "images"
VIEWPORT = {"width": 1300, "height": 1000}
COLOURS = 256
MARGIN = 6


def take(sample: str, objects: list[int], folder: Path) -> None:
    samples = json.loads((SAMPLES / "samples.json").read_text())[sample]
    python, executable = label_studio_python(), chromium_executable()
    if python is None or executable is None:
        raise SystemExit("Label Studio and Chromium are needed")
    studio = Studio(folder / "demo", python, free_port(29090, "it"), free_port(28080, "it"))
    try:
        studio.start()
        (task,) = [task["id"] for task in studio.tasks(1) if task["data"]["image"].endswith(f"-{sample}")]
        with sync_playwright() as playwright, chromium(playwright, executable) as browser:
            annotator = Annotator(browser, studio.url, folder)
            annotator.page.set_viewport_size(VIEWPORT)
            annotator.log_in(studio.username, studio.password)
            annotator.open_task(1, task, tuple(samples["size"]))
            for number in objects:
                annotator.choose("Object", 0, "key-point-tool")
                annotator.click(samples["objects"][number]["click"])
                if number != objects[-1]:
                    annotator.accept()
            picture = Image.open(annotator.photograph("annotator")).convert("RGB")
            tools = picture.crop(_around(annotator, ".lsf-toolbar", ".lsf-toolbar"))
            tick = picture.crop(
                _around(
                    annotator,
                    '[data-testid="bottombar-auto-annotation-toggle"]',
                    '[data-testid="bottombar-submit-button"]',
                )
            )
            annotator.close()
    finally:
        studio.stop()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, element in (("annotator", picture), ("tools", tools), ("tick", tick)):
        small = element.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(IMAGES / f"{name}.png", optimize=True)


def take_carving(folder: Path) -> None:
    """Take the picture of a part that is taken out of a mask: accepted, suggested, and after the tick."""
    python, executable, target = label_studio_python(), chromium_executable(), target_of_two_parts()
    if python is None or executable is None:
        raise SystemExit("Label Studio and Chromium are needed")
    studio = Studio(folder / "demo", python, free_port(29090, "it"), free_port(28080, "it"))
    try:
        studio.start()
        project = studio.project(LABEL_CONFIG)
        task = studio.task(project, "scene.png", target.data)
        with sync_playwright() as playwright, chromium(playwright, executable) as browser:
            annotator = Annotator(browser, studio.url, folder)
            annotator.log_in(studio.username, studio.password)
            annotator.open_task(project, task, target.size)
            annotator.take_smart_point()
            annotator.click(target.centre)
            annotator.accept()
            pictures = [_image(annotator)]
            annotator.click(target.part_centre, negative=True, inside=True)
            pictures.append(_image(annotator))
            annotator.accept()
            pictures.append(_image(annotator))
            annotator.close()
    finally:
        studio.stop()
    width, height = pictures[0].width // 2, pictures[0].height // 2
    row = Image.new("RGB", (3 * width + 2 * MARGIN, height), "white")
    for number, picture in enumerate(pictures):
        row.paste(picture.resize((width, height)), (number * (width + MARGIN), 0))
    small = row.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(IMAGES / "carving.png", optimize=True)


def _image(annotator: Annotator) -> Image.Image:
    """Return what the page shows of the image: the editor cuts off the edges of one that is larger than its canvas."""
    box = annotator.page.locator(".konvajs-content").first.bounding_box()
    assert box is not None
    left, top = round(box["x"]), round(box["y"])
    whole = Image.open(annotator.photograph("annotator")).convert("RGB")
    return whole.crop((left, top, left + round(box["width"]), top + round(box["height"])))


def _around(annotator: Annotator, first: str, last: str) -> tuple[int, int, int, int]:
    """Return what to cut out, from one element of the page to another: left, top, right, bottom."""
    boxes = [annotator.page.locator(selector).first.bounding_box() for selector in (first, last)]
    start, end = boxes
    assert start is not None
    assert end is not None
    top, bottom = min(start["y"], end["y"]), max(start["y"] + start["height"], end["y"] + end["height"])
    left, right = start["x"], end["x"] + end["width"]
    return round(left) - MARGIN, round(top) - MARGIN, round(right) + MARGIN, round(bottom) + MARGIN


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["carving"]:
            take_carving(Path(folder))
            sys.exit()
        take(sys.argv[1], [int(number) for number in sys.argv[2:]], Path(folder))
