"""Bodies of at most a megabyte that each make something in them multiply: made up here, by name.

Every one is what a caller may send to ``/predict``, ``/setup`` or ``/webhook``; some are JSON that no editor
writes, others are well-formed, but large.
"""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache

MOST_BYTES = 1_000_000
IMAGE = "/data/upload/1/a.jpg"
LARGE_WH = (6600, 4950)  # of the proportions of the photo that the tests' clicks are about, and as large as is taken
CONFIG = (
    '<View><Image name="image" value="$image"/><Brush name="brush" toName="image" smart="false"/>'
    '<KeyPoint name="point" toName="image" smart="true"/></View>'
)


def point(x=50.0, y=50.0, **more):
    return region("keypoint", {"x": x, "y": y}, **more)


def region(kind, value, size_wh=(80, 60), **more):
    return {"type": kind, "to_name": "image", "original_width": size_wh[0], "original_height": size_wh[1],
            "value": value, **more}  # fmt: skip


def box(x=1.0, **more):
    return region("rectangle", {"x": x, "y": 1, "width": 9, "height": 9, **more})


def click(*regions, config=CONFIG, data=None):
    task = {"id": 1, "data": {"image": IMAGE} if data is None else data}
    return {"tasks": [task], "project": "1.1", "label_config": config, "params": {"context": {"result": list(regions)}}}


def correction(kind, value, count=1, points=1, size_wh=LARGE_WH):
    """Negative points, and a draft with as many masks as that."""
    masks = [region(kind, value, size_wh, id=f"m{n}", from_name=kind) for n in range(count)]
    tag = f'<{kind.capitalize()} name="{kind}" toName="image"/></View>'
    body = click(
        *(point(50 - n / 9, id=f"p{n}", is_positive=False, size_wh=size_wh) for n in range(points)),
        config=CONFIG.replace('<Brush name="brush" toName="image" smart="false"/>', "").replace("</View>", tag),
    )
    body["tasks"][0]["drafts"] = [{"id": 1, "updated_at": "2026-11-22T20:40:00.000000Z", "result": masks}]
    return body


def opened(*tasks, config=CONFIG):
    return {"tasks": list(tasks), "project": "1.1", "label_config": config, "params": {"context": None}}


def view(*tags):
    return "<View>" + "".join(tags) + "</View>"


