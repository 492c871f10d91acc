"""Plain pictures of two objects, and every kind of prompt about one of them.

The objects lie on an even background that no turn or mirroring maps onto themselves, so that what is judged is where
things are, not how well the model sees.
"""

import base64
import io
import math

import cv2
import numpy as np
from PIL import Image

from backend.protocol import rle
from model.types import Mask
from tests.support.orientation_files import exif_bytes
from tests.support.wire_bodies import encoded
from tests.support.wire_reader import checked

GOOD = 0.8
DISC, BLOCK = 0, 1
BACKGROUND, COLOURS = (70, 90, 110), ((220, 180, 60), (150, 40, 50))
SIZES = [(480, 640), (640, 480), (96, 128), (200, 600), (1200, 1600)]
FORMATS = ["PNG", "JPEG", "WEBP"]
TURNS = {  # EXIF orientation -> how pixels are stored so that a reader who obeys it sees them upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def masks(size):
    """The two objects: a disc at the upper left, a block at the lower right."""
    height, width = size
    disc, block = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    cv2.circle(disc, (round(0.3 * width), round(0.35 * height)), round(0.2 * min(size)), 1, -1)
    block[round(0.55 * height) : round(0.85 * height), round(0.6 * width) : round(0.85 * width)] = 1
    return disc > 0, block > 0


def picture(size, kind="PNG", orientation=1):
    """The picture as a data URI."""
    pixels = np.full((*size, 3), BACKGROUND, np.uint8)
    for mask, colour in zip(masks(size), COLOURS, strict=True):
        pixels[mask] = colour
    image, turn = Image.fromarray(pixels), TURNS[orientation]
    image = image if turn is None else image.transpose(turn)
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif_bytes(orientation))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def config(output="BrushLabels"):
    labels = '<Label value="Disc"/><Label value="Block"/>'
    return (
        f'<View><Image name="image" value="$image"/><{output} name="out" toName="image">{labels}</{output}>'
        f'<KeyPointLabels name="in" toName="image" smart="true">{labels}</KeyPointLabels></View>'
    )


def region(kind, size, value, label="Disc", **changes):
    return {
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": value | {f"{kind}labels": [label]},
        "id": f"{kind}-{label}",
        "from_name": "in",
        "to_name": "image",
        "type": f"{kind}labels",
    } | changes


def ask(service, uri, context, output="BrushLabels", data=None):
    """The regions that a click with this context gets."""
    body = {
        "tasks": [{"id": 1, "data": data or {"image": uri}}],
        "project": "1.1",
        "label_config": config(output),
        "params": {"context": {"result": context}},
    }
    response = service.app.test_client().post("/predict", data=encoded(body))
    [item] = checked(body, response, service.segmenter.model_version)
    return item["result"]


def percent(x, y, size):
    return 100 * x / size[1], 100 * y / size[0]


def middle(mask):
    ys, xs = np.nonzero(mask)
    return float(xs.mean() + 0.5), float(ys.mean() + 0.5)


def edges(mask):
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


# The prompts an annotator can draw, each about one object.


def click_on(mask, size, **changes):
    x, y = percent(*middle(mask), size)
    return [region("keypoint", size, {"x": x, "y": y, "width": 0.2}, is_positive=True, **changes)]


def click_and_not_the_other(mask, size):
    away = middle(next(other for other in masks(size) if not (other & mask).any()))
    x, y = percent(*away, size)
    return [*click_on(mask, size), region("keypoint", size, {"x": x, "y": y}, id="away", is_positive=False)]


def two_clicks(mask, size):
    left, top, right, bottom = edges(mask)
    points = []
    for part in (0.35, 0.65):
        x, y = percent(left + part * (right - left), top + part * (bottom - top), size)
        points.append(region("keypoint", size, {"x": x, "y": y}, id=f"click {part}", is_positive=True))
    return points


def rectangle_around(mask, size, label="Disc"):
    left, top, right, bottom = edges(mask)
    (x, y), (x2, y2) = percent(left, top, size), percent(right, bottom, size)
    return [region("rectangle", size, {"x": x, "y": y, "width": x2 - x, "height": y2 - y, "rotation": 0}, label)]


def reversed_rectangle(mask, size):
    [region] = rectangle_around(mask, size)
    value = region["value"]
    value["x"], value["width"] = value["x"] + value["width"], -value["width"]
    value["y"], value["height"] = value["y"] + value["height"], -value["height"]
    return [region]


def turned_rectangle(mask, size):
    """A quarter turn about its corner, which by then is the upper right one."""
    left, top, right, bottom = edges(mask)
    (x, y), wide, high = percent(right, top, size), right - left, bottom - top
    value = {"x": x, "y": y, "width": 100 * high / size[1], "height": 100 * wide / size[0], "rotation": 90}
    return [region("rectangle", size, value)]


def slanted_rectangle(mask, size):
    """Turned by 20 degrees about its corner and just inside the object's box, as three points on its border give it."""
    x, y = middle(mask)
    left, top, right, bottom = edges(mask)
    wide, high, turn = 0.75 * (right - left), 0.75 * (bottom - top), math.radians(20)
    corner = (
        x - wide / 2 * math.cos(turn) + high / 2 * math.sin(turn),
        y - wide / 2 * math.sin(turn) - high / 2 * math.cos(turn),
    )
    px, py = percent(*corner, size)
    value = {"x": px, "y": py, "width": 100 * wide / size[1], "height": 100 * high / size[0], "rotation": 20}
    return [region("rectangle", size, value)]


def ellipse_around(mask, size):
    left, top, right, bottom = edges(mask)
    x, y = percent((left + right) / 2, (top + bottom) / 2, size)
    value = {"x": x, "y": y, "radiusX": 50 * (right - left) / size[1], "radiusY": 50 * (bottom - top) / size[0]}
    return [region("ellipse", size, value)]


def polygon_around(mask, size):
    [ring], _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_KCOS)
    ring = cv2.approxPolyDP(ring, 0.01 * cv2.arcLength(ring, True), True)[:, 0] + 0.5
    return [region("polygon", size, {"points": [percent(x, y, size) for x, y in ring.tolist()], "closed": True})]


def painted(mask, size):
    rough = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return [region("brush", size, {"format": "rle", "rle": list(rle.encode(Mask.from_array(rough)))})]
