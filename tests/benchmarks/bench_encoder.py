"""ViT-B at 1024 on this machine's processor: a photo to its embedding, against Meta's code and against PaddleX."""

from model.build import load_decoder, load_encoder
from model.types import Prompt
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare

ROUNDS = 3


def run() -> list[Row]:
    """Compare the encoder with torch's, and photo plus box to mask with PaddleX, which has no way to encode alone."""
    encoder, decoder = (load(subjects.checkpoint(), device="cpu") for load in (load_encoder, load_decoder))
    image, meta, box = subjects.image(), subjects.meta_predictor(), Prompt(box=subjects.BOX)
    rows = [
        compare(
            "encoder, ViT-B at 1024",
            lambda: encoder.encode(image),
            lambda: meta.set_image(image),
            against="segment-anything, torch eager",
            goal=1.0,
            rounds=ROUNDS,
        )
    ]
    with subjects.paddlex_engine() as paddlex:
        if paddlex is not None:
            rows.append(
                compare(
                    "encoder and one box, ViT-B at 1024",
                    lambda: decoder.decode(encoder.encode(image), box),
                    lambda: subjects.ask(paddlex),
                    against="PaddleX",
                    goal=0.55,
                    rounds=ROUNDS,
                )
            )
    return rows
