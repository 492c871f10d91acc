"""Write the sample pictures that ship, with what is known about them: ``python -m demo_training.samples``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

import model.demo
from demo_training.scenes import Family, Scene, render_scene

FOLDER = Path(model.demo.__file__).parent / "samples"
SAMPLES: dict[str, tuple[int, tuple[int, int], Family]] = {
    "landscape": (9008, (720, 960), "train"),
    "portrait": (9009, (960, 640), "train"),
    "square": (9014, (800, 800), "train"),
    "wide": (9011, (480, 960), "train"),
    "gears": (9022, (800, 800), "held_out"),
}
JPEG_QUALITY = 88


def describe(scene: Scene) -> Sequence[Mapping[str, object]]:
    """Return kind, box (XYXY, the far edge exclusive) and a click (x, y) of every object, in pixels."""
    objects = []
    for index, mask in enumerate(scene.masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        own = np.pad(scene.own_mask(index), 1).astype(np.uint8)
        inside = cv2.distanceTransform(own, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        objects.append({"kind": scene.kinds[index], "box": [int(v) for v in box], "click": [int(x), int(y)]})
    return objects


def write_samples(folder: Path) -> None:
    """Write ``NAME.jpg`` for each sample, and ``samples.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, object]] = {}
    for name, (seed, size, family) in SAMPLES.items():
        scene = render_scene(seed, size, family)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(folder / f"{name}.jpg"), scene.image[..., ::-1], quality)
        records[f"{name}.jpg"] = {"seed": seed, "size": list(size), "family": family, "objects": describe(scene)}
    (folder / "samples.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    write_samples(FOLDER)
