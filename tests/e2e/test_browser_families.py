"""A real Label Studio shows what MobileSAM and SAM 2.1 answer at their published sizes; the weights are random."""

import re

import pytest

from model.config import mobile_sam, sam2_1_hiera_tiny
from tests.e2e.targets import easy_target
from tests.reference.sam2_weights import lively_sam2
from tests.support.mobile_files import write_published
from tests.support.processes import serving
from tests.support.sam2_files import write_meta_sam2

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]

LABELS = '<Label value="Object" background="#d4380d"/><Label value="Part" background="#1d39c4"/>'
CONFIG = (
    '<View><Image name="image" value="$image" zoom="true"/>'
    f'<KeyPointLabels name="point" toName="image" smart="true">{LABELS}</KeyPointLabels>'
    f'<RectangleLabels name="box" toName="image" smart="true">{LABELS}</RectangleLabels>'
    f'<BrushLabels name="mask" toName="image" smart="false">{LABELS}</BrushLabels></View>'
)
POINT, BOX = 0, 1
PATIENT_S = "90"

WEIGHTS = {
    "mobile_sam": lambda folder: write_published(mobile_sam(), folder / "mobile_sam.pt"),
    "sam2.1_hiera_tiny": lambda folder: write_meta_sam2(
        lively_sam2(sam2_1_hiera_tiny()), folder / "sam2.1_hiera_tiny.pt"
    ),
}


def reasons(server) -> dict[str, float]:
    """How often the backend gave each reason for an empty answer."""
    _, text = server.ask("/metrics")
    counts = re.findall(r'^paddle_sam_reasons_total\{reason="(\w+)"\} ([\d.e+]+)$', text.decode(), re.M)
    return {name: float(count) for name, count in counts if float(count)}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_point_a_negative_point_and_a_box_are_answered_in_label_studio(studio, annotator, name, tmp_path):
    target = easy_target((480, 640))
    environ = {
        "PADDLE_SAM_WEIGHTS": str(WEIGHTS[name](tmp_path)),
        "PADDLE_SAM_PREDICT_BUDGET_S": PATIENT_S,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
    }
    with serving(tmp_path, **environ) as server:
        project = studio.project(CONFIG, backend=False)
        url = f"http://127.0.0.1:{server.port}"
        studio.post("/api/ml", {"project": project, "title": "SAM", "url": url, "is_interactive": True})
        task = studio.task(project, "scene.png", target.data)
        annotator.open_task(project, task, target.size)
        annotator.choose("Object", POINT, "key-point-tool")
        answers = [annotator.click(target.centre)]
        annotator.choose("Object", POINT, "key-point-tool")
        answers.append(annotator.click(target.beside, negative=True))
        assert [point["is_positive"] for point in annotator.clicks[-1]["result"]] == [True, False]
        annotator.photograph(f"{name}-points")
        studio_task = studio.task(project, "again.png", target.data)
        annotator.open_task(project, studio_task, target.size)
        annotator.choose("Part", BOX, "rectangle-tool")
        left, top, right, bottom = target.box
        answers.append(annotator.drag((left - 4, top - 4), (right + 4, bottom + 4)))
        annotator.photograph(f"{name}-box")
        reasons_before = reasons(server)
        assert "Traceback" not in server.log
    assert set(reasons_before) <= {"no_context", "no_prompt", "empty_mask"}, reasons_before
    regions = [answer["data"]["result"] for answer in answers]
    assert any(regions)
    for label, answered in zip(("Object", "Object", "Part"), regions, strict=True):
        for region in answered:
            assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", [label])
            assert (region["original_width"], region["original_height"]) == (640, 480)
            assert region["id"]
