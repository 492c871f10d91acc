"""From an embedding and boxes to masks of the photo's size, ViT-B's decoder at 1024, against segment-anything's."""

import numpy as np

from model.build import load_decoder
from model.types import Embedding, Prompt
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare

ROUNDS = 15
MANY = 16
AGAINST = "segment-anything, torch eager"


def run() -> list[Row]:
    """Compare one box, and many in one call with as many of Meta's decodes."""
    decoder, meta = load_decoder(subjects.checkpoint(), device="cpu"), subjects.meta_predictor()
    features = meta.features[0].numpy()
    embedding = Embedding(features, subjects.PHOTO_SIZE, meta.input_size, decoder.model_version)
    box = np.array(subjects.BOX)
    boxes = [box + 5 * index for index in range(MANY)]
    prompt_alone, prompts = [Prompt(box=box)], [Prompt(box=each) for each in boxes]
    return [
        compare(
            "decoder, one box",
            lambda: decoder.decode(embedding, prompt_alone),
            lambda: meta.predict(box=box, multimask_output=False),
            against=AGAINST,
            goal=0.45,
            rounds=ROUNDS,
        ),
        compare(
            f"decoder, {MANY} boxes at once",
            lambda: decoder.decode(embedding, prompts),
            lambda: [meta.predict(box=each, multimask_output=False) for each in boxes],
            against=f"{AGAINST}, one by one",
            goal=0.35,
            rounds=ROUNDS // 3,
        ),
    ]
