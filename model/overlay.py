"""Draws masks over a photo, with the boxes and points that prompted them."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from model.types import Mask, Prompt

RgbImage = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (0, 158, 255), (255, 99, 64), (0, 200, 130), (190, 90, 255), (255, 200, 0),
    (255, 80, 170), (0, 210, 230), (150, 210, 30), (255, 140, 0), (110, 120, 255),
)  # fmt: skip
"""Colours that most people can distinguish, also side by side; used in turn."""

OPACITY = 0.5
_ON, _OFF, _WHITE = (40, 190, 60), (225, 45, 45), (255, 255, 255)
_THINNEST_PX, _PHOTO_PER_PX = 1, 400


def draw(image: RgbImage, masks: Iterable[Mask], prompts: Sequence[Prompt]) -> RgbImage:
    """Return a copy of the photo with every mask and prompt drawn on it.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: masks of this photo.
        prompts: the masks' prompts; boxes are drawn in their mask's colour, positive points green, negative ones red.
    """
    canvas = image.copy()
    width_px = max(_THINNEST_PX, round(max(image.shape[:2]) / _PHOTO_PER_PX))
    for index, mask in enumerate(masks):
        _tint(canvas, mask, COLOURS[index % len(COLOURS)], width_px)
    for index, prompt in enumerate(prompts):
        _mark(canvas, prompt, COLOURS[index % len(COLOURS)], width_px)
    return canvas


def _tint(canvas: RgbImage, mask: Mask, colour: Colour, width_px: int) -> None:
    (x, y), (height, width) = mask.offset, mask.crop.shape
    if not mask.area:
        return
    part = canvas[y : y + height, x : x + width]
    part[mask.crop] = (part[mask.crop] * (1 - OPACITY) + np.array(colour) * OPACITY).astype(np.uint8)
    contours, _ = cv2.findContours(mask.crop.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, colour, width_px, cv2.LINE_AA, offset=(x, y))


def _mark(canvas: RgbImage, prompt: Prompt, colour: Colour, width_px: int) -> None:
    if prompt.box is not None:
        x1, y1, x2, y2 = (round(corner) for corner in prompt.box.tolist())
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _WHITE, 3 * width_px, cv2.LINE_AA)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width_px, cv2.LINE_AA)
    if prompt.point_coords is not None and prompt.point_labels is not None:
        for (x, y), label in zip(prompt.point_coords.tolist(), prompt.point_labels.tolist(), strict=True):
            centre = round(x), round(y)
            cv2.circle(canvas, centre, 5 * width_px, _WHITE, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, centre, 4 * width_px, _ON if label else _OFF, cv2.FILLED, cv2.LINE_AA)
