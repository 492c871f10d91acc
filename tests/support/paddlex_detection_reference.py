"""What PaddleX's own detectors answer: run by a test in the interpreter of a virtual environment that has PaddleX.

Usage: python paddlex_detection_reference.py QUESTION.json ANSWER.json

The question is a list of dicts with ``name``, ``directory``, ``images`` (``.npy`` files of (H, W, 3) uint8 RGB) and
``prompt`` (None for a detector with fixed classes); the answer holds the boxes of each image, as PaddleX has them, and
what it feeds to the program (dtypes, shapes and sums of the arrays).
"""

import json
import sys
from pathlib import Path

import numpy as np
from paddlex import create_model


def answer(question):
    model = create_model(question["name"], model_dir=question["directory"], device="cpu")
    options = {} if question["prompt"] is None else {"prompt": question["prompt"]}
    answers = []
    for path in question["images"]:
        image = np.ascontiguousarray(np.load(path)[..., ::-1])  # PaddleX takes arrays as BGR
        boxes = next(iter(model.predict(image, **options)))["boxes"]
        answers.append(
            [
                {
                    "label": box["label"],
                    "score": float(box["score"]),
                    "box": [float(side) for side in box["coordinate"]],
                }
                for box in boxes
            ]
        )
    return answers


def main():
    questions, target = sys.argv[1:]
    Path(target).write_text(json.dumps([answer(question) for question in json.loads(Path(questions).read_text())]))


if __name__ == "__main__":
    main()
