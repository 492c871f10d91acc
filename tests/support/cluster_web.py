"""A web half in its own process: ``python -m tests.support.cluster_web SETTINGS COUNT NAME`` clicks, prints answers."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from backend.composition import cluster
from backend.errors import BackendError
from backend.metrics import Metrics
from backend.settings import read
from tests.support.cluster import SOON_S, colour, ref
from tests.support.cluster_worker import VERSION


def main():
    environ, count, name = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    web, _, _ = cluster.web(read(environ), VERSION, Metrics())
    web.start()

    def click(_):
        try:
            return colour(web.get(ref(name), SOON_S))
        except BackendError as error:
            return error.reason.value

    with ThreadPoolExecutor(count) as pool:
        print(json.dumps(list(pool.map(click, range(count)))), flush=True)
    web.close()
    assert "paddle" not in sys.modules, "a web process encodes nothing"


if __name__ == "__main__":
    main()
