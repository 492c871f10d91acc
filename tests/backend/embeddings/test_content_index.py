"""The content at each address: fresh for a while, kept over a restart, forgotten when access is refused."""

import weakref

import pytest

from backend.embeddings.content_index import ContentIndex
from backend.embeddings.content_records import ContentDatabase
from backend.errors import AccessError, ImageError, Reason, RetryLater
from backend.images.fetch import Validators
from tests.support.fakes import FakeClock

ADDRESS = ("project 1", "cd" * 32)
DIGEST, OTHER = "ab" * 32, "ef" * 32


def test_a_failure_that_is_remembered_holds_no_file():
    class File:
        pass

    def fail():
        file = File()
        files.append(weakref.ref(file))
        raise ImageError("damaged")

    files, contents = [], ContentIndex(FakeClock())
    try:
        fail()
    except ImageError as error:
        contents.fail(("p", "u"), error)
    assert files[0]() is None
    assert str(contents.failure(("p", "u"))) == "damaged"


def test_a_new_content_forgets_the_failure_before_it():
    contents = ContentIndex(FakeClock())
    contents.fail(("p", "u"), ImageError("bad"))
    contents.put(("p", "u"), "0" * 64, Validators(), immutable=False)
    assert contents.failure(("p", "u")) is None


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def open_index(tmp_path, clock):
    """Open an index as each new process does."""
    return lambda owner="here": ContentIndex(clock, ContentDatabase(tmp_path / "contents.db", owner))


@pytest.mark.parametrize(("immutable", "fresh_s"), [(False, 60), (True, 600)])
def test_a_record_stays_fresh_over_a_restart_for_as_long_as_without_one(open_index, clock, immutable, fresh_s):
    open_index().put(ADDRESS, DIGEST, Validators("1"), immutable=immutable)
    clock.advance(fresh_s - 1)
    index = open_index()
    record = index.get(ADDRESS)
    assert (record.digest, record.version, record.immutable) == (DIGEST, Validators("1"), immutable)
    assert index.is_fresh(record)
    clock.advance(2)
    assert not index.is_fresh(record)
    assert index.is_stale_usable(record)


@pytest.mark.parametrize("immutable", [False, True])
def test_only_what_never_changes_is_used_after_more_than_ten_minutes(open_index, clock, immutable):
    open_index().put(ADDRESS, DIGEST, Validators(), immutable=immutable)
    clock.advance(1_000_000)
    index = open_index()
    assert index.is_stale_usable(index.get(ADDRESS)) is immutable


def test_a_confirmed_record_is_fresh_again_over_a_restart(open_index, clock):
    index = open_index()
    index.put(ADDRESS, DIGEST, Validators("1"), immutable=False)
    clock.advance(70)
    index.mark_fresh(ADDRESS)
    index = open_index()
    assert index.is_fresh(index.get(ADDRESS))


@pytest.mark.parametrize("immutable", [False, True])
def test_a_record_from_the_future_is_not_fresh(open_index, clock, immutable):
    open_index().put(ADDRESS, DIGEST, Validators(), immutable=immutable)
    clock.advance(-3600)
    index = open_index()
    assert not index.is_fresh(index.get(ADDRESS))
    assert index.is_stale_usable(index.get(ADDRESS)) is immutable


def test_an_image_that_is_refused_is_forgotten_over_a_restart_and_one_that_is_not_to_be_had_now_is_kept(open_index):
    index = open_index()
    for address, error in ((ADDRESS, AccessError("no")), (("project 2", OTHER), RetryLater("later"))):
        index.put(address, DIGEST, Validators(), immutable=True)
        index.fail(address, error)
    assert (index.get(ADDRESS), index.failure(ADDRESS).reason) == (None, Reason.AUTH_FAILED)
    assert open_index().get(ADDRESS) is None
    assert open_index().get(("project 2", OTHER)).digest == DIGEST


def test_failures_do_not_outlive_their_process(open_index):
    open_index().fail(ADDRESS, ImageError("bad"))
    assert open_index().failure(ADDRESS) is None


def test_without_a_database_records_are_kept_in_memory(clock):
    index = ContentIndex(clock)
    index.put(ADDRESS, DIGEST, Validators(), immutable=False)
    assert index.get(ADDRESS).digest == DIGEST
