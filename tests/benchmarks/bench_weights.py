"""Processor time per image of every network that has a name, for README's table to choose from; the weights are random.

Processor time, since that is hardly longer where others use the machine too: on two free cores it takes half as long.
"""

import gc
import time

from model.build import load_encoder
from model.config import SamConfig
from model.weights.catalogue import ENTRIES
from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, say
from tests.support.checkpoints import checkpoint_of, random_tensors

ROUNDS = 3


def parts() -> list[str]:
    """The networks, each of which can be measured alone."""
    return [entry.name for entry in ENTRIES if entry.config is not None]


def run(only: str | None = None) -> list[Row]:
    """Measure each network's encoder, one after the other, or one, which is then compared with nothing."""
    configs = {entry.name: entry.config for entry in ENTRIES if entry.config is not None}
    names = list(configs) if only is None else [only]
    took = {name: _processor_ms(configs[name]()) for name in names}
    base = only or "sam_vit_b"
    return [Row(f"encoder, {name}", ms, took[base], "ms", base, None, ms / took[base]) for name, ms in took.items()]


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
