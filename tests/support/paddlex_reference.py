"""What PaddleX itself answers: run by a test in the interpreter of a virtual environment that has PaddleX.

Usage: python paddlex_reference.py MODEL_NAME MODEL_DIR QUESTION.npz ANSWER.npz

The question holds ``image`` (H, W, 3) uint8 in RGB and ``prompts``, (N, 4) boxes or (1, 2) a point; the answer holds
``masks`` (N, H, W) int8.
"""

import sys

import numpy as np
from paddlex import create_model


def main():
    name, directory, question, answer = sys.argv[1:]
    arrays = np.load(question)
    kind = "box_prompt" if arrays["prompts"].shape[1] == 4 else "point_prompt"
    model = create_model(name, model_dir=directory, device="cpu")
    image = np.ascontiguousarray(arrays["image"][..., ::-1])  # PaddleX takes arrays as BGR
    result = next(iter(model.predict(image, prompts={kind: arrays["prompts"].tolist()})))
    np.savez(answer, masks=np.asarray(result["masks"]))


if __name__ == "__main__":
    main()
