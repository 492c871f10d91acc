"""Each project is served by its own decoder, which is swapped between two requests and never in the middle of one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from backend.decoders.folder import DecoderFolder
from backend.decoders.lazy_decoder import LazyDecoder, load
from backend.decoders.project_decoders import COPIES, RETRY_AFTER_S, DecoderWatch, ProjectDecoders
from backend.errors import RetryLater
from model.types import Embedding, Prompt
from model.weights import decoder_weights
from tests.support.checkpoints import random_checkpoint
from tests.support.cluster import eventually
from tests.support.decoder_files import decoder_file
from tests.support.fakes import FakeClock

BASE = random_checkpoint()
PROMPT = Prompt(np.array([[40.0, 30.0]]), np.array([1]))


@pytest.fixture(scope="module")
def embedding():
    shape = BASE.config.embedding_shapes["image_embedding"]
    array = np.random.default_rng(5).standard_normal(shape).astype("f4")
    return Embedding(array, (96, 128), (96, 128), BASE.encoder_version)


@pytest.fixture
def folder(tmp_path):
    return DecoderFolder(tmp_path)


@pytest.fixture
def process(folder):
    """A web process' decoders, which have read the folder."""

    def process(**options):
        decoders = ProjectDecoders(LazyDecoder(BASE, "cpu"), BASE, folder, "cpu", **options)
        decoders.refresh()
        return decoders

    return process


def version(decoder):
    return f"{BASE.model_version}+{decoder.name}"


def logits(decoder, embedding):
    return decoder.decode(embedding, [PROMPT]).low_res_masks[0]


def test_a_project_without_a_decoder_of_its_own_is_served_by_the_base(process):
    decoders = process()
    assert decoders.of(7) is decoders.of(None)
    assert decoders.of(7).model_version == BASE.model_version


def test_a_projects_decoder_serves_it_and_no_other_from_the_start(folder, process, embedding):
    tuned = folder.publish(7, decoder_file(BASE, project=7))
    decoders = process()
    assert decoders.of(7).model_version == version(tuned)
    assert decoders.of(8).model_version == decoders.of(None).model_version == BASE.model_version
    expected = load(decoder_weights.apply(BASE, tuned), "cpu")
    assert np.array_equal(logits(decoders.of(7), embedding), logits(expected, embedding))
    assert not np.array_equal(logits(decoders.of(7), embedding), logits(decoders.of(8), embedding))


def test_a_new_decoder_takes_its_place_when_it_is_loaded_and_not_before(folder, process):
    gate, loading = threading.Event(), threading.Event()

    def slowly(checkpoint, device):
        loading.set()
        assert gate.wait(20)
        return load(checkpoint, device)

    decoders = process(load=slowly)
    tuned = folder.publish(7, decoder_file(BASE, project=7))
    refresh = threading.Thread(target=decoders.refresh)
    refresh.start()
    assert loading.wait(20)
    assert decoders.of(7).model_version == BASE.model_version
    gate.set()
    refresh.join()
    assert decoders.of(7).model_version == version(tuned)
    assert decoders.of(7).device == "cpu", "it is loaded"


def test_after_a_rollback_the_base_serves_again_at_once(folder, process):
    folder.publish(7, decoder_file(BASE, project=7))
    decoders = process()
    folder.change(7, lambda record: replace(record, active=None))
    decoders.refresh()
    assert decoders.of(7) is decoders.of(None)


def test_a_decoder_of_other_weights_is_refused_in_one_sentence_and_the_base_serves(folder, process, caplog):
    other_checkpoint = random_checkpoint(seed=3)
    folder.publish(7, decoder_file(other_checkpoint, project=7))
    decoders = process()
    decoders.refresh()  # which looks into the files, before the first request
    assert decoders.of(7) is decoders.of(None)
    [problem] = decoders.problems.values()
    assert f"expected its base {other_checkpoint.model_version}, got {BASE.model_version}" in problem
    assert caplog.text.count("event=decoder_refused") == 1


