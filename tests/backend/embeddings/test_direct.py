"""Embeddings made in the asking threads: what is there is not made again, and little of it is fetched again."""

import threading

import numpy as np
import pytest

from backend.concurrency.retry import Stopped
from backend.embeddings.content_journal import ContentJournal, Entry
from backend.embeddings.direct import DECODED_AT_ONCE
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import FileStore
from backend.errors import BackendError, ImageError, Reason, RetryLater
from backend.images.fetch import Validators
from backend.metrics import Metrics
from backend.types import ImageRef, Priority
from tests.support.direct import direct_embeddings
from tests.support.fakes import FakeEncoder, FakeSource, fake_spec, png

RED, BLUE = (200, 30, 40), (20, 30, 200)


class Setup:
    """Everything in reach; `build` makes what a new process would."""

    def __init__(self, folder):
        self.folder, self.source, self.encoder = folder, FakeSource(), FakeEncoder()
        self.source.contents = {"red": png(RED), "blue": png(BLUE)}
        self.options = {}

    def build(self, **options):
        return direct_embeddings(self.folder, self.source, self.encoder, **options)


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path)


def ref(uri="red", project=1):
    return ImageRef(uri, 1, project)


def test_an_image_is_encoded_once_and_found_by_the_next_process(setup):
    assert setup.build().ensure(ref())
    assert not setup.build().ensure(ref())
    assert setup.encoder.calls == 1


def test_the_service_on_this_machine_finds_what_was_made(setup):
    made = setup.build().get(ref(), 1.0)
    metrics = Metrics()
    store = FileStore(setup.folder / "embeddings", 10_000_000)
    service = LocalEmbeddings(setup.source, lambda: setup.encoder, fake_spec(), store, metrics)
    try:
        found = service.get(ref(), 10.0)
    finally:
        service.close()
    assert setup.encoder.calls == 1
    assert found.image_embedding.dtype == made.image_embedding.dtype == np.float16
    np.testing.assert_array_equal(found.image_embedding, made.image_embedding)


def test_what_never_changes_is_not_even_asked_for_again(setup):
    setup.source.immutable = True
    setup.build().ensure(ref())
    assert not setup.build().ensure(ref())
    assert len(setup.source.asked) == 1


def test_what_may_change_is_asked_about_and_not_fetched(setup):
    setup.source.versioned = True
    setup.build().ensure(ref())
    assert not setup.build().ensure(ref())
    assert [cached is not None for cached in setup.source.cached] == [False, True]


def test_what_has_changed_is_encoded_anew_after_one_fetch(setup):
    setup.source.versioned = True
    setup.build().ensure(ref())
    setup.source.contents["red"] = png(BLUE)
    assert setup.build().ensure(ref())
    assert setup.encoder.calls == 2
    assert len(setup.source.asked) == 2


def test_an_image_without_a_version_is_fetched_but_not_encoded_again(setup):
    setup.build().ensure(ref())
    assert not setup.build().ensure(ref())
    assert len(setup.source.asked) == 2
    assert setup.encoder.calls == 1


def test_one_content_behind_two_addresses_is_encoded_once(setup):
    setup.source.contents["copy"] = setup.source.contents["red"]
    embeddings = setup.build()
    assert embeddings.ensure(ref())
    assert not embeddings.ensure(ref("copy"))


def test_an_embedding_that_was_let_go_is_made_again(setup):
    setup.source.immutable = True
    embeddings = setup.build()
    embeddings.ensure(ref())
    for path in (setup.folder / "embeddings").iterdir():
        path.unlink()
    assert embeddings.ensure(ref())
    assert setup.encoder.calls == 2


def test_a_damaged_embedding_is_made_again(setup):
    setup.source.immutable = True
    embeddings = setup.build()
    first = embeddings.get(ref(), 1.0)
    [path] = (setup.folder / "embeddings").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    again = embeddings.get(ref(), 1.0)
    assert setup.encoder.calls == 2
    np.testing.assert_array_equal(first.image_embedding, again.image_embedding)


def test_get_returns_what_is_there(setup):
    embeddings = setup.build()
    first, again = embeddings.get(ref(), 1.0, Priority.BULK), embeddings.get(ref(), 1.0)
    assert setup.encoder.calls == 1
    np.testing.assert_array_equal(first.image_embedding, again.image_embedding)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image", Reason.IMAGE_UNREADABLE),
        (ImageError("gone", Reason.IMAGE_NOT_FOUND), Reason.IMAGE_NOT_FOUND),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(setup, content, reason):
    setup.source.contents["red"] = content
    with pytest.raises(ImageError) as caught:
        setup.build().ensure(ref())
    assert caught.value.reason is reason


