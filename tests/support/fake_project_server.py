"""`tests.support.fake_project.FakeProject` behind a real HTTP server, spelled as Label Studio's API is."""

import json
from urllib.parse import parse_qs

import msgspec

from backend.errors import RetryLater
from backend.label_studio.http import RefusedError
from backend.label_studio.types import NewPrediction
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.fakes import FakeLabelStudio, Reply


class FakeProjectServer(FakeLabelStudio):
    """One project.

    Attributes:
        project: what it holds; images are routes of the server.
        views: filters by the id of a view, with the project they belong to.
    """

    def __init__(self, project: FakeProject):
        super().__init__()
        self.project, self.views = project, {}
        self.routes["/api/version"] = lambda request: self._json({"release": project.version()})

    def reply(self, request):
        if request.path.startswith("/api/") and request.path not in self.routes and "token" not in request.path:
            self.routes[request.path] = self.routed
        return super().reply(request)

    def routed(self, request):
        try:
            return self._answer_api(request)
        except RefusedError as error:
            return self._json({"detail": str(error)}, error.status)
        except RetryLater:
            return Reply(b"", 503)

    def _answer_api(self, request):
        project, parts = self.project, request.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        match request.method, parts[1:]:
            case "GET", ["projects", number]:
                the_project = project.project(int(number))
                return self._json(
                    {"id": the_project.id, "title": the_project.title, "label_config": the_project.label_config}
                )
            case "GET", ["tasks"]:
                page = project.task_page(int(query["project"]), query["query"], int(query["page_size"]))
                tasks = [
                    {"id": listed.task.id, "data": listed.task.data, "is_labeled": listed.is_labeled}
                    for listed in page.tasks
                ]
                return self._json({"tasks": tasks, "total": page.total})
            case "GET", ["tasks", number, "annotations"]:
                return Reply(bytes(project.annotations(int(number))))
            case "GET", ["predictions"] if int(query["task"]) not in project.tasks:
                messages = ["Select a valid choice. That choice is not one of the available choices."]
                return self._json({"detail": "Validation error", "validation_errors": {"task": messages}}, 400)
            case "GET", ["predictions"]:
                return Reply(bytes(project.predictions(int(query["task"])).raw))
            case "POST", ["predictions"]:
                project.create_prediction(self._new(json.loads(request.body)))
                return self._json({}, 201)
            case "POST", ["projects", number, "import", "predictions"]:
                new = [self._new(entry) for entry in json.loads(request.body)]
                return self._json({"created": project.import_predictions(int(number), new)}, 201)
            case "DELETE", ["predictions", number]:
                project.delete_prediction(int(number))
                return Reply(b"", 204)
            case "GET", ["projects", number, "model-versions"]:
                return self._json(project.count_predictions(int(number)))
            case "GET", ["dm", "views", number] if int(number) in self.views:
                owner, filters = self.views[int(number)]
                return self._json({"id": int(number), "project": owner, "data": {"filters": filters}})
        return self._json({"detail": "Not found."}, 404)

    def upload(self, name, data, **more):
        """Add a task with an image that this server has."""
        path = f"/data/upload/{PROJECT}/{name}"
        self.routes[path] = Reply(data)
        return self.project.add({"image": path}, **more)

    @staticmethod
    def _new(body):
        return NewPrediction(
            body["task"], msgspec.Raw(json.dumps(body["result"]).encode()), body["score"], body["model_version"]
        )

    @staticmethod
    def _json(value, status=200):
        return Reply(json.dumps(value).encode(), status)
