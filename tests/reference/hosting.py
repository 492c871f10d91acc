"""Runs this backend in the label-studio-ml that is installed: prints each recorded request's answer beside our own.

Run by `tests.reference.test_label_studio_ml` with the interpreter that LABEL_STUDIO_ML_PYTHON names.
"""

import json
import sys
import tempfile

from label_studio_ml.api import init_app

from backend.label_studio_ml import PaddleSam, ProcessSingleton
from backend.web.listening import Service as Composed
from tests.support.label_studio_ml_hosts import REQUESTS, give_images, setup_of
from tests.support.service import Service
from tests.support.wire_bodies import recorded


def main() -> None:
    """Write ``{"release", "answers": {name: [setup's version, expected items, found items]}, "webhook": status}``."""
    release = 1 if PaddleSam.response_class is None else 2
    with Service() as service, tempfile.TemporaryDirectory() as folder:
        composed = Composed(service.app, service.segmenter, service.metrics, lambda: None, service.close)
        PaddleSam.service = ProcessSingleton(lambda: composed)
        app = init_app(PaddleSam, model_dir=folder) if release == 1 else init_app(PaddleSam)
        client = app.test_client()
        answers = {}
        for name in REQUESTS:
            body = recorded(name)
            give_images(service, body)
            expected = service.predict(body)
            version = client.post("/setup", json=setup_of(body)).json["model_version"]
            answer = client.post("/predict", json=body)
            assert answer.status_code == 200, answer.text
            answers[name] = [version, expected, answer.json["results"]]
        webhook = client.post("/webhook", json=recorded("webhook_annotation_created")).status_code
    json.dump({"release": release, "answers": answers, "webhook": webhook}, sys.stdout)


if __name__ == "__main__":
    main()
