"""Fine-tunes the decoder on a project's annotations, judges it on images that it has not seen, and publishes it.

The state of a training is kept in a file, so a run that was stopped or killed goes on where it was as long as the
annotations are the same. The base's weights are only read.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import click

from backend.composition import decoders, parts
from backend.concurrency.retry import Stopped
from backend.decoders.training import STATES
from backend.errors import BackendError
from backend.images import decode
from backend.projects import finetune_examples, finetune_report, progress, sinks
from backend.projects.engine import Engine
from backend.projects.finetune_examples import Example
from backend.projects.progress import LINE_EVERY_S, format_seconds
from backend.projects.report import RunReport
from backend.projects.run import BatchRun
from backend.settings import Settings
from model import folders
from model.finetuning.judging import Judgement, Scores
from model.finetuning.training import FEWEST_IMAGES, Progress, Result, Training, TrainingOptions
from model.overlay import RgbImage
from model.weights import Checkpoint, decoder_weights
from model.weights.decoder_weights import DecoderInfo, TrainingFigures

ENOUGH_IMAGES, ENOUGH_MASKS = 30, 100
PICTURE_SIDE = 900
REPORT = "report.html"


@dataclass(frozen=True)
class FinetuneOptions:
    """The command's options."""

    training: TrainingOptions
    takes_any: bool = False  # also a decoder that is no better
    report: Path | None = None  # where the HTML page is written; None for beside the decoders


def run(
    settings: Settings,
    checkpoint: Checkpoint,
    batch: BatchRun,
    engine: Engine,
    options: FinetuneOptions,
) -> RunReport:
    """Fine-tune ``checkpoint``, print the figures, and publish a decoder that is better; return a report.

    Raises:
        DeviceError: the device is not available on this machine.
        OSError: a file cannot be written.
    """
    with progress.showing("finetune", batch.total, sys.stderr) as shown:
        examples, report = finetune_examples.gather(batch, engine, checkpoint.config, shown)
    images = [example.image for example in examples]
    masks = sum(len(image.objects) for image in images)
    if not report.ended and (count := len({image.key for image in images})) < FEWEST_IMAGES:
        report.ended = f"expected masks on at least {FEWEST_IMAGES} different images to learn from, got {count}"
    if report.ended:
        return report
    if len(images) < ENOUGH_IMAGES or masks < ENOUGH_MASKS:
        _say(
            f"{masks} masks on {len(images)} images are few to learn from, and to judge by: with {ENOUGH_MASKS} on "
            f"{ENOUGH_IMAGES} images or more the figures mean more"
        )
    state_file = settings.cache_dir / STATES / f"{batch.project.id}.safetensors"
    training = Training(checkpoint, images, options.training, state_file, settings.device)
    batch.stop.listen()
    try:
        result = training.run(batch.stop, _Lines())
    except Stopped:
        report.ended = "stopped; the next run goes on from here"
        return report
    except BackendError as error:
        report.ended = " ".join(str(error).split())
        return report
    _print_report(settings, checkpoint, batch, options, examples, result)
    if result.ended == "stopped":
        report.ended = "stopped; the next run goes on from here"
    if result.is_better or (options.takes_any and result.after is not result.before):
        data = decoder_weights.dump(_info(checkpoint, batch.project.id, examples, result), result.tensors)
        version = decoder_weights.apply(checkpoint, decoders.publish(settings, batch.project.id, data)).model_version
        click.echo(f"decoder of project {batch.project.id}: {version}, {len(data) / 1e6:.1f} MB")
    else:
        why = "no better than the base's decoder: not taken" + ("" if options.takes_any else " (--force takes it)")
        report.ended = "; ".join(filter(None, [report.ended, why]))
    if result.ended != "stopped":
        state_file.unlink(missing_ok=True)
    return report


def _print_report(
    settings: Settings,
    checkpoint: Checkpoint,
    batch: BatchRun,
    options: FinetuneOptions,
    examples: Sequence[Example],
    result: Result,
) -> None:
    """Print the figures, and write the HTML page."""
    for line in finetune_report.lines(result):
        click.echo(line)
    path = options.report or settings.decoders_dir / str(batch.project.id) / REPORT
    title = f"Fine-tuning of {checkpoint.model_version} for project {batch.project.id} {batch.project.title!r}"
    page = finetune_report.page(result, title, _pictures(settings, batch, examples))
    folders.write(path, page.encode())
    click.echo(f"report: {path}")


def _info(checkpoint: Checkpoint, project_id: int, examples: Sequence[Example], result: Result) -> DecoderInfo:
    figures = TrainingFigures(
        len(examples),
        sum(len(example.image.objects) for example in examples),
        {kind: round(iou, 4) for kind, iou in Scores.of(result.before).ious.items()},
        {kind: round(iou, 4) for kind, iou in Scores.of(result.after).ious.items()},
    )
    created = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    config = checkpoint.config
    return DecoderInfo(checkpoint.name, checkpoint.digest, config.family, project_id, created, figures)


def _pictures(
    settings: Settings, batch: BatchRun, examples: Sequence[Example]
) -> Callable[[Judgement], RgbImage | None]:
    """Return what reads the photo of an object, at most a few times per report."""
    refs = {id(example.image): example.ref for example in examples}
    fetch = sinks.retrying_fetch(parts.image_source(settings, batch.client), batch.retry, batch.client.version)
    limits = replace(decode.PixelLimits(max_pixels=settings.max_image_pixels), model_side=PICTURE_SIDE)

    def pixels(judgement: Judgement) -> RgbImage | None:
        with suppress(BackendError, Stopped):
            return decode.decode(fetch(refs[id(judgement.image)]), limits).pixels
        return None

    return pixels


class _Lines:
    """Prints how far a training is: after every judgement, and every few seconds."""

    def __init__(self) -> None:
        self._judgements, self._written_at = 0, time.monotonic()

    def __call__(self, at: Progress) -> None:
        now = time.monotonic()
        if len(at.scores) == self._judgements and now - self._written_at < LINE_EVERY_S:
            return
        self._judgements, self._written_at = len(at.scores), now
        about = finetune_report.summary(at.scores)
        _say(f"finetune: step {at.step} of at most {at.steps}, {format_seconds(at.left_s)} left; {about}")


_say = partial(click.echo, err=True)
