"""This backend as a model of a label-studio-ml server, for servers that run several models.

In the server's ``model.py`` write ``from backend.label_studio_ml import PaddleSam``. Settings come from the
environment, as for ``python -m backend serve``. Both releases of label-studio-ml work:

- 1.x (PyPI): makes a model object whenever a project is opened, calls ``predict(tasks, **kwargs)`` with the context
  among the keywords, and expects a list of dicts;
- 2.x (its git address): makes a model object *per request*, calls ``predict(tasks, context)`` and expects a
  ``ModelResponse``.

All model objects of a process share one service, which is composed when it is first needed.

Limits of the server: it does not forward ``TASKS_CREATED``, so new tasks are encoded only when they are opened; and 1.x
keeps only the labeling config of the project that was opened last, so run one server per project, or use 2.x.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from backend import answer_log, logs
from backend.composition import cluster, parts, web
from backend.errors import BackendError, Reason
from backend.protocol import messages
from backend.settings import read
from backend.types import Prediction, PredictRequest
from backend.web.listening import Service

logger = logging.getLogger(__name__)

INSTALL = "pip install git+https://github.com/HumanSignal/label-studio-ml-backend.git"

# Any, in this module: label-studio-ml passes JSON as it came, and its types exist only where it is installed.
if TYPE_CHECKING:
    ModelResponse: Any = None

    class LabelStudioMLBase:
        """The base class of the installed release."""
else:
    try:
        from label_studio_ml.response import ModelResponse
    except ImportError:  # 1.x has none
        ModelResponse = None
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError as error:
        _missing = str(error)

        class LabelStudioMLBase:
            """Replaces the base class where label-studio-ml is not installed; raises when it is used."""

            def __init__(self, *_args: object, **_kwargs: object) -> None:
                raise ImportError(f"label-studio-ml cannot be imported ({_missing}); {INSTALL}")


class ProcessSingleton:
    """A service that is composed on first use; a forked child process composes its own."""

    def __init__(self, compose: Callable[[], Service]) -> None:
        """Call ``compose`` once per process, and drop the parent's service after a fork."""
        self._compose = compose
        self._service: Service | None = None
        self._forget()
        if hasattr(os, "register_at_fork"):
            # The parent's threads and Paddle do not exist in the child, and its lock may stay locked forever.
            os.register_at_fork(after_in_child=self._forget)

    def get(self) -> Service:
        """Return the service; after a failure to compose it (`ValueError`, `OSError`), the next call tries again."""
        with self._lock:
            if self._service is None:
                self._service = self._compose()
            return self._service

    def _forget(self) -> None:
        self._lock, self._service = threading.Lock(), None


def compose() -> Service:
    """Return the service that the environment describes, its model loading in the background.

    Raises:
        ValueError: a setting or the weights cannot be used.
        OSError: the weights cannot be read.
    """
    settings = read(os.environ)
    logs.quiet_libraries()  # the server may log everything from INFO up
    cluster.require_usable(settings)
    service = web.build(settings, parts.read_weights(settings))
    atexit.register(service.close)
    service.start()
    return service


class MlBackendAdapter:
    """The methods that label-studio-ml calls, for any of its base classes."""

    service: ClassVar[ProcessSingleton] = ProcessSingleton(compose)
    response_class: ClassVar[Callable[..., object] | None] = ModelResponse  # 2.x's ``ModelResponse``, None under 1.x

    if TYPE_CHECKING:  # defined by the base class; get and set under 2.x only
        label_config: str | None
        get: Callable[[str], str | None]
        set: Callable[[str, str], None]

    def setup(self) -> None:
        """Set the model version, which the answer of label-studio-ml 2.x to ``/setup`` repeats; 1.x does not call this.

        If a setting or the weights cannot be used, Label Studio shows the error when the model is connected.
        """
        version = self.service.get().segmenter.version_of(messages.parse_project(getattr(self, "project_id", None)))
        if self.get("model_version") != version:  # each call of set writes to a database
            self.set("model_version", version)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: object) -> object:
        """Return one answer per task, the same as from ``POST /predict`` of the service.

        Under 1.x the answers have no ``model_version``: that release makes up its own versions, and Label Studio uses
        the one from when the model was connected.
        """
        start = time.perf_counter()
        tasks = tasks if isinstance(tasks, list) else []
        try:
            service, request = self.service.get(), self._request(tasks, context)
        except (ValueError, OSError, BackendError) as error:
            reason = error.reason if isinstance(error, BackendError) else Reason.MODEL_NOT_READY
            logger.error("event=predict_failed reason=%s detail=%r", reason, str(error))
            return self._response((Prediction((), 0.0, "", (reason,), should_store=bool(context)),) * len(tasks))
        predictions = service.segmenter.predict(request)
        answer_log.record(service.metrics, request, predictions, total_s=time.perf_counter() - start)
        return self._response(predictions)

    def fit(self, *args: object, **_kwargs: object) -> None:
        """Start the training of the project's decoder where an event of 2.x asks for it, as *Start training* does.

        Returns None rather than an empty dict, which 1.x would store as the result of a training and raise the model
        version with every annotation.
        """
        match args:
            case [str(action), dict(data)]:
                body = msgspec.json.encode({**data, "action": action})
                self.service.get().on_event(messages.parse_webhook(body))

    def _request(self, tasks: list[Any], context: dict[str, Any] | None) -> PredictRequest:
        if context:  # a click needs no saved masks, which may be megabytes
            tasks = [
                {key: task[key] for key in ("id", "data") if key in task} if isinstance(task, dict) else task
                for task in tasks
            ]
        first = tasks[0] if tasks and isinstance(tasks[0], dict) else {}
        body = {
            "tasks": tasks,
            "project": getattr(self, "project_id", None) or first.get("project"),
            "label_config": self.label_config,
            "params": {"context": context},
        }
        return messages.parse_predict(msgspec.json.encode(body))

    def _response(self, predictions: Sequence[Prediction]) -> object:
        items: list[Any] = msgspec.json.decode(messages.dump_predictions(predictions))["results"]
        if self.response_class is None:
            for item in items:
                if item:  # an empty list means no prediction
                    del item["model_version"]
            return items
        version = predictions[0].model_version if predictions else None
        return self.response_class(model_version=version, predictions=items)


class PaddleSam(MlBackendAdapter, LabelStudioMLBase):
    """This backend as a label-studio-ml model; the server instantiates it."""