def test_an_encoder_that_fails_fails_the_image_alone(setup):
    setup.encoder.failures = [RuntimeError("a defect")]
    embeddings = setup.build()
    with pytest.raises(BackendError, match="a defect"):
        embeddings.ensure(ref())
    assert embeddings.ensure(ref("blue"))


def test_an_image_is_tried_again_when_memory_was_short(setup):
    setup.encoder.failures = [MemoryError()]
    assert setup.build().ensure(ref())
    setup.encoder.failures = [MemoryError(), RuntimeError("Out of memory error on GPU 0")]
    with pytest.raises(RetryLater) as caught:
        setup.build().ensure(ref("blue"))
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_a_store_that_keeps_nothing_is_told_of(setup):
    with pytest.raises(RetryLater) as caught:
        setup.build(room=10).ensure(ref())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE


def test_a_full_disk_is_told_of_by_name(setup):
    (setup.folder / "embeddings").write_text("a file where a folder should be")
    with pytest.raises(RetryLater, match="write failed"):
        setup.build().ensure(ref())


def test_a_run_that_ends_begins_no_encode(setup):
    def check():
        raise Stopped

    with pytest.raises(Stopped):
        setup.build(check=check).ensure(ref())
    assert setup.encoder.calls == 0


def test_pictures_in_memory_are_few_however_many_threads_ask(setup):
    setup.encoder.latency_s = 0.01
    setup.source.contents = {str(number): png((number, 0, 0)) for number in range(12)}
    embeddings = setup.build()
    threads = [threading.Thread(target=embeddings.ensure, args=(ref(str(number)),)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert setup.encoder.calls == 12
    assert setup.encoder.most_at_once <= DECODED_AT_ONCE


def test_nothing_is_to_be_had_without_asking(setup):
    embeddings = setup.build()
    embeddings.prefetch([ref()])
    assert embeddings.peek(ref()) is None
    assert setup.source.asked == []


# The journal


def journal(folder, owner="http://localhost:8080"):
    return ContentJournal(folder / "contents.jsonl", owner)


ENTRY = Entry("ab" * 32, Validators('"v1"', "yesterday"), immutable=False)
PLACE = ("project 1", "cd" * 32)


def test_the_journal_outlives_its_process(tmp_path):
    journal(tmp_path).put(PLACE, ENTRY)
    assert journal(tmp_path).get(PLACE) == ENTRY


def test_the_last_entry_counts(tmp_path):
    changed = Entry("ef" * 32, Validators(), immutable=True)
    first = journal(tmp_path)
    first.put(PLACE, ENTRY)
    first.put(PLACE, changed)
    assert first.get(PLACE) == journal(tmp_path).get(PLACE) == changed


def test_an_entry_is_written_once(tmp_path):
    for _ in range(3):
        journal(tmp_path).put(PLACE, ENTRY)
    assert (tmp_path / "contents.jsonl").read_bytes().count(b"digest") == 1


def test_entries_belong_to_a_project_of_one_label_studio(tmp_path):
    journal(tmp_path).put(PLACE, ENTRY)
    assert journal(tmp_path).get(("project 2", PLACE[1])) is None
    assert journal(tmp_path, "http://elsewhere").get(PLACE) is None


@pytest.mark.parametrize("damage", [b'{"place": "a', b"\xff\xfe\n", b"[]\n", b'{"place": 3}\n'])
def test_a_damaged_line_costs_only_itself(tmp_path, damage):
    journal(tmp_path).put(PLACE, ENTRY)
    path = tmp_path / "contents.jsonl"
    path.write_bytes(path.read_bytes() + b"\n" + damage)
    assert journal(tmp_path).get(PLACE) == ENTRY


def test_what_is_written_after_a_cut_line_is_read(tmp_path):
    path = tmp_path / "contents.jsonl"
    path.write_bytes(b'{"place": "a')
    journal(tmp_path).put(PLACE, ENTRY)
    assert journal(tmp_path).get(PLACE) == ENTRY


def test_a_folder_that_cannot_be_written_costs_nothing_but_memory(tmp_path):
    (tmp_path / "file").write_text("")
    kept = ContentJournal(tmp_path / "file" / "contents.jsonl", "x")
    kept.put(PLACE, ENTRY)
    assert kept.get(PLACE) == ENTRY
