"""What a command found in a picture, as files: masks, an overlay, JSON, and a line in COCO's file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time they would make ``--help`` wait for numpy
    from PIL.Image import Image

    from model.cli.jobs import Job
    from model.coco.rle import Rle
    from model.coco.writer import CocoFile
    from model.paddlex.inputs import Picture
    from model.types import Prompt


@dataclass(frozen=True, eq=False)
class Segmented:
    """The masks of one picture, and what is written about them.

    Attributes:
        picture: the picture.
        fields: what the JSON file begins with.
        masks: one per object.
        infos: what the JSON file says of each.
        scores: how good each is likely to be, 0 to 1, or None.
        facts: what COCO's file says of each beyond its own fields.
        prompts: what the overlay shows of the question.
        category_ids: in COCO's file; empty where it has a single category.
    """

    picture: "Picture"
    fields: Mapping[str, object]
    masks: Sequence["Rle"]
    infos: Sequence[Mapping[str, object]]
    scores: Sequence[float | None]
    facts: Sequence[Mapping[str, object]]
    prompts: Sequence["Prompt"] = ()
    category_ids: Sequence[int] = ()


class Files:
    """Writes what is found to a directory, to COCO's file, or to both."""

    def __init__(self, out: Path | None, coco: "CocoFile | None", model_version: str) -> None:
        self._out, self._coco, self._model_version = out, coco, model_version

    def write(self, job: "Job", segmented: Segmented) -> None:
        """Write all about one picture; to COCO's file last, which has no place for half of it.

        Raises:
            OSError: something cannot be written.
        """
        from model.coco.writer import Annotation

        if self._out is not None:
            self._write_directory(self._out / job.target, segmented)
        if self._coco is not None:
            categories = segmented.category_ids or [1] * len(segmented.masks)
            objects = zip(segmented.masks, segmented.scores, segmented.facts, categories, strict=True)
            annotations = (Annotation(*each) for each in objects)
            self._coco.add(job.name, segmented.picture.original_size, annotations)

    def _write_directory(self, target: Path, segmented: Segmented) -> None:
        """Write masks, overlay and JSON; the JSON, which says that all is there, last."""
        from PIL import Image

        from model.coco import rle as coco

        target.parent.mkdir(parents=True, exist_ok=True)
        names = []
        for number, rle in enumerate(segmented.masks, start=1):
            path = target.with_name(f"{target.name}_mask_{number}.png")
            Image.fromarray(coco.decode(rle).to_array().astype("uint8") * 255).save(path)
            names.append(path.name)
        _overlay(segmented).save(target.with_name(f"{target.name}_res.jpg"))
        fields = {
            **segmented.fields,
            "masks": names,
            "mask_infos": segmented.infos,
            "model_version": self._model_version,
        }
        text = json.dumps(fields, indent=2, ensure_ascii=False)
        target.with_name(f"{target.name}_res.json").write_text(text + "\n", encoding="utf-8")


def _overlay(segmented: Segmented) -> "Image":
    """Return the masks over the photo, those of "segment everything" with the small ones on top."""
    from PIL import Image

    from model.coco import rle as coco
    from model.overlay import draw
    from model.types import Embedding

    content = segmented.picture.content
    assert not isinstance(content, Embedding)  # pictures are files and addresses here
    masks = segmented.masks if segmented.prompts else sorted(segmented.masks, key=lambda rle: rle.area, reverse=True)
    return Image.fromarray(draw(content, (coco.decode(rle) for rle in masks), segmented.prompts))
