"""The thread that owns the encoder: the most urgent image first, each content once."""

import numpy as np
import pytest

from backend.embeddings.encoder_thread import EncoderThread
from backend.embeddings.stores import MemoryStore
from backend.errors import Reason
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


LOST = OSError("(External) CUDA error(719), unspecified launch failure.")
FULL = RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 1.0GB")


def fail(thread, encoder, colour, error):
    """Encode an image at which the device fails twice; return the reason."""
    encoder.failures = [error, error]
    failure = submit(thread, colour, Priority.BULK).exception(SOON_S)
    assert encoder.failures == [], "tried once more"
    assert failure.retry
    return failure.reason


def test_three_images_in_a_row_at_which_the_device_fails_are_the_end(thread, encoder):
    assert fail(thread, encoder, RED, LOST) is Reason.DEVICE_FAILED
    assert fail(thread, encoder, BLUE, FULL) is Reason.OUT_OF_MEMORY
    assert not thread.is_failing
    assert fail(thread, encoder, GREEN, LOST) is Reason.DEVICE_FAILED
    assert thread.is_failing


def test_an_image_in_between_begins_the_count_again(thread, encoder):
    for colour in (RED, BLUE):
        fail(thread, encoder, colour, LOST)
    submit(thread, GRAY, Priority.BULK).result(SOON_S)
    fail(thread, encoder, GREEN, LOST)
    assert not thread.is_failing


def test_a_device_that_fails_once_costs_nothing(thread, encoder):
    encoder.failures = [LOST]
    submit(thread, RED, Priority.BULK).result(SOON_S)
    assert not thread.is_failing
