"""The service where there is no gunicorn, no fork and none of what only Unix has."""

import json
import signal
import subprocess
import sys
import threading

import pytest

from backend.cli.main import main
from backend.cli.serve import server_for
from backend.settings import read
from backend.web import gunicorn_server, single_process
from tests.support.fakes import HttpServer, Reply, png
from tests.support.processes import ROOT, environment, serving
from tests.support.service import wait_until
from tests.support.wire_bodies import click_on, data_uri, encoded
from tests.support.wire_reader import mask_of

COMMAND = (sys.executable, "-m", "tests.support.other_system")
ON_MACOS = """
from backend.cli import serve
from backend.cli.main import main
from backend.web import single_process

serve.server_for = lambda platform: single_process.Server
main(prog_name="backend")
"""
AS_ON_MACOS = (sys.executable, "-c", ON_MACOS)


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("server"), COMMAND, PADDLE_SAM_WEIGHTS=weights) as server:
        yield server


def test_it_answers_clicks_and_shows_its_page(server):
    status, answer = server.ask("/predict", encoded(click_on(data_uri())))
    assert status == 200
    [item] = json.loads(answer)["results"]
    assert [mask_of(entry).shape for entry in item["result"]] == [(60, 80)]
    assert b"small@" in server.ask("/", Accept="text/html")[1]
    assert server.ask("/ready")[0] == 200


def test_every_command_is_there():
    completed = run("--help")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert all(f"  {command} " in completed.stdout for command in main.commands)


def test_the_demo_says_where_it_runs(tmp_path):
    completed = run("demo", "--folder", str(tmp_path))
    assert completed.returncode == 1
    assert "The demo needs Linux or macOS, on Windows inside WSL." in completed.stderr


def test_several_processes_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="WORKERS: expected 1, got 2; several processes need gunicorn"):
        single_process.Server(read({"WORKERS": "2"}), lambda: None)


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", [COMMAND, AS_ON_MACOS], ids=["windows", "macos"])
def test_a_stop_lets_a_click_in_hand_finish_and_ends_well(tmp_path, weights, command, how, is_loaded):
    """Paddle, once it is loaded, has a handler of SIGTERM of its own on macOS, which would end the process at once."""
    reached, go = threading.Event(), threading.Event()

    def slowly(request):
        reached.set()
        assert go.wait(60)
        return Reply(png(size_wh=(80, 60)))

    settings = {"PADDLE_SAM_WEIGHTS": weights, "PADDLE_SAM_ALLOWED_HOSTS": "127.0.0.1"}
    with HttpServer() as images, serving(tmp_path, command, **settings, LABEL_STUDIO_URL=images.url) as server:
        images.routes["/data/upload/1/a.png"] = slowly
        if is_loaded:
            wait_until(lambda: b"ready</span>" in server.ask("/", Accept="text/html")[1], 60)
        answers = []
        body = encoded(click_on("/data/upload/1/a.png"))
        clicking = threading.Thread(target=lambda: answers.append(server.ask("/predict", body)))
        clicking.start()
        assert reached.wait(60)
        server.process.send_signal(how)
        wait_until(lambda: not server.is_up())
        go.set()
        assert server.process.wait(60) == 0
        clicking.join(60)
    [(status, answer)] = answers
    assert status == 200
    assert json.loads(answer)["results"][0]["result"] != []
    assert "Traceback" not in server.log
    assert "FatalError" not in server.log


def test_linux_has_gunicorn_and_macos_does_not_fork():
    assert server_for("linux") is gunicorn_server.Server
    assert server_for("darwin") is single_process.Server
