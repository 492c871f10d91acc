"""How well parts are taken out of masks: ``python -m tests.benchmarks.carving [SCENES]`` prints a table.

Objects of held-out scenes are marked with a click and with a box. What does not belong to the answer, a part of the
object or the largest piece beside it, is then clicked in its centre. Compared are the mask as it was, the service's way
of carving, and one decode with all prompts, the logits and the click as a negative point.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np

from backend.segmentation.corrections.accepted_masks import AcceptedMask
from backend.segmentation.corrections.carving import carve
from backend.shapes import KeyPoint
from backend.types import PromptRegion
from demo_training import scenes
from demo_training.scenes import Mask as Pixels
from demo_training.scenes import Scene, render_scene
from model import weights
from model.build import load_decoder, load_encoder
from model.decoder import Decoder
from model.types import Embedding, Mask, Prompt
from model.weights.catalogue import DEMO_WEIGHTS
from tests.support.scenes import box, iou

FIRST_SEED, SIZE = 90_000, (480, 640)
PARTS = 0.5
"""How many objects have a part; more than in the scenes of other figures, where few do."""

SMALLEST_OBJECT, SMALLEST_PIECE, DEEPEST_PX = 1500, 200, 4.0
REGION = PromptRegion("mask", KeyPoint(0, 0), "mask", "image", original_size=SIZE)


def centre(area: Pixels) -> tuple[tuple[float, float], float]:
    """Return the pixel that is deepest inside an area, (x, y), and how deep."""
    inside = cv2.distanceTransform(np.pad(area, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return (int(x) + 0.5, int(y) + 0.5), float(inside.max())


def wrong_pieces(scene: Scene, index: int, answer: Pixels) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Yield what an answer to an object should lose, and the mask without it."""
    whole = scene.masks[index]
    for part, parent in enumerate(scene.parents):
        piece = scene.masks[part] & answer
        if parent == index and iou(answer, whole) > 0.7 and piece.sum() > 0.7 * scene.masks[part].sum() > 200:
            yield "a part", piece, whole & ~scene.masks[part]
    _, pieces, stats, _ = cv2.connectedComponentsWithStats((answer & ~whole).astype(np.uint8))
    if len(stats) > 1:
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[largest, cv2.CC_STAT_AREA] > max(SMALLEST_PIECE, 0.05 * whole.sum()):
            yield "beside it", pieces == largest, whole


def ways(decoder: Decoder, embedding: Embedding, prompt: Prompt, click: tuple[float, float]) -> dict[str, Mask]:
    """Return the mask as it was, and corrected in each way."""
    first = decoder.decode(embedding, prompt)
    [[mask]], [[logits]] = first.masks, first.low_res_masks

    def masks_of(prompts):
        return [row[0] for row in decoder.decode(embedding, prompts).masks]

    carved = carve(AcceptedMask(REGION, mask, logits.astype(np.float16)), [click], masks_of)
    points = [] if prompt.point_coords is None else prompt.point_coords.tolist()
    negative = Prompt([*points, click], [1] * len(points) + [0], prompt.box, logits)
    [corrected] = masks_of([negative])
    return {"as it was": mask, "carved": carved if carved.area else mask, "logits and point": corrected}


def main(count: int) -> None:
    scenes.PART_PROBABILITY = PARTS
    checkpoint = weights.read(DEMO_WEIGHTS)
    encoder, decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")
    figures: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = render_scene(seed, SIZE, "held_out")
        embedding = encoder.encode(scene.image)
        for index in range(len(scene.kinds)):
            at, depth = centre(scene.own_mask(index))
            if scene.own_mask(index).sum() < SMALLEST_OBJECT or depth < 1.5 * DEEPEST_PX:
                continue
            for prompt in (Prompt([at], [1]), Prompt(box=box(scene, index))):
                answer = decoder.decode(embedding, prompt).masks[0][0].to_array()
                for name, piece, wanted in wrong_pieces(scene, index, answer):
                    click, depth = centre(piece)
                    if depth < DEEPEST_PX:
                        continue
                    for way, mask in ways(decoder, embedding, prompt, click).items():
                        pixels = mask.to_array()
                        away = not pixels[int(click[1]), int(click[0])]
                        figures[name, way].append((iou(pixels, wanted), away))
    print("| what does not belong | way | masks | mean IoU | the click is out |\n|---|---|---|---|---|")
    for (name, way), rows in sorted(figures.items()):
        mean, out = np.mean(rows, axis=0)
        print(f"| {name} | {way} | {len(rows)} | {mean:.3f} | {out:.0%} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
