"""The report of a fine-tuning: mean IoUs before and after as text, and an HTML page with the best and worst masks."""

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from string import Template

import numpy as np

from backend.projects import overlays
from backend.segmentation import shape_masks
from model.coco import rle as coco_rle
from model.finetuning.judging import CORRECTIONS, Judgement, Scores
from model.finetuning.training import Result
from model.overlay import RgbImage, draw

SHOWN = 6  # masks at either end
MARGIN = 0.4  # around a mask, in parts of its longer side
TITLES = {"click": "one click", "box": "box", "corrected": f"click and {CORRECTIONS} corrections"}

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}td,th{padding:.2em .8em;
text-align:left;border-bottom:1px solid #ccc}figure{display:inline-block;margin:.5em;vertical-align:top}
img{height:220px;margin-right:4px}</style>
<h1>$title</h1><p>$about</p>$table
<h2>Where the decoder is worst</h2><p>Left the annotation, right what one click gives now.</p>$worst
<h2>Where it is best</h2>$best</html>
""")


def lines(result: Result) -> list[str]:
    """Return mean IoUs by label and kind of prompt, before and after, as lines of text."""
    width = max(len(row[0]) for row in _rows(result))
    return [
        "  ".join([f"{row[0]:{width}}", f"{row[1]:>7}", *(f"{cell:>28}" for cell in row[2:])]) for row in _rows(result)
    ]


def page(result: Result, title: str, pixels: Callable[[Judgement], RgbImage | None]) -> str:
    """Return the report as an HTML page that needs no other file.

    ``pixels`` returns the photo of an object, or a smaller copy, (h, w, 3) uint8 RGB; None if it cannot be read.
    """
    ordered = sorted(result.after, key=lambda judgement: float(np.mean(list(judgement.ious.values()))))
    before = {(judgement.image.key, judgement.index): judgement for judgement in result.before}
    heads, *rows = _rows(result)
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", heads), *(("td", row) for row in rows)]
    )
    images = len({judgement.image.key for judgement in result.after})
    return _PAGE.substitute(
        title=html.escape(title),
        about=f"Learned from {result.learned_from} images, judged on {images} others. Mean IoU, before → after.",
        table=f"<table>{table}</table>",
        worst="".join(_figure(judgement, before, pixels) for judgement in ordered[:SHOWN]),
        best="".join(_figure(judgement, before, pixels) for judgement in ordered[: -SHOWN - 1 : -1]),
    )


def _rows(result: Result) -> list[list[str]]:
    """Return a table: heads, all objects, and each label."""
    before, after = Scores.of(result.before), Scores.of(result.after)
    kinds = list(before.ious)
    rows = [["label", "objects", *(TITLES[kind] for kind in kinds)]]
    rows.append(["all", str(len(result.after)), *(_change(before.ious[kind], after.ious[kind]) for kind in kinds)])
    for label, ious in before.by_label.items():
        cells = [_change(ious[kind], after.by_label[label][kind]) for kind in kinds]
        rows.append([label, str(before.counts[label]), *cells])
    return rows


def _change(before: float, after: float) -> str:
    return f"{before:.3f} → {after:.3f} ({after - before:+.3f})"


def _figure(
    after: Judgement, judged_before: dict[tuple[str, int], Judgement], pixels: Callable[[Judgement], RgbImage | None]
) -> str:
    before = judged_before[after.image.key, after.index]
    figures = ", ".join(f"{TITLES[kind]} {before.ious[kind]:.2f} → {iou:.2f}" for kind, iou in after.ious.items())
    picture = pixels(after)
    shown = "" if picture is None else "".join(_images(after, picture))
    return f"<figure>{shown}<figcaption>{html.escape(after.target.label)}: {figures}</figcaption></figure>"


def _images(judgement: Judgement, picture: RgbImage) -> Iterator[str]:
    size = picture.shape[0], picture.shape[1]
    truth = shape_masks.scaled(coco_rle.decode(judgement.target.rle), size)
    predicted = shape_masks.scaled(coco_rle.decode(next(iter(judgement.masks.values()))), size)
    left, top, right, bottom = truth.box or (0, 0, size[1], size[0])
    margin = max(8, round(MARGIN * max(right - left, bottom - top)))
    part = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    for mask in (truth, predicted):
        data = base64.b64encode(overlays.jpeg(np.ascontiguousarray(draw(picture, [mask], ())[part]))).decode()
        yield f'<img alt="" src="data:image/jpeg;base64,{data}">'


def summary(scores: Sequence[float]) -> str:
    """Return the judgements so far in a few words, the base's first."""
    return f"mean IoU {max(scores):.3f}, base {scores[0]:.3f}" if scores else ""
