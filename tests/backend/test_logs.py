"""The log: what its lines say."""

import logging
import os
import re
import subprocess
import sys

import pytest

from backend import answer_log
from backend.errors import Reason
from backend.metrics import Metrics
from backend.shapes import Brush, KeyPoint, Rectangle
from backend.types import Prediction, PredictRequest, PromptRegion, Region, Task

FAILING_ONCE = """
import stamina
from backend import logs

logs.configure("info")
failures = [ConnectionResetError("https://example.com/a.jpg?signature=secret")]

@stamina.retry(on=ConnectionResetError, attempts=2, wait_initial=0.01, wait_jitter=0.0)
def fetch():
    if failures:
        raise failures.pop()

fetch()
"""


def test_a_retry_is_logged_with_its_cause_and_without_an_address_that_may_be_signed():
    completed = subprocess.run([sys.executable, "-c", FAILING_ONCE], capture_output=True, text=True, check=True)
    (line,) = completed.stderr.splitlines()
    assert line.endswith("WARNING backend.logs event=retry attempt=1 wait_s=0.0 cause=ConnectionResetError")


SAYING_SOMETHING = """
import logging, sys
from backend import logs

logs.configure("debug")
for name in logs.LIBRARIES:
    logging.getLogger(name + ".below").info("GET https://example.com/a.jpg?signature=secret")
logging.getLogger("backend.somewhere").info("image encoded: ms=12")
"""


@pytest.mark.parametrize(("zone", "offset"), [("UTC", "+00:00"), ("Asia/Kolkata", "+05:30"), ("XYZ4", "-04:00")])
def test_lines_begin_with_the_local_time_and_its_offset_and_libraries_keep_quiet(zone, offset):
    completed = subprocess.run(
        [sys.executable, "-c", SAYING_SOMETHING],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TZ": zone},
    )
    (line,) = completed.stderr.splitlines()
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}" + re.escape(offset)
    assert re.fullmatch(moment + " INFO backend.somewhere image encoded: ms=12", line)


HOSTED = """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
from backend import label_studio_ml
label_studio_ml.compose()
logging.getLogger("httpx").info("HTTP Request: GET https://example.com/a.jpg?signature=secret")
logging.getLogger("host").info("my own line")
"""


def test_in_another_programs_server_the_http_client_writes_no_signed_address_either(tmp_path):
    environ = os.environ | {"PADDLE_SAM_CACHE_DIR": str(tmp_path)}
    completed = subprocess.run([sys.executable, "-c", HOSTED], capture_output=True, text=True, check=True, env=environ)
    assert "host my own line" in completed.stderr
    assert "signature" not in completed.stderr


def point(name, is_positive=True):
    return PromptRegion(name, KeyPoint(1, 2), "point", "image", is_positive=is_positive)


def region():
    return Region("one", "brush", "brush", "image", Brush(b"x"), (), (6, 8), score=0.9261)


@pytest.fixture
def line(caplog):
    """Return a function that notes an answer and returns its line in the log."""
    caplog.set_level(logging.INFO, "backend")

    def note(context, predictions, metrics=None):
        request = PredictRequest((Task(12),), 3, context=context)
        answer_log.record(metrics or Metrics(), request, predictions, total_s=0.1432, body_bytes=1332)
        return caplog.messages[-1]

    return note


def test_a_click_is_logged_in_words_and_fields(line):
    metrics = Metrics()
    metrics.record_lookup("memory")
    context = (point("a"), point("b"), point("c", is_positive=False))
    assert line(context, [Prediction((region(),), 0.9261, "demo@1")], metrics) == (
        "click answered: task=12 prompts='2 points, 1 negative point' regions=1 score=0.93 reasons=- ms=143 "
        "embedding=memory project=3 bytes=1332 event=predicted"
    )


def test_a_click_that_waited_for_its_image_says_so_and_one_without_a_mask_why(line):
    metrics = Metrics()
    with metrics.waiting():
        pass
    context = (PromptRegion("a", Rectangle(1, 2, 3, 4), "box", "image"),)
    log_line = line(context, [Prediction((), 0.0, "demo@1", (Reason.EMPTY_MASK,))], metrics)
    assert "prompts='1 rectangle' regions=0 score=- reasons=empty_mask ms=143 embedding=waited" in log_line


def test_where_an_embedding_was_found_is_recorded_for_the_click_that_found_it_alone(line):
    metrics = Metrics()
    metrics.record_lookup("disk")
    assert "embedding=disk" in line((point("a"),), [Prediction((), 0.0, "demo@1")], metrics)
    assert "embedding=-" in line((point("a"),), [Prediction((), 0.0, "demo@1")], metrics)


def test_an_opened_task_is_no_click(line):
    log_line = line(None, [Prediction((), 0.0, "demo@1")])
    assert log_line.startswith("tasks answered: task=12 tasks=1 regions=0 ")
