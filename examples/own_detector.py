"""Boxes of a detector of your own become masks, all boxes of a picture at once, in a COCO file.

Usage: ``python -m examples.own_detector photo.jpg --out masks.json``

Replace `detect` by your own. ``PADDLE_SAM_WEIGHTS`` names the weights, as for the service.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from backend.composition.parts import read_weights
from backend.images.decode import PixelLimits, decode
from backend.settings import read
from model.build import load_decoder, load_encoder
from model.coco import rle
from model.coco.writer import Annotation, CocoFile
from model.types import Prompt

CATEGORIES = [{"id": 1, "name": "standing out", "supercategory": ""}]


def detect(image: npt.NDArray[np.uint8]) -> list[tuple[float, float, float, float]]:
    """Return the boxes of objects, x and y of two corners in pixels: here, of what differs from the border's colour.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    distance = np.abs(image.astype(int) - np.median(border, axis=0)).max(axis=2)
    _, _, statistics, _ = cv2.connectedComponentsWithStats((distance > 60).astype(np.uint8))
    least = image.shape[0] * image.shape[1] // 500
    return [(x, y, x + width, y + height) for x, y, width, height, area in statistics[1:].tolist() if area > least]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the masks of a picture's detected objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    checkpoint = read_weights(read(os.environ))
    encoder, decoder = load_encoder(checkpoint), load_decoder(checkpoint)
    image = decode(options.picture.read_bytes(), PixelLimits()).pixels
    embedding = encoder.encode(image)
    masks = decoder.decode(embedding, [Prompt(box=box) for box in detect(image)])
    with CocoFile(options.out, "Masks of detected boxes", CATEGORIES) as file:
        file.add(
            options.picture.name,
            embedding.original_size,
            [Annotation(rle.encode(mask)) for (mask, *_) in masks.masks],
        )


if __name__ == "__main__":
    main()
