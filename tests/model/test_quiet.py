"""Plain Python use of the model writes nothing of libraries into the caller's log."""

import functools
import logging
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from PIL import Image

from model.paddlex.inputs import find
from model.weights import WeightsError
from model.weights.download import download


class Broken(SimpleHTTPRequestHandler):
    """Gives files; of weights it is not able to give anything yet."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.endswith(".pth"):
            self.send_response(503)
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def address(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.png")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Broken, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_requests_of_ours_are_not_in_the_log_and_the_callers_own_are(address, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    find(f"{address}/photo.png")[0].open()
    with pytest.raises(WeightsError, match="got HTTP status 503"):
        download("sam_vit_b", tmp_path / "weights", mirror=address, attempts=2)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("model.weights.download", f"{address}/sam_vit_b_01ec64.pth: attempt 1 of 2 broke off")
    ]
    caplog.clear()
    httpx.get(f"{address}/photo.png")
    assert [record.name for record in caplog.records] == ["httpx"]


CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO)
import model
from model import create_model
results = create_model("demo", device="cpu").predict(sys.argv[1], prompts={"box_prompt": [[1, 2, 30, 30]]})
assert next(results)["masks"][0].shape == (40, 60)
from model.build import load_decoder
"""


def test_plain_python_use_writes_nothing(address):
    command = [sys.executable, "-W", "default::UserWarning", "-c", CODE, f"{address}/photo.png"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (completed.stdout, completed.stderr) == ("", "")
