"""SIGTERM ends a command as Ctrl-C does, before and after Paddle has installed its own handler."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.support.fakes import HttpServer, Reply
from tests.support.processes import ROOT, interruptible
from tests.support.scenes import scene_file

both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
ABORTED = 1


def start(*arguments, is_heard=True):
    """Start a command in a group that hears Ctrl-C, or that ignores it as under ``nohup command &``."""
    return subprocess.Popen(
        interruptible([sys.executable, "-m", "model", *map(str, arguments)], is_heard),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def hanging():
    """A server that never sends its file, and an event that a request for it sets."""
    is_asked, over = threading.Event(), threading.Event()

    def hang(request):
        is_asked.set()
        over.wait(60)
        return Reply(b"")

    with HttpServer() as server:
        server.routes["/mobile_sam.pt"] = hang
        yield server.url, is_asked
        over.set()


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_wait_for_the_network_ends_at_once(hanging, tmp_path, is_heard):
    url, is_asked = hanging
    with start("download", "mobile_sam", "--mirror", url, "--weights-dir", tmp_path, is_heard=is_heard) as process:
        assert is_asked.wait(60)
        process.send_signal(signal.SIGTERM)
        if not is_heard:  # the wait itself goes on: the second signal ends the process
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == (ABORTED if is_heard else 128 + signal.SIGTERM)
    assert err.endswith("Aborted!\n") is is_heard
    assert "Traceback" not in err


@pytest.mark.slow
@both
def test_a_run_over_pictures_removes_its_half_written_file(tmp_path, number):
    picture = scene_file(0).data
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(picture)
    out = tmp_path / "masks.json"
    with start("segment", tmp_path, "--everything", "--points-per-side", "64", "--coco-out", out) as process:
        part = tmp_path / "masks.json.part"
        while not part.exists():
            assert process.poll() is None, process.stderr.read()
        time.sleep(2)  # it is at the first picture
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == ABORTED
    assert "Aborted!" in err
    assert "Traceback" not in err
    assert "SIGTERM" not in err
    assert not part.exists()
    assert not out.exists()
