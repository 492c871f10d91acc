"""From an embedding and boxes to masks of the photo's size, ViT-B's decoder at 1024."""

import numpy as np

from model.build import load_decoder
from model.types import Embedding, Prompt
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare

ROUNDS = 15
MANY = 16


def run() -> list[Row]:
    """Compare one box with Meta's code, and each of many boxes with one alone."""
    decoder, meta = load_decoder(subjects.checkpoint(), device="cpu"), subjects.meta_predictor()
    seen = meta.features[0].numpy()
    embedding = Embedding(seen, subjects.PHOTO_SIZE, meta.input_size, decoder.model_version)
    box = np.array(subjects.BOX)
    one, many = [Prompt(box=box)], [Prompt(box=box + 5 * index) for index in range(MANY)]
    return [
        compare(
            "decoder, one box",
            lambda: decoder.decode(embedding, one),
            lambda: meta.predict(box=box, multimask_output=False),
            against="segment-anything, torch eager",
            goal=1.0,
            rounds=ROUNDS,
        ),
        compare(
            f"decoder, {MANY} boxes at once",
            lambda: decoder.decode(embedding, many),
            lambda: [decoder.decode(embedding, one) for one in many],
            against=f"the same {MANY} one by one",
            goal=0.8,
            rounds=ROUNDS // 3,
        ),
    ]
