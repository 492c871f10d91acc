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

    Args:
        result: of the training.
        title: of the page.
        pixels: returns the photo of an object, or a smaller copy, (h, w, 3) uint8 RGB; None if it cannot be read.
    """
    ordered = sorted(result.after, key=lambda one: float(np.mean(list(one.ious.values()))))
    before = {(one.image.key, one.index): one for one in result.before}
    heads, *rows = _rows(result)
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", heads), *(("td", row) for row in rows)]
    )
    images = len({one.image.key for one in result.after})
    return _PAGE.substitute(
        title=html.escape(title),
        about=f"Learned from {result.learned_from} images, judged on {images} others. Mean IoU, before → after.",
        table=f"<table>{table}</table>",
        worst="".join(_figure(one, before, pixels) for one in ordered[:SHOWN]),
        best="".join(_figure(one, before, pixels) for one in ordered[: -SHOWN - 1 : -1]),
    )


def _rows(result: Result) -> list[list[str]]:
    """Return a table: heads, all objects, and each label."""
    before, after = Scores.of(result.before), Scores.of(result.after)
    kinds = list(before.ious)
    found = [["label", "objects", *(TITLES[kind] for kind in kinds)]]
    found.append(["all", str(len(result.after)), *(_change(before.ious[kind], after.ious[kind]) for kind in kinds)])
    for label, ious in before.by_label.items():
        cells = [_change(ious[kind], after.by_label[label][kind]) for kind in kinds]
        found.append([label, str(before.counts[label]), *cells])
    return found


def _change(before: float, after: float) -> str:
    return f"{before:.3f} → {after:.3f} ({after - before:+.3f})"


def _figure(
    one: Judgement, before: dict[tuple[str, int], Judgement], pixels: Callable[[Judgement], RgbImage | None]
) -> str:
    first = before[one.image.key, one.index]
    figures = ", ".join(f"{TITLES[kind]} {first.ious[kind]:.2f} → {iou:.2f}" for kind, iou in one.ious.items())
    picture = pixels(one)
    shown = "" if picture is None else "".join(_images(one, picture))
    return f"<figure>{shown}<figcaption>{html.escape(one.wanted.label)}: {figures}</figcaption></figure>"


def _images(one: Judgement, picture: RgbImage) -> Iterator[str]:
    size = picture.shape[0], picture.shape[1]
    wanted = shape_masks.scaled(coco_rle.decode(one.wanted.rle), size)
    found = shape_masks.scaled(coco_rle.decode(next(iter(one.masks.values()))), size)
    left, top, right, bottom = wanted.box or (0, 0, size[1], size[0])
    margin = max(8, round(MARGIN * max(right - left, bottom - top)))
    part = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    for mask in (wanted, found):
        data = base64.b64encode(overlays.jpeg(np.ascontiguousarray(draw(picture, [mask], ())[part]))).decode()
        yield f'<img alt="" src="data:image/jpeg;base64,{data}">'


def summary(scores: Sequence[float]) -> str:
    """Return the judgements so far in a few words, the base's first."""
    return f"mean IoU {max(scores):.3f}, base {scores[0]:.3f}" if scores else ""
