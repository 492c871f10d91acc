"""MobileSAM at 1024 on this machine's processor: a photo to its embedding against our ViT-B and the authors' code.

A click and the memory of a process beside it. The weights are random, which costs the same.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from model import weights
from model.build import load_decoder, load_encoder
from model.config import mobile_sam
from model.types import Prompt
from tests.benchmarks import subjects
from tests.benchmarks.peak_memory import measure
from tests.benchmarks.rows import Row, compare, limit, say
from tests.support.mobile_files import write_published

ROUNDS, CLICKS = 5, 15
MOST_MEMORY_MB = 900


def run() -> Iterator[Row]:
    """Compare encoder, click and memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_published(mobile_sam(), Path(folder, "mobile_sam.pt"))
        mobile, base = weights.read(path), subjects.checkpoint()
        say("measuring the memory of a MobileSAM process")
        yield limit("peak memory, MobileSAM", measure(path, "answer") / 1e6, MOST_MEMORY_MB, "MB")
        image, box = subjects.image(), Prompt(box=subjects.BOX)
        ours, vit_b = (load_encoder(checkpoint, device="cpu") for checkpoint in (mobile, base))
        click, vit_b_click = (load_decoder(checkpoint, device="cpu") for checkpoint in (mobile, base))
        embedding, vit_b_seen = ours.encode(image), vit_b.encode(image)
    yield compare(
        "encoder, MobileSAM", lambda: ours.encode(image), lambda: vit_b.encode(image),
        against="our ViT-B", goal=0.2, rounds=ROUNDS,
    )  # fmt: skip
    with subjects.engine("mobile_sam_encode") as theirs:
        yield compare(
            "encoder, MobileSAM", lambda: ours.encode(image), lambda: subjects.ask(theirs),
            against="mobilesam-mirror, torch eager", goal=0.8, rounds=ROUNDS,
        )  # fmt: skip
    yield compare(
        "warm click, MobileSAM", lambda: click.decode(embedding, box), lambda: vit_b_click.decode(vit_b_seen, box),
        against="our ViT-B", goal=1.1, rounds=CLICKS,
    )  # fmt: skip