def test_a_decoder_that_cannot_be_used_leaves_the_old_one_in_place_and_is_tried_again_later(folder, process):
    clock = FakeClock()
    first = folder.publish(7, decoder_file(BASE, 1, project=7))
    decoders = process(clock=clock)
    second = folder.publish(7, decoder_file(BASE, 2, project=7))
    path = folder.path(7, f"{second.digest}.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    decoders.refresh()
    assert decoders.of(7).model_version == version(first)
    assert 7 in decoders.problems
    path.write_bytes(data)
    decoders.refresh()
    assert decoders.of(7).model_version == version(first)
    clock.advance(RETRY_AFTER_S)
    decoders.refresh()
    assert decoders.of(7).model_version == version(second)
    assert not decoders.problems


def test_while_a_decoder_cannot_be_loaded_the_base_answers_even_the_first_click(folder, process, embedding):
    clock, failures = FakeClock(), [MemoryError("no memory on the device")]
    tuned = folder.publish(7, decoder_file(BASE, project=7))

    def load_later(checkpoint, device):
        if failures:
            raise failures.pop()
        return load(checkpoint, device)

    decoders = process(load=load_later, clock=clock)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda decoder: (logits(decoder, embedding), decoder), [decoders.of(7)] * 4))
    expected = logits(decoders.of(None), embedding)
    assert all(np.array_equal(answer, expected) for answer, _ in answers)
    assert {decoder.model_version for _, decoder in answers} == {BASE.model_version}
    assert decoders.problems == {7: "the decoder cannot be loaded: no memory on the device"}
    assert decoders.of(7) is decoders.of(None)
    clock.advance(RETRY_AFTER_S)
    decoders.refresh()
    assert decoders.of(7).model_version == version(tuned)
    assert not decoders.problems


def test_decoders_in_memory_are_bounded_in_bytes_and_the_one_used_last_stays(folder, process):
    published = {number: folder.publish(number, decoder_file(BASE, project=number)) for number in (1, 2, 3)}
    nbytes = COPIES * published[1].nbytes
    decoders = process(most_bytes=2 * nbytes)
    loaded = {number: decoders.of(number) for number in (1, 2)}
    assert decoders.of(1) is loaded[1]
    decoders.of(3)
    assert decoders.loaded_bytes == 2 * nbytes
    assert decoders.of(1) is loaded[1]
    assert decoders.of(2) is not loaded[2], "it was dropped, and is read again"
    assert decoders.of(2).model_version == version(published[2])


def test_a_bound_that_is_smaller_than_one_decoder_keeps_one(folder, process, embedding):
    folder.publish(7, decoder_file(BASE, project=7))
    decoders = process(most_bytes=10)
    assert decoders.of(7) is decoders.of(7)
    assert logits(decoders.of(7), embedding).size


def test_while_decoders_change_every_answer_is_wholly_that_of_the_version_it_names(folder, process, embedding):
    published = [folder.publish(7, decoder_file(BASE, seed, project=7)) for seed in (1, 2)]
    checkpoints = (BASE, *(decoder_weights.apply(BASE, decoder) for decoder in published))
    alone = {each.model_version: logits(load(each, "cpu"), embedding) for each in checkpoints}
    loaded = {}

    def load_once(checkpoint, device):
        version = checkpoint.model_version
        loaded[version] = loaded.get(version) or load(checkpoint, device)
        return loaded[version]

    decoders, stop, versions = process(load=load_once), threading.Event(), set()

    def click():
        while not stop.is_set():
            decoder = decoders.of(7)
            answer, version = logits(decoder, embedding), decoder.model_version
            assert np.array_equal(answer, alone[version])
            versions.add(version)

    with ThreadPoolExecutor(4) as pool:
        clicks = [pool.submit(click) for _ in range(4)]
        for active in [published[0].digest, published[1].digest, None] * 2:
            folder.change(7, lambda record, active=active: replace(record, active=active))
            decoders.refresh()
        eventually(lambda: BASE.model_version in versions)
        stop.set()
    for each in clicks:
        each.result()
    assert versions <= set(alone)


def test_the_watch_goes_on_after_every_kind_of_failure():
    failures = [RetryLater("Redis is down"), OSError("the disk is full"), KeyError("a defect")]
    finished = threading.Event()

    def look():
        if failures:
            raise failures.pop(0)
        finished.set()

    with closing(DecoderWatch(look, every_s=0.001)) as watch:
        watch.start()
        assert finished.wait(20)
