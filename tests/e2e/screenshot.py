"""Take the README's picture of the editor again: `python -m tests.e2e.screenshot SAMPLE OBJECT [OBJECT ...]`.

Each of the numbered objects of the sample is clicked and accepted, the last one only suggested.
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from backend.demo import SAMPLES
from backend.demo_processes import free_port
from tests.e2e.annotator import Annotator, chromium
from tests.e2e.label_studio_server import ROOT, Studio, chromium_executable, label_studio_python

TARGET = ROOT / "docs" / "images" / "annotator.png"
VIEWPORT = {"width": 1300, "height": 1000}
COLOURS = 256


def take(sample: str, objects: list[int], folder: Path) -> None:
    known = json.loads((SAMPLES / "samples.json").read_text())[sample]
    python, executable = label_studio_python(), chromium_executable()
    if python is None or executable is None:
        raise SystemExit("Label Studio and Chromium are needed")
    studio = Studio(folder / "demo", python, free_port(29090, "it"), free_port(28080, "it"))
    try:
        studio.start()
        (task,) = [one["id"] for one in studio.tasks(1) if one["data"]["image"].endswith(f"-{sample}")]
        with sync_playwright() as playwright, chromium(playwright, executable) as browser:
            annotator = Annotator(browser, studio.url, folder)
            annotator.page.set_viewport_size(VIEWPORT)
            annotator.log_in(studio.username, studio.password)
            annotator.open_task(1, task, tuple(known["size"]))
            for number in objects:
                annotator.choose("Object", 0, "key-point-tool")
                annotator.click(known["objects"][number]["click"])
                if number != objects[-1]:
                    annotator.accept()
            picture = Image.open(annotator.photograph("annotator")).convert("RGB")
            annotator.close()
    finally:
        studio.stop()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(TARGET, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        take(sys.argv[1], [int(number) for number in sys.argv[2:]], Path(folder))
