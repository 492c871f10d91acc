"""Pictures of what the demo model answers: ``python -m demo_training.overlays DIR``.

Scenes of both families, and photographs it never saw the like of.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_training.evaluate import FAMILIES, WEIGHTS, Click, Judge, innermost
from demo_training.scenes import Mask, render_scene
from model.build import load_decoder, load_encoder
from model.weights import read

COLOURS = [(255, 64, 64), (64, 200, 255), (255, 220, 0), (80, 255, 80), (255, 80, 255)]
PHOTOGRAPHS: dict[str, list[tuple[int, ...]]] = {
    "astronaut": [(222, 115), (90, 340), (400, 440), (160, 55, 290, 215), (25, 5, 470, 512)],
    "coffee": [(330, 165), (140, 60), (110, 300), (175, 15, 410, 312), (203, 88, 374, 210)],
}
"""Prompts in pixels of scikit-image's photographs: a click (x, y) or a box XYXY."""


def _draw(image: NDArray[np.uint8], mask: Mask, prompt: tuple[int, ...], colour: tuple[int, int, int]) -> None:
    """Tint the mask and mark the prompt, in place."""
    tint = 0.5 * image[mask] + 0.5 * np.array(colour)
    image[mask] = tint.astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outline, -1, colour, 2)
    if len(prompt) == 2:
        cv2.circle(image, prompt, 5, (255, 255, 255), -1)
        cv2.circle(image, prompt, 5, (0, 0, 0), 1)
    else:
        cv2.rectangle(image, prompt[:2], prompt[2:], (255, 255, 255), 2)


def _answered(judge: Judge, image: NDArray[np.uint8], prompts: list[tuple[int, ...]]) -> NDArray[np.uint8]:
    embedding, drawn = judge.encoder.encode(image), image.copy()
    for number, prompt in enumerate(prompts):
        clicks: list[Click] = [(prompt[0], prompt[1], 1)] if len(prompt) == 2 else []
        box = np.array(prompt, dtype=np.float64) if len(prompt) == 4 else None
        mask, _, _ = judge.answer(embedding, clicks, box)
        _draw(drawn, mask, prompt, COLOURS[number % len(COLOURS)])
    return drawn


def write_overlays(judge: Judge, folder: Path) -> None:
    """Write ``train.png`` and ``held_out.png`` (one click per object) and one picture per photograph and prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        tiles = []
        for seed in range(9):
            scene = render_scene(5000 + seed, (360, 480), family)
            clicks: list[tuple[int, ...]] = [innermost(scene.own_mask(k))[:2] for k in range(len(scene.kinds))]
            tiles.append(_answered(judge, scene.image, clicks))
        sheet = np.vstack([np.hstack(tiles[row : row + 3]) for row in (0, 3, 6)])
        cv2.imwrite(str(folder / f"{family}.png"), sheet[..., ::-1])
    for name, prompts in PHOTOGRAPHS.items():
        _write_photograph(judge, folder, name, prompts)


def _write_photograph(judge: Judge, folder: Path, name: str, prompts: list[tuple[int, ...]]) -> None:
    from skimage import data  # a development dependency: only this picture needs it

    image = np.ascontiguousarray(getattr(data, name)())
    tiles = [_answered(judge, image, [prompt]) for prompt in prompts]
    cv2.imwrite(str(folder / f"{name}.png"), np.hstack(tiles)[..., ::-1])


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    checkpoint = read(options.weights)
    write_overlays(Judge(load_encoder(checkpoint), load_decoder(checkpoint)), options.folder)


if __name__ == "__main__":
    main()
