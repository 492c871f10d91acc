"""What a user would give: first prompts from a known mask, then corrective clicks from the error, in training."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from demo_training.dataset import Example, Shards
from demo_training.network import DemoSam

Rng = np.random.Generator
SMALLEST_PIXELS = 40


@dataclass(frozen=True)
class Batch:
    """B scenes with N objects each, at the model's size S.

    ``images`` are uint8 (B, S, S, 3), ``sizes`` their (height, width) before padding. ``targets`` float32 (B*N, 1,
    S/2, S/2) hold the share of each low-res cell that the object covers; ``edges`` float32 (B, S/2, S/2) where two
    objects meet. ``points`` (B*N, 2) are one click inside each object, ``boxes`` (B*N, 4) its box, both in model
    pixels. For the auxiliary loss ``every_own`` float32 (M, S/2, S/2) are the pixels of all objects of all scenes
    without their parts, ``every_mask`` the same with them, ``scene_of`` (M,) the row of each one's scene.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: Tensor
    edges: Tensor
    points: Tensor
    boxes: Tensor
    every_own: Tensor
    every_mask: Tensor
    scene_of: Tensor


def click_inside(rng: Rng, mask: NDArray[np.bool_], *, centred: bool) -> tuple[float, float]:
    """Return (x, y) of a pixel of the mask: the farthest from its border, or a random one off the border."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    if centred:
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        return float(x), float(y)
    rows, columns = np.nonzero(inside >= min(2.0, float(inside.max())))
    k = int(rng.integers(len(rows)))
    return float(columns[k]), float(rows[k])


def noisy_box(rng: Rng, mask: NDArray[np.bool_]) -> list[float]:
    """Return the box of a mask (XYXY, the far edge exclusive), half of the time with its sides moved a little."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    if rng.random() < 0.5:
        sides = np.tile(box[2:] - box[:2], 2)
        box += np.clip(rng.normal(0, 0.06, 4) * sides, -10, 10)
    return [float(v) for v in box]


def _objects(rng: Rng, example: Example, count: int) -> list[int]:
    areas = np.bincount(example.ids.ravel(), minlength=len(example.parents) + 1)[1:]
    present = [k for k in range(len(example.parents)) if areas[k] >= SMALLEST_PIXELS]
    order = rng.permutation(present) if present else np.zeros(0, int)
    return [int(k) for k in np.resize(order, count)] if len(order) else []


def draw_batch(rng: Rng, shards: Shards, images: int, objects: int, side: int) -> Batch:
    """Draw scenes and, for each, the objects to be asked for with their first prompts."""
    picture = np.zeros((images, side, side, 3), np.uint8)
    every_id = np.zeros((images, side, side), np.uint8)
    sizes, masks, points, boxes = [], [], [], []
    every: list[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]] = []
    for row in range(images):
        chosen: list[int] = []
        while not chosen:
            example = shards.draw(rng)
            chosen = _objects(rng, example, objects)
        height, width = example.ids.shape
        sizes.append((height, width))
        picture[row, :height, :width] = example.image
        every_id[row, :height, :width] = example.ids
        for k in chosen:
            own, mask = _masks(every_id[row], example.parents, k)
            masks.append(mask)
            points.append(click_inside(rng, own, centred=rng.random() < 0.5))
            boxes.append(noisy_box(rng, mask))
        coarse = every_id[row, 1::2, 1::2]
        present = np.flatnonzero(np.bincount(coarse.ravel(), minlength=len(example.parents) + 1)[1:] >= 8)
        every += [(row, *_masks(coarse, example.parents, int(k))) for k in present]
    return Batch(
        torch.from_numpy(picture),
        sizes,
        functional.avg_pool2d(torch.from_numpy(np.array(masks)).float()[:, None], 2),
        torch.from_numpy(_edges(every_id)),
        torch.tensor(points),
        torch.tensor(boxes),
        torch.from_numpy(np.array([own for _, own, _ in every])).float(),
        torch.from_numpy(np.array([mask for _, _, mask in every])).float(),
        torch.tensor([row for row, _, _ in every]),
    )


def _masks(
    ids: NDArray[np.uint8], parents: NDArray[np.int8], index: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return an object's pixels without and with its parts."""
    own = ids == index + 1
    mask = own.copy()
    for part in np.flatnonzero(parents == index):
        mask |= ids == part + 1
    return own, mask


def _edges(ids: NDArray[np.uint8]) -> NDArray[np.float32]:
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[:, :, 1:] |= ids[:, :, 1:] != ids[:, :, :-1]
    n, h, w = ids.shape
    cells = edge.reshape(n, h // 2, 2, w // 2, 2).any((2, 4))
    return np.asarray(cells, np.float32)


def embed_prompts(
    model: DemoSam, points: Tensor, labels: Tensor, boxes: Tensor, by_box: Tensor, previous: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return sparse and dense prompt embeddings where some rows start with a box and the others with a click.

    ``points`` (N, P, 2) and ``labels`` (N, P) hold the first click and the corrections; a row of ``by_box`` (N,) takes
    ``boxes`` in place of the first click. ``previous`` (N, 1, S/2, S/2) are the logits of the round before.
    """
    encoder = model.prompt_encoder
    clicks, _ = encoder(points=(points, labels), boxes=None, masks=None)  # (N, P + 1, C), the last is "no point"
    corners, dense = encoder(points=None, boxes=boxes, masks=previous)  # (N, 2, C), (N, C, s, s)
    with_box = torch.cat([clicks[:, 1:-1], corners], dim=1)  # (N, P + 1, C)
    return torch.where(by_box[:, None, None], with_box, clicks), dense


def corrective_clicks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return one click (N, 2) in model pixels and its label (N,) from inside each row's error, if there is one.

    ``logits`` and ``targets`` are (N, 1, h, w) at half of the model's resolution.
    """
    n = len(logits)
    wrong = functional.avg_pool2d(((logits > 0) != (targets > 0.5)).float(), 2)  # (N, 1, h/2, w/2)
    width = wrong.shape[-1]
    weight = wrong * functional.avg_pool2d(wrong, 3, 1, 1) ** 2
    there = functional.avg_pool2d(targets, 2)
    weight = torch.where(weight.sum((2, 3), keepdim=True) > 1e-3, weight, there + 1e-6).flatten(1)
    chosen = torch.multinomial(weight, 1)[:, 0]
    labels = (there.flatten(1)[torch.arange(n), chosen] > 0.5).float()
    cells = torch.stack([chosen % width, chosen // width], dim=1).float()
    return 4 * cells + 1.5, labels
