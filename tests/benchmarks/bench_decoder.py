"""From an embedding and boxes to masks of the photo's size, ViT-B's decoder at 1024, against segment-anything's."""

from collections.abc import Iterator

import numpy as np

from model.build import load_decoder
from model.config import vit_b
from model.transforms import longest_side_size
from model.types import Embedding, Prompt
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare

ROUNDS = 15
AGAINST = "segment-anything, torch eager"


def run() -> Iterator[Row]:
    """Compare one box, and many in one call with as many of Meta's decodes."""
    decoder, config = load_decoder(subjects.checkpoint(), device="cpu"), vit_b()
    features = np.random.RandomState(0).standard_normal(config.embedding_shapes["image_embedding"]).astype(np.float32)
    input_size = longest_side_size(subjects.PHOTO_SIZE, config.image_size)
    embedding = Embedding(features, subjects.PHOTO_SIZE, input_size, decoder.model_version)
    prompt_alone, prompts = ([Prompt(box=box) for box in subjects.boxes(count)] for count in (1, subjects.MANY))
    with subjects.engine("segment_anything_box") as theirs:
        yield compare(
            "decoder, one box",
            lambda: decoder.decode(embedding, prompt_alone),
            lambda: subjects.ask(theirs),
            against=AGAINST,
            goal=0.45,
            rounds=ROUNDS,
        )
    with subjects.engine("segment_anything_boxes") as theirs:
        yield compare(
            f"decoder, {subjects.MANY} boxes at once",
            lambda: decoder.decode(embedding, prompts),
            lambda: subjects.ask(theirs),
            against=f"{AGAINST}, one by one",
            goal=0.35,
            rounds=ROUNDS // 3,
        )
