"""The button *Start training* in a real Label Studio: the next click is answered by the project's own decoder."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from tests.e2e.annotator import Annotator
from tests.e2e.label_studio_server import ROOT, Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = (192, 256)
IMAGES = 12
TRAINED_S = 1200.0
TAKEN_UP_S = 10.0
LABELS = '<Label value="Core" background="#d4380d"/>'
CONFIG = (
    f'<View><Image name="image" value="$image"/><PolygonLabels name="outline" toName="image" smart="false">{LABELS}'
    f'</PolygonLabels><RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels></View>'
)


def picture(seed: int) -> tuple[bytes, list[list[tuple[float, float]]]]:
    """Discs on a grey ground, and outlines (x, y) of what this project calls an object: the inner half of each disc."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*SIZE, 3), 128, np.uint8) + rng.integers(0, 9, (*SIZE, 3), dtype=np.uint8)
    outlines = []
    for column in (64, 192):
        x, y, radius = (int(number) for number in rng.integers((column - 15, 66, 32), (column + 15, 126, 44)))
        cv2.circle(pixels, (x, y), radius, tuple(map(int, rng.integers(0, 256, 3))), -1, cv2.LINE_AA)
        turns = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        outlines.append([(x + radius / 2 * np.cos(turn), y + radius / 2 * np.sin(turn)) for turn in turns])
    return cv2.imencode(".png", pixels)[1].tobytes(), outlines


def region(number: int, outline: list[tuple[float, float]]) -> dict:
    points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in outline]
    return {
        "id": f"outline{number}", "type": "polygonlabels", "from_name": "outline", "to_name": "image",
        "value": {"points": points, "closed": True, "polygonlabels": ["Core"]},
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0,
    }  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.2)


def version(studio: Studio, project: int) -> str:
    """What the backend calls the model of a project."""
    body = json.dumps({"project": f"{project}.1", "schema": CONFIG}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{studio.backend_url}/setup", body)) as answer:
        return json.load(answer)["model_version"]


def decoders(studio: Studio, *arguments: str) -> str:
    environ = {**os.environ, "PADDLE_SAM_DECODERS_DIR": str(studio.folder / "decoders")}
    command = [sys.executable, "-m", "backend", "decoders", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True).stdout


def press_start_training(annotator: Annotator, project: int) -> None:
    page = annotator.page
    page.goto(f"{annotator.url}/projects/{project}/settings/ml")
    page.get_by_role("button", name="Machine learning model").first.click()
    page.get_by_text("Start Training", exact=True).first.click()
    page.get_by_role("button", name="Start Training").last.click()
    page.get_by_text("Request Sent!").wait_for()


def clicked_version(annotator: Annotator, project: int, task: int, outline: list[tuple[float, float]]) -> str:
    """Draw a smart rectangle about an object; return the model version of the answer."""
    corners = np.array(outline)
    annotator.open_task(project, task, SIZE)
    annotator.choose("Core", 1, "rectangle-tool")
    answer = annotator.drag(tuple(corners.min(axis=0) - 12), tuple(corners.max(axis=0) + 12))
    return answer["data"]["model_version"]


def test_start_training_gives_the_project_a_decoder_and_a_rollback_takes_it_away(studio, annotator):
    project, other = studio.project(CONFIG), studio.project(CONFIG)
    pictures = [picture(seed) for seed in range(IMAGES)]
    files = {f"{number:02}.png": data for number, (data, _) in enumerate(pictures)}
    tasks = studio.upload(project, files)
    for number, (_, outlines) in enumerate(pictures[:-1]):
        regions = [region(index, outline) for index, outline in enumerate(outlines)]
        studio.post(f"/api/tasks/{tasks[f'{number:02}.png']}/annotations/", {"result": regions})
    task, outline = tasks[f"{IMAGES - 1:02}.png"], pictures[-1][1][0]
    base = version(studio, project)
    assert clicked_version(annotator, project, task, outline) == base

    press_start_training(annotator, project)
    wait_for(lambda: version(studio, project) != base, TRAINED_S)
    tuned = version(studio, project)
    assert tuned.startswith(f"{base}+p{project}-")
    assert version(studio, other) == base
    assert clicked_version(annotator, project, task, outline) == tuned
    page = annotator.page
    page.goto(studio.backend_url)
    page.get_by_role("row").filter(has_text=tuned.rpartition("-")[2]).filter(has_text="done since").wait_for()

    assert tuned.rpartition("-")[2] in decoders(studio, "list")
    decoders(studio, "rollback", "--project", str(project))
    wait_for(lambda: version(studio, project) == base, TAKEN_UP_S)
    assert clicked_version(annotator, project, task, outline) == base
