"""Whole images with twenty boxes each, ViT-B at 1024 on this machine's processor: `preannotate` and three loops.

On the same photos, boxes and random weights, taking turns:

- ours: `backend.projects.preannotate_loop` as the command runs it, from a task's annotations and image file to its
  stored prediction; Label Studio is a stand-in in memory, everything else is the product's own;
- encode and decode alone, in this program: what is left of ours beyond them is overhead;
- `segment-anything`'s predictor: one encode and one call for all boxes of a photo, to masks at full size;
- PaddleX, a call for each box, each of which encodes the photo again: one call is timed and taken times twenty.
"""

import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from backend.concurrency.retry import OutageRetry
from backend.decoders.lazy_decoder import LazyDecoder
from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.encode import EncodeSpec
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import FileStore
from backend.label_studio.prediction_writer import PredictionWriter
from backend.label_studio.task_iterator import ProjectTasks
from backend.labeling import config, task_prompts
from backend.labeling.task_prompts import PromptSource
from backend.metrics import Metrics
from backend.projects import preannotate_loop, sinks
from backend.projects.engine import Engine
from backend.projects.run import BatchRun
from backend.segmentation.decoding import MaskService
from backend.segmentation.tasks import TaskSegmenter
from model.build import Decoder, Encoder, load_decoder, load_encoder
from model.transforms import preprocess
from model.types import Prompt
from tests.benchmarks import subjects
from tests.benchmarks.boxed_photos import BOXES, IMAGES, Photos, boxes
from tests.benchmarks.rows import Row, compare, say
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.wire_bodies import CONFIG

ROUNDS = 3
OVERHEAD = 1.10


def annotation() -> dict[str, Any]:
    """The same boxes as an annotator saves them."""
    height, width = subjects.PHOTO_SIZE
    result = [
        {
            "id": f"box{number}", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
            "original_width": width, "original_height": height, "image_rotation": 0,
            "value": {
                "x": 100 * x1 / width, "y": 100 * y1 / height, "width": 100 * (x2 - x1) / width,
                "height": 100 * (y2 - y1) / height, "rotation": 0, "rectanglelabels": ["Cat"],
            },
        }
        for number, (x1, y1, x2, y2) in enumerate(boxes().tolist())
    ]  # fmt: skip
    return {"id": 1, "result": result}


class Silent:
    """Progress that shows nothing."""

    def advance(self, count: int = 1) -> None:
        """Note nothing."""


def preannotated(photos: Photos, encoder: Encoder, decoder: Decoder, folder: Path) -> None:
    """Pre-annotate a project of `IMAGES` new photos."""
    project, controls, stop = FakeProject(CONFIG), config.parse(CONFIG), threading.Event()
    for _ in range(IMAGES):
        project.add({"image": photos.take()[0]}, annotations=[annotation()])
    retry = OutageRetry(stop)
    embeddings = LocalEmbeddings(
        photos,
        lambda: encoder,
        EncodeSpec(encoder.model_version, partial(preprocess, config=encoder.config)),
        FileStore(folder / "embeddings", 1_000_000_000),
        Metrics(),
        ContentIndex(database=ContentDatabase(folder / "contents.db", "benchmark")),
    )
    loaded = LazyDecoder(subjects.checkpoint(), "cpu", lambda *_: decoder)
    segmenter = TaskSegmenter(MaskService(lambda _: loaded, Metrics(), 1), embeddings)
    tasks = ProjectTasks(project, retry, project.project_value)
    context = preannotate_loop.PreannotateContext(
        BatchRun(project, project.project_value, controls, tasks, IMAGES, stop, retry),
        Engine(embeddings, embeddings.ensure, 4, None, embeddings.close),
        lambda task: segmenter.segment(
            task, task_prompts.read(task, {PromptSource.BOXES}, "none@0"), controls, PROJECT, 900.0
        ),
        needs_annotations=True,
        model_version=decoder.model_version,
    )
    writer = PredictionWriter(project, retry, project.project_value)
    report = preannotate_loop.run(context, sinks.label_studio_sink(writer), Silent())
    embeddings.close()
    writer.delete_duplicates(decoder.model_version)
    counts = [
        len(msgspec.json.decode(prediction.raw, type=list[msgspec.Raw])) for prediction in project.stored.values()
    ]
    if not report.is_clean or counts != [BOXES] * IMAGES:
        raise RuntimeError(f"expected {IMAGES} predictions of {BOXES} masks, got {counts}; {report.lines()}")


def alone(photos: Photos, encoder: Encoder, decoder: Decoder) -> None:
    """Encode and decode as many new photos, one after the other."""
    prompts = [Prompt(box=box) for box in boxes()]
    for _ in range(IMAGES):
        decoder.decode(encoder.encode(photos.take()[1]), prompts)


def run() -> Iterator[Row]:
    """Compare, in milliseconds for `IMAGES` photos of `BOXES` boxes each."""
    encoder, decoder = (load(subjects.checkpoint(), device="cpu") for load in (load_encoder, load_decoder))
    photos, name = Photos(), f"preannotate, {IMAGES} images of {BOXES} boxes"
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> None:
            preannotated(photos, encoder, decoder, Path(folder))

        yield _said(
            compare(
                name,
                ours,
                lambda: alone(photos, encoder, decoder),
                against="encode and decode alone",
                goal=OVERHEAD,
                rounds=ROUNDS,
            )
        )
        with subjects.engine("boxed_photos") as theirs:
            yield _said(
                compare(
                    name,
                    ours,
                    lambda: subjects.ask(theirs),
                    against="segment-anything, torch eager, without RLE",
                    goal=1.0,
                    rounds=ROUNDS,
                )
            )
        with subjects.paddlex_engine() as paddlex:
            if paddlex is not None:
                yield _said(_against_paddlex(name, ours, paddlex))


def _said(row: Row) -> Row:
    say(f"{row.name}: {1000 * IMAGES / row.ours:.2f} images/s, {row.against}: {1000 * IMAGES / row.reference:.2f}")
    return row


def _against_paddlex(name: str, ours: Any, paddlex: Any) -> Row:
    """Time one call of PaddleX beside ours; a loop over the boxes takes as many."""
    calls = IMAGES * BOXES
    row = compare(
        name, ours, lambda: subjects.ask(paddlex), against="PaddleX, a call for each box", goal=None, rounds=ROUNDS
    )
    return Row(row.name, row.ours, calls * row.reference, row.unit, row.against, 1 / 5, row.ratio / calls)
