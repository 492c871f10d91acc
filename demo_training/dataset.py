"""Training scenes on disk: rendered once at twice the model's size, shrunk, drawn at random with augmentation.

``python -m demo_training.dataset --out DIR --scenes 8000`` writes shards of 500 scenes; a shard that exists is kept.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_training.scenes import Family, render_scene
from demo_training.shapes import OUTLINES

SHARD = 500
FIRST_SEED = 1_000_000
MAX_OBJECTS = 10
Rng = np.random.Generator


@dataclass(frozen=True)
class Example:
    """One scene at the model's size: ``image`` uint8 (h, w, 3) RGB, ``ids`` uint8 (h, w), ``parents`` int8 (10,).

    ``parents`` is -1 for an object that is no part of another, -2 where there is no object. ``outlines`` int8 (10,)
    are numbers in `demo_training.shapes.OUTLINES`, -1 where there is no object.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    parents: NDArray[np.int8]
    outlines: NDArray[np.int8]


_Row = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int], list[int], list[int]]


def _render(seed: int, side: int, family: Family) -> _Row:
    rng = np.random.default_rng([seed, 7])
    short = round(side * float(np.exp(rng.uniform(np.log(0.5), np.log(1.0)))))
    height, width = (side, short) if rng.random() < 0.5 else (short, side)
    scene = render_scene(seed, (2 * height, 2 * width), family)
    image, ids = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    how = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
    image[:height, :width] = cv2.resize(scene.image, (width, height), interpolation=how)
    ids[:height, :width] = scene.ids[1::2, 1::2]
    missing = MAX_OBJECTS - len(scene.parents)
    outlines = [OUTLINES.index(name) for name in scene.outlines]
    return image, ids, (height, width), [*scene.parents, *[-2] * missing], [*outlines, *[-1] * missing]


def write_shards(
    folder: Path, scenes: int, side: int, first_seed: int = FIRST_SEED, families: Sequence[Family] = ("train",)
) -> None:
    """Render scenes into ``shard_NNN.npz`` files of `SHARD` scenes each."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    for number in range(-(-scenes // SHARD)):
        path = folder / f"shard_{number:03d}.npz"
        if path.exists():
            continue
        rows = [_render(first_seed + number * SHARD + k, side, families[k % len(families)]) for k in range(SHARD)]
        images, ids, sizes, parents, outlines = (np.array(column) for column in zip(*rows, strict=True))
        temporary = path.with_suffix(".part.npz")
        columns = {"parents": parents.astype(np.int8), "outlines": outlines.astype(np.int8)}
        np.savez(temporary, images=images, ids=ids, sizes=sizes, **columns)
        temporary.rename(path)
        print(f"wrote={path.name} scenes={SHARD}", flush=True)


class Shards:
    """The scenes written so far, in memory; `refresh` takes up new shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, dict[str, NDArray[np.generic]]] = {}
        self.refresh()

    def refresh(self) -> int:
        """Load shards that appeared since the last time; return the number of scenes held."""
        for path in sorted(self.folder.glob("shard_???.npz")):
            if path.name not in self.loaded:
                with np.load(path) as arrays:
                    self.loaded[path.name] = dict(arrays)
        return SHARD * len(self.loaded)

    def draw(self, rng: Rng) -> Example:
        """Return a random scene, augmented."""
        shard = self.loaded[str(rng.choice(list(self.loaded)))]
        k = int(rng.integers(SHARD))
        height, width = (int(n) for n in shard["sizes"][k])
        image = shard["images"][k, :height, :width].astype(np.uint8)
        ids = shard["ids"][k, :height, :width].astype(np.uint8)
        parents, outlines = (shard[name][k].astype(np.int8) for name in ("parents", "outlines"))
        return augment(rng, Example(image, ids, parents, outlines))


def augment(rng: Rng, example: Example) -> Example:
    """Return the scene turned, mirrored, sometimes cropped and enlarged, with its colours changed."""
    image, ids = example.image, example.ids
    if rng.random() < 0.1:
        image, ids = _zoom(rng, image, ids)
    turns = int(rng.integers(4))
    image, ids = np.rot90(image, turns), np.rot90(ids, turns)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    colours = image[..., rng.permutation(3)].astype(np.float32)
    if rng.random() < 0.2:
        colours = 255 - colours
    if rng.random() < 0.1:
        grey = colours.mean(-1, keepdims=True)
        colours = grey + (colours - grey) * rng.uniform(0.3, 1)
    colours = colours * rng.uniform(0.85, 1.1) + rng.uniform(-15, 15)
    changed = np.clip(colours, 0, 255).astype(np.uint8)
    return Example(changed, np.ascontiguousarray(ids), example.parents, example.outlines)


def _zoom(rng: Rng, image: NDArray[np.uint8], ids: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = ids.shape
    share = rng.uniform(0.6, 0.95)
    h, w = round(height * share), round(width * share)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    window = (slice(top, top + h), slice(left, left + w))
    larger = cv2.resize(image[window], (width, height), interpolation=cv2.INTER_LINEAR)
    return larger.astype(np.uint8), cv2.resize(ids[window], (width, height), interpolation=cv2.INTER_NEAREST)


def main() -> None:
    """Write the shards named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--side", type=int, default=256, help="the model's input size in pixels")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="other scenes than those already trained on")
    parser.add_argument("--families", nargs="+", default=["train"], help="of shapes, in turn: train, held_out")
    options = parser.parse_args()
    write_shards(options.out, options.scenes, options.side, options.first_seed, options.families)


if __name__ == "__main__":
    main()
