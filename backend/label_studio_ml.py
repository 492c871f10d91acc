"""For those who run several models in one label-studio-ml server: this backend as a subclass of its base class.

In the server's ``model.py`` write ``from backend.label_studio_ml import PaddleSam``. Settings come from the
environment, as for ``python -m backend serve``. Both releases of label-studio-ml work:

- 1.x (PyPI): a model object whenever a project is opened, ``predict(tasks, **kwargs)`` with the context among the
  keywords, a list of dicts for an answer;
- 2.x (its git address): a model object *per request*, ``predict(tasks, context)``, a ``ModelResponse`` for an answer.

Whatever it makes of this class, one process has one service behind it, put together when it is first needed.

What the server keeps from us: it hands on no ``TASKS_CREATED``, so new tasks are encoded when they are opened; and 1.x
knows only the labeling config of the project that was opened last, so give each project a server there, or take 2.x.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from backend import answers, logs
from backend.composition import cluster, web
from backend.errors import BackendError, Reason
from backend.protocol import messages
from backend.settings import read
from backend.types import Prediction, PredictRequest

logger = logging.getLogger(__name__)

INSTALL = "pip install git+https://github.com/HumanSignal/label-studio-ml-backend.git"

# Any, in this module: what label-studio-ml passes is JSON as it came, and its own types are not to be had without it.
if TYPE_CHECKING:
    ModelResponse: Any = None

    class LabelStudioMLBase:
        """Whichever release is installed."""
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
            """Stands in where label-studio-ml is not installed: says so when it is used."""

            def __init__(self, *_args: object, **_kwargs: object) -> None:
                raise ImportError(f"label-studio-ml cannot be imported ({_missing}); {INSTALL}")


class ProcessSingleton:
    """A service that is put together by the first who needs it; a forked child puts together its own."""

    def __init__(self, compose: Callable[[], web.Service]) -> None:
        """Compose nothing yet."""
        self._compose = compose
        self._service: web.Service | None = None
        self._forget()
        if hasattr(os, "register_at_fork"):
            # The parent's threads and Paddle do not live on in the child, and its lock may be held for ever.
            os.register_at_fork(after_in_child=self._forget)

    def get(self) -> web.Service:
        """Return the service; a failure to put it together is tried again by the next call.

        Raises:
            ValueError: a setting or the weights cannot be used.
            OSError: the weights cannot be read.
        """
        with self._lock:
            if self._service is None:
                self._service = self._compose()
            return self._service

    def _forget(self) -> None:
        self._lock, self._service = threading.Lock(), None


def compose() -> web.Service:
    """Return the service that the environment describes, its model loading in the background.

    Raises:
        ValueError: a setting or the weights cannot be used.
        OSError: the weights cannot be read.
    """
    settings = read(os.environ)
    logs.quiet_libraries()  # the server may let everything through from INFO up
    cluster.require_usable(settings)
    service = web.build(settings, web.read_weights(settings))
    atexit.register(service.close)
    service.start()
    return service


class MlBackendAdapter:
    """What label-studio-ml calls, for any of its base classes.

    Attributes:
        service: what answers, shared by all objects of the process.
        response_class: 2.x's ``ModelResponse``, None under 1.x.
    """

    service: ClassVar[ProcessSingleton] = ProcessSingleton(compose)
    response_class: ClassVar[Callable[..., object] | None] = ModelResponse

    if TYPE_CHECKING:  # what the base class brings; get and set under 2.x only
        label_config: str | None
        get: Callable[[str], str | None]
        set: Callable[[str, str], None]

    def setup(self) -> None:
        """Tell label-studio-ml 2.x our model version, which its answer to ``/setup`` repeats; 1.x does not call this.

        Raises:
            ValueError: a setting or the weights cannot be used; whoever connects the model is told.
            OSError: the weights cannot be read.
        """
        version = self.service.get().segmenter.model_version
        if self.get("model_version") != version:  # every set writes to a database
            self.set("model_version", version)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: object) -> object:
        """Return one answer per task, as ``POST /predict`` of the service gives it.

        Under 1.x without ``model_version``: that release names versions by itself, and Label Studio takes the one it
        was told at the connection.

        Args:
            tasks: as Label Studio sent them.
            context: the prompts of a click, None or empty when this is none.
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
        answers.note(service.metrics, request, predictions, total_s=time.perf_counter() - start)
        return self._response(predictions)

    def fit(self, *_args: object, **_kwargs: object) -> None:
        """Learn nothing: SAM is not trained by annotations.

        None, not an empty dict: 1.x would keep that as the result of a training, and count the model version up with
        every annotation.
        """

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
                if item:  # an empty list stands for no prediction
                    del item["model_version"]
            return items
        version = predictions[0].model_version if predictions else None
        return self.response_class(model_version=version, predictions=items)


class PaddleSam(MlBackendAdapter, LabelStudioMLBase):
    """This backend, for a label-studio-ml server to make objects of."""
