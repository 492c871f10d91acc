"""The thread that owns the encoder: the most urgent image first, each content once."""

import numpy as np
import pytest

from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import MemoryStore
from backend.metrics import Metrics
from backend.types import Priority
from model.types import ModelInput
from tests.support.fakes import FakeEncoder, fake_spec

SOON_S = 20.0
GRAY, RED, BLUE, GREEN = (120, 120, 120), (200, 0, 0), (0, 0, 200), (0, 200, 0)


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def thread(encoder):
    thread = EncoderThread(lambda: encoder, MemoryStore(1_000_000), Metrics())
    thread.start()
    yield thread
    encoder.gate.set()
    thread.close()


def key(colour):
    return fake_spec().key(bytes(colour).hex().ljust(64, "0"))


def submit(thread, colour, priority):
    pixels = np.full((3, 4, 3), colour, np.uint8)
    return thread.submit(key(colour), ModelInput(pixels, (3, 4)), priority)


def test_a_click_on_an_image_that_waits_to_be_encoded_moves_it_forward(thread, encoder):
    encoder.gate.clear()
    submit(thread, GRAY, Priority.PREFETCH)
    assert encoder.running.wait(SOON_S)
    ahead = {colour: submit(thread, colour, Priority.PREFETCH) for colour in (RED, BLUE, GREEN)}
    thread.promote(key(GREEN), Priority.INTERACTIVE)
    assert submit(thread, BLUE, Priority.INTERACTIVE) is ahead[BLUE]
    encoder.gate.set()
    for future in ahead.values():
        future.result(SOON_S)
    assert encoder.colours == [GRAY, GREEN, BLUE, RED]
