"""What a decoder learns from is read with bounded memory, and does not depend on the order of the tasks."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from backend.concurrency.retry import OutageRetry
from backend.label_studio.types import Project
from backend.labeling import config
from backend.projects.engine import Engine
from backend.projects.finetune_examples import BEYOND, MASKS, gather
from backend.projects.run import BatchRun, Stop
from backend.types import Task
from model.types import Embedding
from tests.support.checkpoints import tiny

SIZE = (60, 80)
CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="polygon" toName="image">'
    '<Label value="Cell"/></PolygonLabels></View>'
)
TASKS = [Task(number, {"image": f"/data/upload/1/{number}.png"}) for number in range(1, 9)]
ALL_BYTES = 1 << 30


class Silent:
    def advance(self, count=1):
        pass


def annotations(task_id):
    """Two triangles."""
    results = [
        {
            "id": f"r{x}", "type": "polygonlabels", "from_name": "polygon", "to_name": "image",
            "original_width": SIZE[1], "original_height": SIZE[0],
            "value": {"points": [[x, 5], [x + 30, 5 + task_id], [x, 60]], "polygonlabels": ["Cell"]},
        }
        for x in (10, 50)
    ]  # fmt: skip
    return msgspec.Raw(json.dumps([{"id": 1, "result": results}]).encode())


def embedding(ref):
    shape = tiny().embedding_shapes["image_embedding"]
    array = np.random.default_rng(ref.task_id).standard_normal(shape).astype("f4")
    return Embedding(array, SIZE, (96, 128), "tiny@00000000")


def gathered(tasks, most_bytes):
    stop = Stop(lambda: None)
    client = SimpleNamespace(annotations=annotations, version=lambda: "1.23.2")
    batch = BatchRun(client, Project(1, "Cells", CONFIG), config.parse(CONFIG), tasks, 8, stop, OutageRetry(stop))
    embeddings = SimpleNamespace(peek=lambda ref: None, get=lambda ref, within_s, priority: embedding(ref))
    engine = Engine(embeddings, lambda ref: True, 2, None, lambda: None)
    return gather(batch, engine, tiny(), Silent(), most_bytes)


def nbytes(examples):
    return sum(mask.nbytes for example in examples for mask in example.image.objects)


def test_of_more_masks_than_fit_the_memory_the_same_images_are_kept_whatever_the_order_of_the_tasks():
    every, report = gathered(TASKS, ALL_BYTES)
    assert (len(every), report.counts[MASKS], BEYOND in report.counts) == (8, 16, False)
    room = nbytes(every[:3])
    for tasks in (TASKS, TASKS[::-1], TASKS[4:] + TASKS[:4]):
        examples, report = gathered(tasks, room)
        assert [example.task_id for example in examples] == [example.task_id for example in every[:3]]
        assert report.counts[BEYOND] == 5
        assert nbytes(examples) <= room


@pytest.mark.parametrize("most_bytes", [0, 100])
def test_an_image_that_does_not_fit_at_all_is_left_out(most_bytes):
    examples, report = gathered(TASKS[:1], most_bytes)
    assert examples == []
    assert report.counts[BEYOND] == 1
