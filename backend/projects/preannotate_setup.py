"""Builds one run of ``preannotate``: the source of prompts, the segmenter, and the sink of the masks."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from backend.composition import decoders as composition_decoders
from backend.composition import parts
from backend.errors import ConfigError
from backend.images.decode import PixelLimits
from backend.label_studio.prediction_writer import PredictionWriter
from backend.labeling import coco_prompts, config, task_prompts
from backend.labeling.coco_prompts import CocoPrompts
from backend.labeling.config_types import LabelConfig
from backend.labeling.output_choice import Outputs
from backend.labeling.task_prompts import PromptSource
from backend.projects import detected_prompts, preannotate_loop, progress, sinks
from backend.projects import engine as project_engine
from backend.projects.engine import IMAGE_WAIT_S, Engine
from backend.projects.preannotate_loop import PreannotateContext
from backend.projects.preannotate_options import EVERYTHING, Choice
from backend.projects.report import RunReport, failures_about, recording_end
from backend.projects.run import BatchRun
from backend.segmentation.tasks import TaskSegmenter
from backend.settings import Settings
from backend.shapes import ShapeKind
from backend.types import Prediction, Task
from model.automatic import AutomaticSettings, settings_for
from model.weights import Checkpoint

MAX_MASKS = 100  # default of ``--max-masks`` with ``--from everything``
DUPLICATES = "duplicates deleted"
CROWDS = "boxes around crowds left out"
SHOWN = 5  # how many of the file's images without a task are listed


def run(settings: Settings, checkpoint: Checkpoint, batch: BatchRun, engine: Engine, choice: Choice) -> RunReport:
    """Make the predictions of a project's tasks, deliver them, and delete duplicates.

    Raises:
        ConfigError: the project's labeling config has no control that can hold a mask.
        RetryLater: Redis does not answer.
        ValueError: the decoder cannot be loaded or does not support the options, or the COCO file is not one.
    """
    outputs = settings.output_kinds
    _check_output(batch.controls, outputs)
    coco = _read(choice.coco) if choice.coco is not None else None
    tuned = composition_decoders.tuned(settings, checkpoint, batch.project.id, _say)
    segmenter = project_engine.segmenter(
        settings, tuned, engine.embeddings, _everything(choice, checkpoint.config.name)
    )
    if choice.names_objects:
        words = detected_prompts.chosen_words(choice, batch.controls)
        detector = parts.read_detector(settings)
        assert detector is not None  # the command has checked it
        search = detected_prompts.word_search(engine.embeddings, detector, words, choice, _say)
        segment = detected_prompts.segment_function(search, segmenter, batch.controls, batch.project.id)
    else:
        segment = _segment(segmenter, batch, choice, coco, outputs)
    batch.stop.listen()
    context = PreannotateContext(
        batch,
        engine,
        segment,
        needs_annotations=not {PromptSource.BOXES.value, PromptSource.KEYPOINTS.value}.isdisjoint(choice.sources),
        model_version=tuned.model_version,
        replaces=choice.replaces,
        ignores_stored=choice.dry_run is not None,
    )
    if choice.dry_run is not None:
        report = _draw(settings, context, choice.dry_run)
    else:
        with project_engine.only_run(settings, checkpoint.model_version, batch.project.id, batch.stop, _say):
            report = _store(context)
    if coco is None:
        return report
    is_full_run = not report.ended and not report.counts[preannotate_loop.THERE]
    if is_full_run and coco.were_read(failure.task_id for failure in report.failures):
        _report_images_without_task(coco.images_without_task)
    if coco.crowds:
        report.add(CROWDS, coco.crowds)
    report.failures += failures_about(None, coco.file.left_out)
    return report


def _store(context: PreannotateContext) -> RunReport:
    batch = context.batch
    writer = PredictionWriter(batch.client, batch.retry, batch.project)
    with progress.showing("preannotate", batch.total, sys.stderr) as shown:
        report = preannotate_loop.run(context, sinks.label_studio_sink(writer), shown)
    if report.ended:  # the next run deletes duplicates
        return report
    with recording_end(report, batch.stop):
        deleted = writer.delete_duplicates(context.model_version)
        if deleted:
            report.add(DUPLICATES, deleted)
    return report


def _draw(settings: Settings, context: PreannotateContext, folder: Path) -> RunReport:
    batch = context.batch
    folder.mkdir(parents=True, exist_ok=True)
    source = parts.image_source(settings, batch.client)
    fetch = sinks.retrying_fetch(source, batch.retry, batch.client.version)
    limits = PixelLimits(max_pixels=settings.max_image_pixels)
    sink = sinks.overlay_sink(folder, fetch, limits, batch.controls, batch.project.id)
    with progress.showing("preannotate", batch.total, sys.stderr) as shown:
        return preannotate_loop.run(context, sink, shown)


def _segment(
    segmenter: TaskSegmenter, batch: BatchRun, choice: Choice, coco: CocoPrompts | None, outputs: Sequence[ShapeKind]
) -> Callable[[Task], Prediction]:
    controls, project_id = batch.controls, batch.project.id
    if EVERYTHING in choice.sources:
        return lambda task: segmenter.segment_everything(task, controls, project_id, IMAGE_WAIT_S)
    sources = {PromptSource(name) for name in choice.sources}

    def segment(task: Task) -> Prediction:
        if coco is not None:
            prompts = coco.prompts(task, controls, outputs)
        else:
            prompts = task_prompts.read(task, sources, segmenter.version_of(project_id))
        return segmenter.segment(task, prompts, controls, project_id, IMAGE_WAIT_S)

    return segment


def _everything(choice: Choice, network: str) -> AutomaticSettings | None:
    if EVERYTHING not in choice.sources:
        return None
    return settings_for(
        network,
        points_per_side=choice.points_per_side,
        pred_iou_thresh=choice.min_score,
        max_masks=choice.max_masks or MAX_MASKS,
        min_area_share=choice.min_area / 100,
    )


def _check_output(controls: LabelConfig, outputs: Sequence[ShapeKind]) -> None:
    """Raise a `ConfigError` if no image of a project has a control that can hold masks."""
    failures = []
    for image in controls.images:
        try:
            Outputs(config.on_image(controls, image.name), outputs)
        except ConfigError as error:
            failures.append(error)
    if len(failures) == len(controls.images):
        raise failures[0]


def _read(path: Path) -> CocoPrompts:
    """Return the boxes of a file, and print a warning if they look like corners."""
    coco = coco_prompts.read(path)
    if beyond := coco.file.reads_as_corners:
        _say(
            f"{path}: {beyond} boxes reach beyond their images, and all would fit as x1, y1, x2, y2; expected x, y, "
            "width, height, as COCO has it: look at the masks with --dry-run"
        )
    return coco


def _report_images_without_task(images: Sequence[str]) -> None:
    if images:
        more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
        _say(f"images of the COCO file with boxes that no task of this run shows: {', '.join(images[:SHOWN])}{more}")


def _say(text: str) -> None:
    click.echo(text, err=True)
