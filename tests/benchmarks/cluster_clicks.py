"""One web process: ``python -m tests.benchmarks.cluster_clicks SETTINGS SECONDS`` prints clicks per second."""

import base64
import json
import sys
import time

from backend.composition import parts, web
from backend.settings import read
from tests.support.fakes import png
from tests.support.wire_bodies import click, encoded, result

SIZE_WH = (800, 600)


def main() -> None:
    """Click on one image again and again, after it is warm."""
    settings, seconds = read(json.loads(sys.argv[1])), float(sys.argv[2])
    service = web.build(settings, parts.read_weights(settings))
    service.start()
    uri = "data:image/png;base64," + base64.b64encode(png(size_wh=SIZE_WH)).decode()
    width, height = SIZE_WH
    body = encoded(
        click(result(original_width=width, original_height=height), tasks=[{"id": 1, "data": {"image": uri}}])
    )
    client = service.app.test_client()
    for _ in range(3):
        client.post("/predict", data=body)
        assert "budget_exceeded" not in service.metrics.recent()[0].reasons
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        assert client.post("/predict", data=body).status_code == 200
        count += 1
    print(count / (time.perf_counter() - start), flush=True)
    service.close()


if __name__ == "__main__":
    main()
