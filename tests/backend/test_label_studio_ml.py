"""A label-studio-ml server that hosts this backend answers as the service itself does."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from PIL import Image, ImageDraw

from backend.errors import Reason
from backend.label_studio_ml import MlBackendAdapter, ProcessSingleton
from backend.web.listening import Service as Composed
from model.weights import WeightsError
from tests.support.label_studio_ml_hosts import (
    CACHE,
    REQUESTS,
    Base1,
    Base2,
    ModelResponse,
    Server1,
    Server2,
    give_images,
    setup_of,
    without_versions,
)
from tests.support.service import IMAGE, SIZE_WH, VERSION, Service
from tests.support.wire_bodies import CONFIG, click, encoded, recorded, result

SIZE = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}


@pytest.fixture
def service():
    CACHE.clear()
    Base2.writes = 0
    with Service() as service:
        yield service


def composed(service):
    service.events = []
    return Composed(service.app, service.segmenter, service.metrics, lambda: None, service.close, service.events.append)


def hosted(service, release):
    """A server of a release that hosts ``service``."""
    shared = ProcessSingleton(lambda: composed(service))
    if release == 1:

        class Model(MlBackendAdapter, Base1):
            service, response_class = shared, None

        return Server1(Model)

    class Model(MlBackendAdapter, Base2):
        service, response_class = shared, ModelResponse

    return Server2(Model)


def ask(server, body):
    server.setup(setup_of(body))
    return server.predict(body)["results"]


@pytest.mark.parametrize("release", [1, 2])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_recorded_request_gets_the_services_own_answer(service, name, release):
    body = recorded(name)
    give_images(service, body)
    expected = service.predict(body)
    answer = ask(hosted(service, release), body)
    assert answer == (expected if release == 2 else without_versions(expected))
    if "keypoint" in name or "rectangle" in name:
        assert any(item["result"] for item in answer)
    else:
        assert all(item == [] or item["result"] == [] for item in answer)


def test_2_gets_the_version_that_the_answers_carry(service):
    server = hosted(service, 2)
    body = click(result(**SIZE))
    assert server.setup(setup_of(body)) == {"model_version": VERSION}
    assert [item["model_version"] for item in server.predict(body)["results"]] == [VERSION]


def test_2_writes_to_its_database_only_when_something_is_new(service):
    server, body = hosted(service, 2), click(result(**SIZE))
    server.setup(setup_of(body))
    before = server.model_class.writes
    for _ in range(3):
        server.predict(body)
    assert server.model_class.writes == before


def test_1_gives_no_version_of_ours_which_it_could_not_tell_at_the_connection(service):
    """Label Studio keeps asking for predictions whose version is not that of the connection."""
    [item] = ask(hosted(service, 1), click(result(**SIZE)))
    assert set(item) == {"result", "score"}


@pytest.mark.parametrize("release", [1, 2])
@pytest.mark.parametrize(("changes", "reason"), [
    ({"label_config": "<View/>"}, Reason.NO_IMAGE_TAG),
    ({"tasks": [{"id": 1, "data": {"image": "/data/upload/1/gone.jpg"}}]}, Reason.IMAGE_NOT_FOUND),
    ({"tasks": [{"id": 1, "data": None}]}, Reason.NO_IMAGE_IN_TASK),
    ({"tasks": [7]}, Reason.NO_IMAGE_IN_TASK),
])  # fmt: skip
def test_what_cannot_be_answered_is_an_empty_item_with_a_reason_in_the_log(service, caplog, release, changes, reason):
    caplog.set_level("INFO")
    [item] = ask(hosted(service, release), click(result(**SIZE), **changes))
    assert (item["result"], item["score"]) == ([], 0.0)
    assert f"reasons={reason}" in caplog.text
    assert service.metrics.recent()[0].reasons == (reason,)


@pytest.mark.parametrize("release", [1, 2])
@pytest.mark.parametrize("tasks", [None, [], "x"])
def test_no_tasks_are_no_reason_to_fail(service, release, tasks):
    for context in (None, {}, {"result": []}):
        assert ask(hosted(service, release), click(tasks=tasks, params={"context": context})) == []


def test_weights_that_are_not_there_fail_the_connection_under_2(service):
    server = hosted(service, 2)
    server.model_class.service = ProcessSingleton(fail)
    with pytest.raises(WeightsError, match="no weights"):
        server.setup(setup_of(click()))


def test_weights_that_are_not_there_leave_clicks_empty_under_1(service, caplog):
    server = hosted(service, 1)
    server.model_class.service = ProcessSingleton(fail)
    assert ask(server, click(result(**SIZE))) == [{"result": [], "score": 0.0}]
    assert "reason=model_not_ready" in caplog.text
    assert "no weights" in caplog.text


@pytest.mark.parametrize("release", [1, 2])
def test_no_prediction_is_stored_for_an_opened_task_while_the_weights_are_missing(service, release):
    server = hosted(service, release)
    body = click(params={"context": None})
    server.setup(setup_of(body))
    server.model_class.service = ProcessSingleton(fail)
    server.model_class.setup = lambda self: None  # under 2.x it was there before, as it has a version
    assert server.predict(body)["results"] == [[]]


def fail():
    raise WeightsError("no weights here")


@pytest.mark.parametrize("release", [1, 2])
@pytest.mark.parametrize("name", ["webhook_annotation_created", "webhook_project_updated"])
def test_events_teach_it_nothing_and_change_no_version(service, name, release):
    server, body = hosted(service, release), recorded(name)
    answer = server.webhook(body)
    if release == 1:
        assert server.trained == [None], "a dict would count as a training and become the version"
    else:
        assert answer in ({"result": None, "status": "ok"}, {"status": "Unknown event"})
    assert not service.decoder.calls


def test_start_training_reaches_what_starts_it(service):
    server = hosted(service, 2)
    assert server.webhook(recorded("webhook_start_training")) == {"result": None, "status": "ok"}
    assert [(event.action, event.project_id) for event in service.events] == [("START_TRAINING", 2)]


class Recorder:
    """A segmenter that keeps its requests."""

    def __init__(self, segmenter):
        self.segmenter, self.requests, self.version_of = segmenter, [], segmenter.version_of

    def predict(self, request):
        self.requests.append(request)
        return self.segmenter.predict(request)


def test_saved_masks_do_not_travel_with_a_click(service):
    service.segmenter = recorder = Recorder(service.segmenter)
    server = hosted(service, 2)
    saved = {"result": [{"type": "brushlabels", "value": {"rle": [0] * 1000}}]}
    task = {"id": 1, "data": {"image": IMAGE}, "annotations": [saved], "drafts": [saved], "predictions": [saved]}
    body = click(result(**SIZE), tasks=[task])
    server.predict(body)
    server.predict(body | {"params": {"context": None}})
    [clicked], [opened] = (request.tasks for request in recorder.requests)
    assert [msgspec.json.decode(raw) for raw in (clicked.annotations, clicked.drafts, clicked.predictions)] == [[]] * 3
    assert msgspec.json.decode(opened.annotations) == [saved]


def test_many_objects_in_many_threads_share_one_service(service):
    services, gate = [], threading.Event()

    def compose():
        gate.wait(0.1)  # long enough for all of them to come
        services.append(composed(service))
        return services[-1]

    server = hosted(service, 2)
    server.model_class.service = ProcessSingleton(compose)
    body = click(result(**SIZE))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.predict(body)["results"], range(16)))
    assert len(services) == 1
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]["result"]


def test_a_failed_composition_is_tried_again(service):
    attempts = [fail, lambda: composed(service)]
    shared = ProcessSingleton(lambda: attempts.pop(0)())
    with pytest.raises(WeightsError):
        shared.get()
    assert shared.get() is shared.get()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_puts_together_its_own():
    code = """if True:
        import os, sys, threading
        from backend.label_studio_ml import ProcessSingleton

        parent, is_composing = os.getpid(), threading.Event()

        def compose():
            if os.getpid() == parent:  # forks do not copy the thread that holds the lock
                is_composing.set()
                threading.Event().wait()
            return os.getpid()

        composed, composing = ProcessSingleton(os.getpid), ProcessSingleton(compose)
        assert composed.get() == parent
        threading.Thread(target=composing.get, daemon=True).start()
        is_composing.wait()
        child = os.fork()
        if not child:
            os._exit(0 if composed.get() == composing.get() == os.getpid() else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr


# The class that a server imports, with and without label-studio-ml.


def run(code, folder, **environ):
    """Run code in a fresh interpreter that finds modules in ``folder``, too."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


def package(folder, release):
    """A package ``label_studio_ml`` around the stand-ins."""
    folder = folder / "label_studio_ml"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "model.py").write_text(
        f"from tests.support.label_studio_ml_hosts import Base{release} as LabelStudioMLBase\n"
    )
    if release == 2:
        (folder / "response.py").write_text("from tests.support.label_studio_ml_hosts import ModelResponse\n")


def test_without_label_studio_ml_it_is_imported_and_says_what_is_missing(tmp_path):
    code = "import backend.label_studio_ml as hosting\nhosting.PaddleSam(project_id='1', label_config='<View/>')"
    broken = tmp_path / "label_studio_ml"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('not installed')")  # also where the real one is
    completed = run(code, tmp_path)
    assert completed.stderr.strip().splitlines()[-1] == (
        "ImportError: label-studio-ml cannot be imported (not installed); "
        "pip install git+https://github.com/HumanSignal/label-studio-ml-backend.git"
    )


@pytest.mark.parametrize("release", [1, 2])
def test_with_label_studio_ml_it_is_a_subclass_of_its_base_class(tmp_path, release):
    package(tmp_path, release)
    code = (
        "import pickle, sys\n"
        "from label_studio_ml.model import LabelStudioMLBase\n"
        "from backend.label_studio_ml import PaddleSam\n"
        "assert issubclass(PaddleSam, LabelStudioMLBase)\n"
        "assert pickle.loads(pickle.dumps(PaddleSam)) is PaddleSam, 'jobs carry the class by name'\n"
        f"assert (PaddleSam.response_class is not None) is {release == 2}\n"
        "assert 'paddle' not in sys.modules, 'Paddle does not survive a fork'\n"
    )
    completed = run(code, tmp_path)
    assert completed.returncode == 0, completed.stderr


def test_settings_come_from_the_environment_and_the_demo_model_answers_a_click(tmp_path):
    package(tmp_path, 2)
    picture = Image.new("RGB", (800, 600), (240, 240, 240))
    ImageDraw.Draw(picture).ellipse((100, 200, 300, 400), fill=(200, 30, 40))
    picture.save(tmp_path / "disc.png")
    body = click(result(), tasks=[{"id": 1, "data": {"image": "/data/local-files/?d=disc.png"}}])
    (tmp_path / "body.json").write_bytes(encoded(body))
    code = (
        "import json, sys\n"
        "from backend.label_studio_ml import PaddleSam\n"
        "from tests.support.label_studio_ml_hosts import Server2\n"
        f"body = json.load(open({str(tmp_path / 'body.json')!r}))\n"
        "server = Server2(PaddleSam)\n"
        f"version = server.setup({{'project': '1.1', 'schema': {CONFIG!r}}})['model_version']\n"
        "[item] = server.predict(body)['results']\n"
        "print(version, item['model_version'], len(item['result']))\n"
    )
    completed = run(
        code,
        tmp_path,
        PADDLE_SAM_LOCAL_FILES_ROOT=str(tmp_path),
        PADDLE_SAM_CACHE_DIR=str(tmp_path / "cache"),
        PADDLE_SAM_DEVICE="cpu",
    )
    assert completed.returncode == 0, completed.stderr
    version, answered, regions = completed.stdout.split()
    assert version == answered
    assert version.startswith("demo@")
    assert int(regions) == 1
