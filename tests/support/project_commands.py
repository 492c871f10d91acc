"""For tests of commands over whole projects: a project's tasks, and waits for what a command does."""

import threading

from tests.support.fake_project import SIZE_WH, box
from tests.support.fakes import png

RUN_S = 120


def fill(server, count, first=0):
    """Add tasks with an image and a box each."""
    return [
        server.upload(
            f"{number:04}.png",
            png((number % 256, number // 256, 7), SIZE_WH),
            annotations=[{"id": 1, "result": [box()]}],
        )
        for number in range(first, first + count)
    ]


def wait_for(condition, within_s=RUN_S):
    pause = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("did not happen in time")
