"""Answers a box on a photo with PaddleX, once per line on stdin; run by the interpreter that has PaddleX.

Usage: python paddlex_engine.py DIRECTORY x1 y1 x2 y2
"""

import sys
from pathlib import Path

import numpy as np
from paddlex import create_model


def main() -> None:
    folder, box = sys.argv[1], [float(value) for value in sys.argv[2:]]
    model = create_model("SAM-H_box", model_dir=folder, device="cpu")
    image = np.ascontiguousarray(np.load(Path(folder, "photo.npy"))[..., ::-1])  # PaddleX takes arrays as BGR
    for _ in sys.stdin:
        next(iter(model.predict(image, prompts={"box_prompt": [box]})))
        print("answered", flush=True)


if __name__ == "__main__":
    main()
