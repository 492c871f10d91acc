"""Processor time per image of every network that has a name, for README's table to choose from; the weights are random.

Processor time, since that is hardly longer where others use the machine too: on two free cores it takes half as long.
"""

import gc
import time
from collections.abc import Iterator

from model.build import load_encoder
from model.config import SamConfig, vit_b
from model.weights.catalogue import ENTRIES
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, say
from tests.support.checkpoints import checkpoint_of, random_tensors

ROUNDS = 3


def run() -> Iterator[Row]:
    """Measure each network's encoder, one after the other."""
    base = _processor_ms(vit_b())
    for entry in ENTRIES:
        if entry.config is not None:
            took = base if entry.name == "sam_vit_b" else _processor_ms(entry.config())
            yield Row(f"encoder alone, {entry.name}", took, base, "ms", "sam_vit_b", None, took / base)


def _processor_ms(config: SamConfig) -> float:
    """The least of a few encodes, after one that does not count."""
    say(f"measuring {config.name}")
    encoder, image = load_encoder(checkpoint_of(config, random_tensors(config)), device="cpu"), subjects.image()
    encoder.encode(image)
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        encoder.encode(image)
        times.append(time.process_time() - start)
    del encoder
    gc.collect()
    return 1000 * min(times)
