"""Tasks that hold boxes, predictions or nothing, and requests for their predictions."""

from tests.support.service import IMAGE, SIZE_WH
from tests.support.wire_bodies import click, rectangle, saved, task_with

SIZE = {"original_width": SIZE_WH[0], "original_height": SIZE_WH[1]}


def box(name="b", **changes):
    return rectangle(10, 10, 20, 20, **(SIZE | {"id": name} | changes))


def boxed(number, uri=IMAGE, *more):
    """A task on which an annotator has drawn a box."""
    return task_with([saved(box(f"box-{number}"), *more)], task_id=number, data={"image": uri})


def predicted(number, uri=IMAGE, version="yolo"):
    return task_with([], [saved(box(f"box-{number}"), model_version=version)], task_id=number, data={"image": uri})


def bare(number, uri=IMAGE):
    return task_with(task_id=number, data={"image": uri})


def request(*tasks, **changes):
    return click(tasks=list(tasks), params={"login": None, "password": None, "context": None}, **changes)
