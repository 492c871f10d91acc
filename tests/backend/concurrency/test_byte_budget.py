"""Files in memory share a budget: what exceeds it waits or is refused, and nothing waits for ever."""

import base64
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.concurrency.byte_budget import ByteBudget, Use
from backend.errors import ImageError, Reason, RetryLater
from backend.images.allowed_addresses import AddressPolicy, Origin
from backend.images.fetch import FetchLimits, ImageSource
from backend.label_studio.http import LabelStudioHttp
from backend.types import ImageRef
from tests.support.fakes import HttpServer, Reply

SIZE = 100_000


def test_room_is_given_back_once():
    budget = ByteBudget(10)
    share = budget.take(6)
    share.release()
    share.release()
    assert budget.taken == 0
    assert budget.take(10).size == 10


def test_what_does_not_fit_is_refused_as_overloaded_after_its_time():
    budget = ByteBudget(10)
    share = budget.take(6)
    with pytest.raises(RetryLater) as caught:
        budget.take(5, 0.01)
    assert caught.value.reason is Reason.OVERLOADED
    assert share.size == 6


def test_what_waits_goes_on_when_there_is_room():
    budget = ByteBudget(10)
    share = budget.take(6)
    threading.Timer(0.05, share.release).start()
    assert budget.take(10, 10).size == 10


def test_a_share_grows_where_there_is_room_and_shrinks_always():
    budget = ByteBudget(10)
    share, other = budget.take(4), budget.take(2)
    assert share.resize(8)
    assert not share.resize(9)
    assert share.resize(1)
    assert budget.taken == 1 + other.size


def test_a_share_that_is_forgotten_gives_its_room_back():
    budget = ByteBudget(10)
    budget.take(10)
    assert budget.taken == 0


def test_one_use_leaves_the_others_their_minimum():
    budget = ByteBudget(100, {Use.BODIES: 20, Use.FILES: 30})
    files = budget.take(80)
    assert not files.resize(81)
    assert budget.add(20, Use.BODIES)
    assert not budget.add(1, Use.BODIES)
    assert not budget.add(1, Use.ADDRESSES)
    files.release()
    assert budget.add(50, Use.BODIES)
    assert (budget.taken_for(Use.BODIES), budget.taken_for(Use.FILES)) == (70, 0)
    assert budget.take(30).size == 30


def test_room_that_one_use_gives_back_lets_another_go_on():
    budget = ByteBudget(10)
    assert budget.add(6, Use.BODIES)
    threading.Timer(0.05, budget.add, (-6, Use.BODIES)).start()
    assert budget.take(10, 10).size == 10


SIZES = st.integers(1, 60)


@given(st.lists(st.tuples(st.sampled_from(Use), SIZES, st.booleans()), max_size=40))
def test_the_sum_is_never_exceeded_and_every_minimum_can_always_be_taken(steps):
    minimums = {Use.BODIES: 30, Use.ADDRESSES: 10, Use.FILES: 25}
    budget, taken_bytes = ByteBudget(100, minimums), dict.fromkeys(Use, 0)
    for use, size, gives_back in steps:
        size = -min(size, taken_bytes[use]) if gives_back else size
        fits = budget.add(size, use)
        assert fits or taken_bytes[use] + size > minimums[use]
        taken_bytes[use] += size if fits else 0
        assert {each: budget.taken_for(each) for each in Use} == taken_bytes
        assert budget.taken == sum(taken_bytes.values()) <= 100


@pytest.fixture
def server():
    with HttpServer() as server:
        server.routes["/a"] = Reply(b"a" * SIZE)
        server.routes["/unknown"] = Reply(b"b" * SIZE, headers={"Content-Length": None})
        yield server


def image_source(budget, timeout_s=10.0, max_bytes=SIZE):
    client = LabelStudioHttp("http://localhost:9", None)
    policy = AddressPolicy(Origin.of(client.url), ("localhost",))
    return ImageSource(client, policy, FetchLimits(max_bytes, timeout_s, retry_wait_s=0.001), budget=budget)


@pytest.mark.parametrize("name", ["a", "unknown"])
def test_a_fetched_file_holds_its_size_until_it_is_released(server, name):
    budget = ByteBudget(4 * SIZE)
    fetched = image_source(budget).fetch(ImageRef(f"{server.url}/{name}"))
    assert budget.taken == len(fetched.data) == SIZE
    fetched.release()
    assert budget.taken == 0


@pytest.mark.parametrize("name", ["a", "unknown"])
def test_a_fetch_without_room_waits_for_it(server, name):
    budget = ByteBudget(SIZE)
    share = budget.take(SIZE // 2)
    threading.Timer(0.1, share.release).start()
    assert len(image_source(budget).fetch(ImageRef(f"{server.url}/{name}")).data) == SIZE


@pytest.mark.parametrize("name", ["a", "unknown"])
def test_a_fetch_that_finds_no_room_in_its_time_is_overloaded(server, name):
    budget = ByteBudget(SIZE)
    share = budget.take(SIZE // 2)
    with pytest.raises(RetryLater) as caught:
        image_source(budget, timeout_s=0.2).fetch(ImageRef(f"{server.url}/{name}"))
    assert caught.value.reason is Reason.OVERLOADED
    share.release()
    assert budget.taken == 0


def test_many_at_once_get_through_a_budget_for_one_and_never_exceed_it(server):
    budget, most, failed = ByteBudget(2 * SIZE), [], []
    source = image_source(budget, timeout_s=30)

    def fetch(number):
        try:
            fetched = source.fetch(ImageRef(f"{server.url}/{'unknown' if number % 2 else 'a'}"))
            most.append(budget.taken)
            fetched.release()
        except RetryLater as error:
            failed.append(error)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not failed
    assert len(most) == 12
    assert max(most) <= 2 * SIZE
    assert budget.taken == 0


# data: addresses


@pytest.mark.parametrize(
    ("content", "size"),
    [("AAAA" * 2_500_000, 7_500_000), ("%41" * 2_500_000, 2_500_000)],
)
def test_a_data_address_too_large_is_refused_without_being_decoded(content, size):
    ref = ImageRef(("data:;base64," if content[0] == "A" else "data:,") + content)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            image_source(ByteBudget(1_000_000), max_bytes=1_000_000).fetch(ref)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    assert f"{size:,}" in str(caught.value)
    assert peak < 3 * len(ref.uri)


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("form", ["plain", "unpadded", "wrapped", "quoted"])
def test_the_limit_of_a_data_address_counts_what_it_decodes_to(length, form):
    data = bytes(range(length))
    text = base64.b64encode(data).decode()
    text = {
        "plain": text,
        "unpadded": text.rstrip("="),
        "wrapped": "\n".join(text[at : at + 4] for at in range(0, len(text), 4)),
        "quoted": text.replace("=", "%3d").replace("A", "%41"),
    }[form]
    ref = ImageRef(f"data:image/png;base64,{text}")
    budget = ByteBudget(100)
    fetched = image_source(budget, max_bytes=length).fetch(ref)
    assert fetched.data == data
    assert budget.taken == length
    if length > 1:
        with pytest.raises(ImageError):
            image_source(ByteBudget(100), max_bytes=length - 1).fetch(ref)


def test_addresses_that_hold_images_are_counted_where_they_wait():
    budget = ByteBudget(1_000_000)
    assert budget.take_address("http://localhost/a.png") is None
    share = budget.take_address("data:" + "A" * 800_000)
    with pytest.raises(RetryLater):
        budget.take_address("data:" + "B" * 800_000)
    share.release()
    assert budget.taken == 0