def many(make: Callable[[int], object], each: int, room: int = 950_000) -> list:
    """Return as many as fit when each takes so many bytes."""
    return [make(number) for number in range(room // each)]


@cache
def png_url(size_wh, bits=1, colour=0, channels=1):
    """A bitmask of one colour, a few bytes however large."""
    width, height = size_wh
    rows = zlib.compress((b"\x00" + b"\xff" * ((width * bits * channels + 7) // 8)) * height, 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


NESTED = "".join(f'<Repeater on="$a" indexFlag="{{{{i{depth}}}}}">' for depth in range(9))
REPEATED = view(NESTED, '<Image name="p" value="$a[{{i0}}]"/>', "</Repeater>" * 9)
FLAGS = "".join(f'<Repeater on="$a" indexFlag="{chr(97 + n)}">' for n in range(20))
LABELS = "".join(f'<Label value="{number}"/>' for number in range(18_000))
TANGLE = [[50 + number * 7919 % 4001 / 100, 50 + number * 6101 % 3989 / 100] for number in range(20_000)]
ZIGZAG = [[number % 2 * 100, number * 7919 % 1000 / 10] for number in range(60_000)]

PREDICT: dict[str, Callable[[], object]] = {
    # Names that were made into regular expressions
    "a name of repeated flags": lambda: click(
        point(to_name="0" * 60 + "x"),
        config=view(FLAGS, f'<Image name="{"".join(map(chr, range(97, 117)))}" value="$a"/>', "</Repeater>" * 20)),
    "a value of flags": lambda: click(
        point(to_name="p" + "1" * 900),
        config=view('<Repeater on="$a" indexFlag="i">', f'<Image name="pi" value="{"i" * 400_000}"/>', "</Repeater>")),
    # Repeaters
    "nested repeaters, opened": lambda: opened({"id": 1, "data": {"a": ["x"] * 10}}, config=REPEATED),
    "nested repeaters, clicked": lambda: click(point(), config=REPEATED, data={"a": ["x"] * 10}),
    "nested repeaters of nothing": lambda: opened({"id": 1, "data": {"a": [0] * 1000}}, config=REPEATED),
    "long values in a repeater": lambda: opened(
        {"id": 1, "data": {"a": [0] * 1000}},
        config=view('<Repeater on="$a">', f'<Image name="p" value="$b{"{{idx}}" * 100_000}"/>', "</Repeater>")),
    # Values
    "a value of variables": lambda: click(
        point(), config=view('<Image name="image" value="', "$a " * 150_000, '"/>', '<Brush name="b"/>'),
        data={"a": "x" * 400_000}),
    "a value of lists": lambda: click(
        point(), config=view('<Image name="image" value="', "$a " * 100_000, '"/>', '<Brush name="b"/>'),
        data={"a": list(range(80_000))}),
    "images of one long list": lambda: opened(
        {"id": 1, "data": {"a": ["x"] * 100_000}},
        config=view(*(f'<Image name="i{n}" valueList="$a"/>' for n in range(999)))),
    "images of one long address": lambda: opened(
        {"id": 1, "data": {"a": " " + "x" * 800_000}},
        config=view(*(f'<Image name="i{n}" value="$a"/>' for n in range(999)))),
    "many tasks and many images": lambda: opened(
        *many(lambda n: {"id": n, "data": {"a": "x"}}, 40, 800_000),
        config=view(*(f'<Image name="i{n}" value="$b"/>' for n in range(999)))),
    "a long path": lambda: click(point(), config=view('<Image name="image" value="$', "a." * 400_000, '"/>')),
    # Configs
    "many labels and many controls": lambda: click(
        *many(lambda n: point(labels=[str(n)]), 130, 300_000),
        config=view('<Image name="image" value="$image"/>', '<Labels name="l" toName="image">', LABELS, "</Labels>",
                    *(f'<Brush name="b{n}" toName="image"/><Labels name="l{n}" toName="image"/>' for n in range(490)))),
    "many labels of regions": lambda: click(
        *many(lambda n: box(labels=[*map(str, range(99))]), 700, 800_000),
        config=view('<Image name="image" value="$image"/>',
                    *(f'<BrushLabels name="b{n}" toName="image"><Label value="z{n}"/></BrushLabels>'
                      for n in range(900)))),
    "long names in the answer": lambda: click(
        *many(lambda n: region("rectangle", {"x": n / 99, "y": 1, "width": 9, "height": 9}, to_name=""), 160, 400_000),
        config=view(f'<Image name="{"i" * 1000}" value="$image"/>', f'<Brush name="{"b" * 1000}"/>')),
    "a long name": lambda: click(
        point(to_name=""), config=view(f'<Image name="{"i" * 400_000}" value="$image"/>', '<Brush name="b"/>')),
    "a config of tags": lambda: click(point(), config=view("<a/>" * 230_000)),
    "a config of namespaces": lambda: click(
        point(),
        config="<View xmlns='" + "u" * 100_000 + "'>" + "".join(f"<a{n}/>" for n in range(90_000)) + "</View>"),
    "many images asked about": lambda: click(
        *many(lambda n: point(to_name=f"i{n % 990}", item_index=n), 150, 700_000),
        config=view(*(f'<Image name="i{n}" value="$image"/><Brush name="b{n}" toName="i{n}"/>' for n in range(490)))),
    "images that are not there": lambda: click(*many(lambda n: point(to_name=str(n)), 140)),
    # Regions
    "many points": lambda: click(*many(lambda n: point(n % 100, n % 99), 135)),
    "many points in many boxes": lambda: click(
        *many(lambda n: point(n % 100, n % 99, is_positive=True), 155, 450_000),
        *many(lambda n: region("rectangle", {"x": 0, "y": 0, "width": 100 - n % 50, "height": 99}), 165, 480_000)),
    "many boxes": lambda: click(
        *many(lambda n: region("rectangle", {"x": n % 90, "y": 1, "width": 9, "height": 9}), 165)),
    "many small polygons": lambda: click(
        *many(lambda n: region("polygon", {"points": [[1, 1], [99, n % 90], [50, 99]]}, LARGE_WH), 165)),
    "a polygon of many corners": lambda: click(region("polygon", {"points": ZIGZAG}, LARGE_WH)),
    "polygons of many corners": lambda: click(
        *(region("polygon", {"points": ZIGZAG[:3000]}, LARGE_WH) for _ in range(20))),
    "a polygon that crosses itself a million times": lambda: click(region("polygon", {"points": TANGLE})),
    "a task of a polygon that crosses itself a million times": lambda: opened(
        {"id": 1, "data": {"image": IMAGE}, "annotations": [
            {"id": 1, "result": [region("polygon", {"points": TANGLE, "closed": True}, id="a", from_name="polygon")]}]},
        {"id": 2, "data": {"image": IMAGE}}),
    "a vector of many corners": lambda: click(
        region("vector", {"vertices": [{"x": x, "y": y} for x, y in ZIGZAG[:30_000]], "closed": True}, LARGE_WH)),
    "a brush of wide strokes": lambda: click(region("brush", {"touches": [
        {"relativePoints": [n * 7919 % 100 for n in range(100_000)], "relativeStrokeWidth": 100}]}, LARGE_WH)),
    "brushes of wide strokes and points": lambda: click(point(), *(region("brush", {"touches": [
        {"relativePoints": [n * 7919 % 100 for n in range(3_000)], "relativeStrokeWidth": 99}]}, LARGE_WH)
        for _ in range(60))),
    "large bitmasks and a point": lambda: click(
        point(size_wh=LARGE_WH),
        *many(lambda n: region("bitmask", {"imageDataURL": png_url(LARGE_WH)}, LARGE_WH), 28_000)),
    "large bitmasks of four channels and a point": lambda: click(
        point(size_wh=LARGE_WH),
        *(region("bitmask", {"imageDataURL": png_url(LARGE_WH, 8, 6, 4)}, LARGE_WH) for _ in range(5))),
    "large bitmasks of red, green and blue and a point": lambda: click(
        point(size_wh=LARGE_WH),
        *(region("bitmask", {"imageDataURL": png_url(LARGE_WH, 8, 2, 3)}, LARGE_WH) for _ in range(5))),
    "large bitmasks of wide channels": lambda: click(
        *(region("bitmask", {"imageDataURL": png_url(LARGE_WH, 16, 6, 4)}, LARGE_WH) for _ in range(2))),
    "large masks": lambda: click(
        *many(lambda n: region("bitmask", {"imageDataURL": png_url(LARGE_WH)}, LARGE_WH), 28_000)),
    # Accepted masks
    "a mask of another picture and a negative point": lambda: correction(
        "polygon", {"points": [[0, 0], [100, 0], [100, 100], [0, 100]]}, size_wh=(16_384, 16_384)),
    "large polygons beside a negative point": lambda: correction(
        "polygon", {"points": [[0, 0], [100, 0], [100, 100], [51, 50], [0, 100]]}, 40),
    "small polygons and a negative point": lambda: correction(
        "polygon", {"points": [[0, 0], [1, 0], [1, 1]]}, 5000),
    "a large bitmask and negative points": lambda: correction(
        "bitmask", {"imageDataURL": png_url(LARGE_WH, 8, 6, 4)}, points=16),
    "a large mask and negative points": lambda: correction(
        "polygon", {"points": [[0, 0], [100, 0], [100, 100], [0, 100]]}, points=16),
    "a run-length code of nothing": lambda: click(region("brush", {"format": "rle", "rle": [0] * 450_000})),
    "a run-length code of single runs": lambda: click(region(
        "brush", {"format": "rle", "rle": [*(80 * 60 * 4).to_bytes(4, "big"), 0, 0, 0, 0, *([0] * 400_000)]})),
    "regions that are nothing": lambda: click(*([{}] * 330_000)),
    "regions of one name": lambda: click(*many(lambda n: {"id": "a", "value": {f"{n}labels": [1]}}, 42)),
    "a region of many labels": lambda: click(point(id="a") | {"value": {"x": 1, "y": 1, "labels": ["a"] * 180_000}}),
    "a region of many keys": lambda: click(
        point() | {"value": {"x": 1, "y": 1} | {f"{n}labels": 1 for n in range(60_000)}}),
    "numbers without end": lambda: click(point(1e300, -1e300, original_width=10**300, item_index=10**300)),
    # Tasks
    "tasks that are nothing": lambda: opened(*([{}] * 330_000)),
    "tasks that are no tasks": lambda: {"tasks": [[]] * 330_000, "label_config": CONFIG},
    "annotations of nothing": lambda: opened(
        {"id": 1, "annotations": [{"result": [{}] * 15_000} for _ in range(15)]}, {"id": 2}),
    "annotations without regions": lambda: opened({"id": 1, "annotations": [{}] * 320_000}, {"id": 2}),
    "regions that are no prompts": lambda: opened(
        *({"id": n, "annotations": [{"result": [{"type": "x", "value": {"x": 1}}] * 1500}]} for n in range(18))),
    # JSON
    "lists in lists": lambda: opened({"id": 1, "data": [[]] * 330_000}),
    "objects in lists": lambda: opened({"id": 1, "data": [{}] * 240_000}),
    "many keys": lambda: opened({"id": 1, "data": {str(n): n for n in range(60_000)}}),
}  # fmt: skip

RAW: dict[str, bytes] = {
    "deep JSON": b'{"tasks":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "deep JSON in a task": b'{"tasks":[{"data":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}]}",
    "a number of a million digits": b'{"tasks":[' + b"9" * 990_000 + b"]}",
    "a fraction of a million digits": b'{"tasks":[0.' + b"9" * 990_000 + b"]}",
    "many numbers without end": b'{"tasks":[' + b"NaN," * 240_000 + b"NaN]}",
    "empty codes": b'{"tasks":[{"a":[' + b'"rle":[' * 130_000 + b'"context"',
    "codes without an end": b'{"tasks":[{"a":"' + b'\\"rle\\":[' * 90_000 + b'"}],"params":{"context":{"result":[]}}}',
    "halves of an emoji": b'{"tasks":[{"data":"' + b"\\ud800" * 150_000 + b'"}]}',
    "keys that repeat": b'{"tasks":[{' + b'"id":1,' * 130_000 + b'"id":2}]}',
}

SETUP: dict[str, Callable[[], object]] = {
    "labels for many images": lambda: setup(
        *(f'<Image name="i{n}" value="$a"/>' for n in range(400)),
        *(f'<Labels name="l{n}" toName="{",".join(f"i{m}" for m in range(400))}"><Label value="a{n}"/></Labels>'
          for n in range(350))),
    "labels that do not meet": lambda: setup(
        '<Image name="image" value="$image"/><KeyPointLabels name="p" toName="image">', LABELS, "</KeyPointLabels>",
        '<BrushLabels name="b" toName="image" smart="false">', LABELS.replace('value="', 'value="x'), "</BrushLabels>"),
    "long labels": lambda: setup(
        '<Image name="image" value="$image"/><BrushLabels name="b"/><KeyPointLabels name="p">',
        *(f'<Label value="{n}{"x" * 990}"/>' for n in range(900)), "</KeyPointLabels>"),
    "images that lack everything": lambda: setup(*(f'<Image name="{"i" * 900}{n}" value="$a"/>' for n in range(990))),
    "a config of spaces": lambda: setup(" " * 950_000),
    "a config of newlines": lambda: setup("\n" * 470_000),
    "a config of references": lambda: setup("&amp;" * 190_000),
    "attributes": lambda: {"schema": "<View " + " ".join(f"a{n}='' " for n in range(85_000)) + "/>"},
    "entities": lambda: {
        "schema": '<!DOCTYPE V [<!ENTITY a "0123456789abcdef">]><View><Image name="image" value="'
                  + "&a;" * 310_000 + '"/></View>'},
    "defaults of attributes": lambda: {
        "schema": f'<!DOCTYPE V [<!ATTLIST a b CDATA "{"x" * 400_000}">]><View>' + "<a/>" * 19_000 + "</View>"},
    "deep tags": lambda: setup("<a>" * 120_000, "</a>" * 120_000),
}  # fmt: skip

WEBHOOK: dict[str, Callable[[], object]] = {
    "nested repeaters": lambda: created({"id": 1, "data": {"a": ["x"] * 10}}, config=REPEATED),
    "tasks that are nothing": lambda: created(*([{}] * 330_000)),
    "tasks that are no tasks": lambda: created(*([[]] * 330_000)),
    "many tasks": lambda: created(*many(lambda n: {"id": n, "data": {"image": f"{n}"}}, 45)),
}


def setup(*tags):
    return {"project": "1.1", "schema": view(*tags)}


def created(*tasks, config=CONFIG):
    return {"action": "TASKS_CREATED", "project": {"id": 1, "label_config": config}, "tasks": list(tasks)}


def bodies() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Return where each body goes and what makes it, by its name."""
    cases: dict[str, tuple[str, Callable[[], bytes]]] = {}
    for path, makers in (("/predict", PREDICT), ("/setup", SETUP), ("/webhook", WEBHOOK)):
        for name, make in makers.items():
            cases[f"{path} {name}"] = path, lambda make=make: encoded(make())
    for name, body in RAW.items():
        cases[f"/predict {name}"] = "/predict", lambda body=body: body
    return cases


def encoded(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
