"""A training takes a bounded amount of memory, that of a few copies of the decoder at work."""

import pytest

from model.finetuning.training import TrainingOptions
from model.machine import cpu_count
from tests.benchmarks.training_memory import measure

PROCESS, COPY = 0.7e9, 0.7e9  # what a copy of the decoder takes that answers about four objects


@pytest.mark.slow
def test_a_decoder_of_a_published_sams_size_is_trained_in_bounded_memory():
    copies = min(cpu_count(), TrainingOptions().images)
    assert measure(steps=2) < PROCESS + copies * COPY
