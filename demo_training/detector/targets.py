"""Batches for the demo's detector: pictures, and what every cell should say."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo_training.dataset import Example, Shards
from demo_training.detector.network import FILLER, GRID, SIDE, STRIDE
from demo_training.detector.words import word_targets
from demo_training.shapes import OUTLINES

LEAST_PIXELS = 40
LEAST_SHARE, BACKGROUND_SHARE = 0.4, 0.9
Rng = np.random.Generator


@dataclass(frozen=True)
class Batch:
    """B pictures of side S with M objects in all; L cells each.

    ``pixels`` are float32 (B, 3, S, S). ``cells`` int64 (B, L) hold the number of the object (from 0, over the whole
    batch) that a cell speaks for, -1 for background, -2 where it may say anything. ``boxes`` are (M, 4), XYXY in
    pixels; ``words`` (M, V) as in `word_targets`.
    """

    pixels: Tensor
    cells: Tensor
    boxes: Tensor
    words: Tensor


def draw_batch(rng: Rng, shards: Shards, images: int) -> Batch:
    """Draw scenes, augmented and placed as the detector places a picture."""
    pixels = np.full((images, SIDE, SIDE, 3), FILLER, np.uint8)
    cells = np.zeros((images, GRID * GRID), np.int64)
    boxes: list[list[float]] = []
    words: list[NDArray[np.float32]] = []
    for row in range(images):
        example = shards.draw(rng)
        top, left = (SIDE - example.ids.shape[0]) // 2, (SIDE - example.ids.shape[1]) // 2
        height, width = example.ids.shape
        pixels[row, top : top + height, left : left + width] = example.image
        ids = np.zeros((SIDE, SIDE), np.uint8)
        ids[top : top + height, left : left + width] = example.ids
        cells[row] = _describe(pixels[row], ids, example, boxes, words)
    return Batch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),
        torch.from_numpy(cells),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.from_numpy(np.array(words, np.float32)),
    )


def _describe(
    pixels: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    example: Example,
    boxes: list[list[float]],
    words: list[NDArray[np.float32]],
) -> NDArray[np.int64]:
    """Append boxes and words of a picture's objects; return what its cells speak for."""
    count = len(example.parents)
    squares = ids.reshape(GRID, STRIDE, GRID, STRIDE).transpose(0, 2, 1, 3).reshape(GRID * GRID, STRIDE * STRIDE)
    shares = np.stack([(squares == k).mean(1) for k in range(count + 1)], axis=1)  # (L, objects + 1)
    cells = np.where(shares[:, 0] >= BACKGROUND_SHARE, -1, -2).astype(np.int64)
    main = 1 + shares[:, 1:].argmax(1)
    for k in range(count):
        own = ids == k + 1
        if np.count_nonzero(own) < LEAST_PIXELS:
            continue
        mask = own | np.isin(ids, 1 + np.flatnonzero(example.parents == k))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        speaking = (main == k + 1) & (shares[:, k + 1] >= LEAST_SHARE)
        if not speaking.any():
            speaking[shares[:, k + 1].argmax()] = True
        cells[speaking] = len(boxes)
        boxes.append([float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)])
        mean = np.array(cv2.mean(pixels, own.astype(np.uint8))[:3])
        words.append(word_targets(OUTLINES[example.outlines[k]], mean))
    return cells
