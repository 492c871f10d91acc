"""label-studio-ml's two releases, as far as a model class meets them: base classes, and what their servers do with one.

Written after label-studio-ml 1.0.9 and 2.0.1; `tests.reference.hosting` runs a real one.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.support.fakes import png
from tests.support.wire_bodies import GOLDEN


class Base1:
    """1.x's base class: takes whatever the server knows of a project; says nothing of versions."""

    def __init__(self, label_config=None, train_output=None, **kwargs):
        self.label_config = label_config
        self.parsed_label_config = {"parsed": label_config} if label_config else {}
        self.train_output = train_output or {}
        self.hostname, self.access_token = kwargs.get("hostname", ""), kwargs.get("access_token", "")


class Server1:
    """1.x's server: one model object, of the project that was set up last."""

    def __init__(self, model_class):
        self.model_class, self.model, self.trained = model_class, None, []

    def setup(self, body: dict[str, Any]) -> dict[str, Any]:
        self.model = self.model_class(
            label_config=body["schema"],
            hostname=body["hostname"],
            access_token=body["access_token"],
            model_version=None,
        )
        return {"model_version": "INITIAL"}

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        results = self.model.predict(body["tasks"], **(body.get("params") or {}))
        return json.loads(json.dumps({"results": results, "model_version": "INITIAL"}))

    def webhook(self, body: dict[str, Any]) -> None:
        """A training job; the real one runs it in a process of its own."""
        data = dict(body)
        event = data.pop("action")
        if event in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "PROJECT_UPDATED"):
            model = self.model_class(label_config=data["project"]["label_config"], train_output=None)
            self.trained.append(model.fit((), event=event, data=data, job_id="1795380049", workdir="/nowhere"))


CACHE: dict[tuple[str, str], str] = {}
"""2.x keeps what it knows of a project in a database that all objects share."""


class Base2:
    """2.x's base class: an object per request, around what the database knows of the project."""

    writes = 0

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        if label_config is not None and self.get("label_config") != label_config:
            self.set("label_config", label_config)
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self):
        pass

    def get(self, key):
        return CACHE.get((self.project_id, key))

    def set(self, key, value):
        assert isinstance(value, str), "the database takes nothing else"
        type(self).writes += 1
        CACHE[self.project_id, key] = value

    @property
    def label_config(self):
        return self.get("label_config")


@dataclass
class ModelResponse:
    """2.x's answer; ``predictions`` holds an item per task."""

    predictions: list[dict[str, Any]]
    model_version: str | None = None

    def model_dump(self) -> dict[str, Any]:
        return {"model_version": self.model_version, "predictions": self.predictions}


class Server2:
    """2.x's server."""

    def __init__(self, model_class):
        self.model_class = model_class

    def model_for(self, project: Any, label_config: Any) -> Any:
        return self.model_class(project_id=str(project).split(".", 1)[0], label_config=label_config)

    def setup(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model_version": self.model_for(body["project"], body["schema"]).get("model_version")}

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        params = dict(body.get("params", {}))
        context = params.pop("context", {})
        model = self.model_for(body.get("project"), body.get("label_config"))
        response = model.predict(body.get("tasks"), context=context, **params)
        assert isinstance(response, ModelResponse)
        return json.loads(json.dumps({"results": response.model_dump()["predictions"]}))

    def webhook(self, body: dict[str, Any]) -> dict[str, Any]:
        data = dict(body)
        event = data.pop("action")
        if event not in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING"):
            return {"status": "Unknown event"}
        project = data["project"]
        return {"result": self.model_for(project["id"], project["label_config"]).fit(event, data), "status": "ok"}


REQUESTS = sorted(
    path.stem
    for path in (GOLDEN / "requests").glob("*.json")
    if json.loads(path.read_text())["path"].endswith("/predict")
)


def setup_of(body):
    return {"project": body.get("project"), "schema": body.get("label_config"), "hostname": "", "access_token": ""}


def without_versions(items):
    return [item and {key: value for key, value in item.items() if key != "model_version"} for item in items]


def give_images(service, body):
    """Put a picture of the request's size behind each address of its tasks."""
    regions = ((body["params"] or {}).get("context") or {}).get("result") or [{}]
    size = regions[0].get("original_width", 80), regions[0].get("original_height", 60)
    for task in body["tasks"]:
        for value in task["data"].values():
            for uri in value if isinstance(value, list) else [value]:
                service.source.contents[uri] = png(size_wh=size)
