"""A decoder is loaded once, reports why it cannot be loaded, and lets no caller wait past its deadline."""

import gc
import math
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.composition.parts import load_encoder
from backend.decoders.lazy_decoder import LazyDecoder, load
from backend.errors import BackendError, Reason, RetryLater
from model.types import Prompt


def test_the_decoder_is_loaded_once_however_many_ask(tiny_checkpoint, tiny_encoder, landscape):
    loaded = []

    def counting(checkpoint, device):
        loaded.append(load(checkpoint, device))
        return loaded[-1]

    decoder = LazyDecoder(tiny_checkpoint, "cpu", counting)
    assert (decoder.model_version, decoder.device) == (tiny_checkpoint.model_version, "")
    embedding = tiny_encoder.encode(landscape)
    prompt = Prompt(point_coords=[[20.0, 30.0]], point_labels=[1])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: decoder.decode(embedding, [prompt]), range(8)))
    assert len({answer.masks[0][0].area for answer in answers}) == 1
    assert len(loaded) == 1
    assert decoder.device == "cpu"


def test_a_decoder_that_cannot_be_loaded_says_why_and_is_tried_again(tiny_checkpoint, embedding):
    devices = ["gpu:7", "gpu:7", "cpu"]
    decoder = LazyDecoder(tiny_checkpoint, "gpu:7", lambda checkpoint, _: load(checkpoint, devices.pop(0)))
    for _ in range(2):
        with pytest.raises(BackendError, match="gpu:7") as caught:
            decoder.decode(embedding, [Prompt(box=[0, 0, 5, 5])])
        assert caught.value.reason is Reason.MODEL_NOT_READY
    assert "gpu:7" in decoder.failure
    assert len(decoder.decode(embedding, [Prompt(box=[0, 0, 5, 5])])) == 1
    assert decoder.failure == ""


def test_a_caller_who_cannot_wait_for_the_load_leaves_with_a_reason_and_the_load_goes_on(tiny_checkpoint):
    gate = threading.Event()

    def slowly(checkpoint, device):
        assert gate.wait(20)
        return load(checkpoint, device)

    decoder = LazyDecoder(tiny_checkpoint, "cpu", slowly)
    for seconds in (0.05, 0.0, -1.0):
        started = time.monotonic()
        with pytest.raises(RetryLater) as caught:
            decoder.wait(seconds)
        assert caught.value.reason is Reason.MODEL_NOT_READY
        assert time.monotonic() - started < 2
    gate.set()
    decoder.wait(math.inf)
    assert decoder.device == "cpu"
    decoder.wait(0.0)


def test_waiting_for_a_decoder_that_cannot_be_loaded_says_why(tiny_checkpoint):
    decoder = LazyDecoder(tiny_checkpoint, "gpu:7")
    for _ in range(2):
        with pytest.raises(BackendError, match="gpu:7") as caught:
            decoder.wait(20)
        assert caught.value.reason is Reason.MODEL_NOT_READY


class Ring:
    """An object that only the garbage collector can free."""

    def __init__(self):
        self.itself = self


@pytest.mark.parametrize("load_another", [load, load_encoder])
def test_loading_another_network_leaves_garbage_to_be_freed(tiny_checkpoint, load_another):
    """What is frozen is never freed, so of a running service nothing is: each change of a decoder would lose memory."""
    load(tiny_checkpoint, "cpu")
    ring = Ring()
    is_there = weakref.ref(ring)
    gc.collect()  # now it is old, and a load is over before the collector looks at it again
    del ring
    load_another(tiny_checkpoint, "cpu")
    gc.collect()
    assert is_there() is None
