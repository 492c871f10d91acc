"""What `predict` gives for one picture: PaddleX's result, with the same keys, methods and file names."""

import json
import sys
import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from model.paddlex import mask_json, result_files
from model.paddlex.inputs import Picture
from model.paddlex.prompts import Request
from model.types import Embedding, Masks

_MASKS_DEPTH = 2  # {"masks": [ here


class SamResult(dict[str, Any]):  # Any: PaddleX's results are dicts of unlike values
    """The masks of one picture, as the dict that PaddleX gives.

    Keys:
        input_path: file or address, None for an array or an embedding.
        input_img: (H, W, 3) uint8 RGB, None for an embedding.
        prompts: the prompts, as lists.
        masks: one (H, W) int8 array per object, 1 on it.
        mask_infos: per object a dict of ``label`` (``box_prompt``, ``point_prompt``), ``prompt`` (the box, or the
            points), ``score`` (predicted IoU; None where the weights have no score head) and, for a box refined by
            points, ``points``.

    Attributes:
        outputs: the same masks as values, cut to their objects, with their low-resolution logits.
        requests: the requested objects, one per mask.
    """

    def __init__(
        self, picture: Picture, prompts: dict[str, object], requests: Sequence[Request], outputs: Masks
    ) -> None:
        self.outputs, self.requests, self._name = outputs, tuple(requests), picture.name
        scores = (
            [None] * len(outputs) if outputs.iou_predictions is None else [row[0] for row in outputs.iou_predictions]
        )
        super().__init__(
            input_path=picture.path,
            input_img=None if isinstance(picture.content, Embedding) else picture.content,
            prompts=prompts,
            masks=[row[0].to_array().view(np.int8) for row in outputs.masks],
            mask_infos=[_info(request, score) for request, score in zip(requests, scores, strict=True)],
        )

    def fields(self) -> dict[str, Any]:
        """Return what JSON begins with: the picture's path and the prompts."""
        return {"input_path": self["input_path"], "prompts": self["prompts"]}

    @property
    def json(self) -> dict[str, dict[str, Any]]:
        """The result as plain values, under ``res``; masks are nested lists, which for large photos takes a while."""
        masks = [mask.tolist() for mask in self["masks"]]
        return {"res": {**self.fields(), "masks": masks, "mask_infos": self["mask_infos"]}}

    @property
    def img(self) -> dict[str, Image.Image]:
        """The photo with masks and prompts drawn on it, under ``res``.

        Raises:
            ValueError: the result was made from an embedding, so there is no photo.
        """
        from model.overlay import draw  # here: only drawing needs OpenCV

        if self["input_img"] is None:
            raise ValueError("img: expected a result made from a picture, got one made from an embedding")
        drawn = draw(
            self["input_img"], [row[0] for row in self.outputs.masks], [request.prompt for request in self.requests]
        )
        return {"res": Image.fromarray(drawn)}

    def print(
        self, format_json: bool = True, indent: int = 4, ensure_ascii: bool = False, *, json_format: bool | None = None
    ) -> None:
        """Write the result to standard output, without pixels.

        Args:
            format_json: as indented JSON, otherwise as a Python dict on one line.
            indent: spaces per level of JSON.
            ensure_ascii: escape everything that is not ASCII.
            json_format: what PaddleX 3.7 calls ``format_json``.
        """
        content = {"res": {**self.fields(), "masks": "...", "mask_infos": self["mask_infos"]}}
        as_json = format_json if json_format is None else json_format
        text = json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) if as_json else str(content)
        sys.stdout.write(text + "\n")

    def save_to_json(self, save_path: str | Path, indent: int | None = 4, ensure_ascii: bool = False) -> Path:
        """Write the result, masks as nested lists, and return the file.

        Args:
            save_path: a file that ends in ``.json``, or a directory, where it becomes ``<stem>_res.json``.
            indent: spaces per level, None for one line.
            ensure_ascii: escape everything that is not ASCII.
        """
        path = result_files.json_path(save_path, self._file_name)
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            self._write_json(stream, indent, ensure_ascii)
        return path

    def save_to_img(self, save_path: str | Path) -> Path:
        """Write the picture of `img` and return the file.

        Args:
            save_path: an image file, or a directory, where it becomes ``<stem>_res`` with the input's suffix (``.png``
                where the input has none that can be written).
        """
        drawn = self.img["res"]
        path = result_files.image_path(save_path, self._file_name)
        drawn.save(path)
        return path

    @cached_property
    def _file_name(self) -> Path:
        return result_files.file_name(self._name)

    def _write_json(self, stream: IO[str], indent: int | None, ensure_ascii: bool) -> None:
        """Write what ``json.dump`` would write, with the masks' text made by numpy."""
        token = uuid.uuid4().hex
        frame = {**self.fields(), "masks": [token] * len(self["masks"]), "mask_infos": self["mask_infos"]}
        parts = json.dumps(frame, indent=indent, ensure_ascii=ensure_ascii).split(f'"{token}"')
        stream.write(parts[0])
        for mask, after in zip(self["masks"], parts[1:], strict=True):
            stream.writelines(mask_json.rows(mask, indent, _MASKS_DEPTH))
            stream.write(after)


def _info(request: Request, score: float | None) -> dict[str, Any]:
    info: dict[str, Any] = {"label": request.label, "prompt": request.given, "score": score}
    return {**info, "points": list(request.points)} if request.points else info
