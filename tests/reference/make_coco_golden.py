"""Write ``tests/golden/coco/rle.json`` with pycocotools: ``python -m tests.reference.make_coco_golden``.

Needs ``pip install pycocotools``, which no test does.
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "coco" / "rle.json"


def subjects() -> dict[str, np.ndarray]:
    """Masks (H, W) bool that try the code: no run, one run, short and long ones, runs over several columns."""
    random = np.random.RandomState(0)  # its stream is frozen, unlike default_rng's
    rows, columns = np.mgrid[:300, :400]
    masks = {
        "empty": np.zeros((7, 5), dtype=bool),
        "full": np.ones((7, 5), dtype=bool),
        "one pixel": np.ones((1, 1), dtype=bool),
        "one row": random.random_sample((1, 40)) < 0.5,
        "one column": random.random_sample((40, 1)) < 0.5,
        "noise": random.random_sample((23, 31)) < 0.5,
        "specks": random.random_sample((200, 150)) < 0.001,
        "disc": np.hypot(rows - 140, columns - 210) < 120,
        "ring": np.abs(np.hypot(rows - 140, columns - 210) - 90) < 15,
        "columns": np.broadcast_to(np.arange(40) % 7 < 3, (50, 40)).copy(),
        "from the corner": (rows < 40) & (columns < 90),
        "to the corner": (rows > 200) & (columns > 330),
        "large": np.zeros((3000, 4000), dtype=bool),
    }
    masks["large"][5:2990, 11:3980] = True
    return masks


def main() -> None:
    """Write the code, the area and the box that pycocotools gives for each mask."""
    from pycocotools import mask as pycocotools

    golden = {}
    for name, mask in subjects().items():
        code = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
        golden[name] = {
            "size": code["size"],
            "counts": code["counts"].decode("ascii"),
            "area": int(pycocotools.area(code)),
            "bbox": pycocotools.toBbox(code).astype(int).tolist(),
        }
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(code)}" for name, code in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
