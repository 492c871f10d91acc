"""Answers that one web process gave are corrected by another one; what Redis holds is checked."""

import numpy as np
import pytest

from backend.segmentation.corrections.recent_answers import RecentAnswers
from backend.segmentation.corrections.redis_answers import RedisAnswers
from backend.shapes import Bitmask, Brush, Polygon, Vector
from backend.types import ImageRef, ObjectPrompt, Region
from model.types import Prompt
from tests.support.cluster import Cluster, eventually
from tests.support.redis_server import needs_redis

pytestmark = needs_redis

REF = ImageRef("/data/upload/1/a.jpg", task_id=7, project_id=1)
SIZE = (60, 80)
SIDE = 8  # of logits
SHAPES = [
    Brush(b"\0\1\2\xff"), Bitmask("data:image/png;base64,AAAA"), Polygon(((0, 0), (50, 0), (50, 12.5))),
    Vector(((0, 0), (50, 0), (50, 12.5))),
]  # fmt: skip


@pytest.fixture
def cluster(redis_server, tmp_path):
    with Cluster(redis_server, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def shared(cluster):
    """Return a function that makes the memory of one more web process."""
    with cluster.parts() as parts:
        yield lambda: RecentAnswers(RedisAnswers(parts.link, parts.keys, 60.0, 16, SIDE))


def region(shape=SHAPES[0], name="region-0001", **changes):
    kind = type(shape).__name__.lower()
    return Region(name, "mask", f"{kind}labels", "image", shape, ("Cat",), SIZE, **changes)


def prompt(*names):
    return ObjectPrompt(Prompt(box=[0, 0, 5, 5]), names or ("prompt-one",), ("Cat",), "point", "image", SIZE)


def logits(value=1.5):
    return np.full((SIDE, SIDE), value, np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_another_process_finds_an_answer_as_it_was(shared, shape):
    first, second = shared(), shared()
    first.add(REF, [(region(shape, item_index=2), prompt("a", "b"), logits())], "5:1.5")
    [original], [shared_copy] = first.on(REF), second.on(REF)
    assert shared_copy.region == original.region
    assert (shared_copy.prompt_ids, shared_copy.draft, shared_copy.answered_at) == (
        ("a", "b"),
        "5:1.5",
        original.answered_at,
    )
    assert np.array_equal(shared_copy.low_res_mask, logits().astype(np.float16))
    assert second.on(ImageRef(REF.uri, task_id=8, project_id=1)) == ()


def test_the_newest_answers_are_kept_in_order_and_expire(shared, redis_server):
    first, second = shared(), shared()
    for number in range(20):
        first.add(REF, [(region(name=f"region-{number:04}"), prompt(f"p{number}"), None)], "")
    assert [answer.prompt_ids[0] for answer in second.on(REF)] == [f"p{number}" for number in range(4, 20)]
    with redis_server.client() as client:
        [name] = client.keys("*:answers:*")
        assert 0 < client.pttl(name) <= 60_000


@pytest.mark.parametrize("damage", [b"", b"\xff", b"{}", b"\x80", lambda value: value[:-3], lambda value: value + b"x"])
def test_a_damaged_value_is_no_answer_and_leaves_the_others(shared, redis_server, damage):
    first, second = shared(), shared()
    for number in range(2):
        first.add(REF, [(region(name=f"region-{number:04}"), prompt(f"p{number}"), logits())], "")
    with redis_server.client() as client:
        [name] = client.keys("*:answers:*")
        client.lset(name, 0, damage(client.lindex(name, 0)) if callable(damage) else damage)
    assert [answer.prompt_ids[0] for answer in second.on(REF)] == ["p1"]


def test_logits_of_another_size_than_the_decoders_are_damage(shared):
    first, second = shared(), shared()
    first.add(REF, [(region(), prompt("a"), np.zeros((4, 4), np.float32))], "")
    first.add(REF, [(region(), prompt("b"), logits())], "")
    assert [answer.prompt_ids for answer in second.on(REF)] == [("b",)]


def test_a_key_of_another_type_holds_no_answers(shared, redis_server):
    shared().add(REF, [(region(), prompt(), None)], "")
    with redis_server.client() as client:
        [name] = client.keys("*:answers:*")
        client.delete(name)
        client.set(name, "text")
    assert shared().on(REF) == ()


def test_while_redis_is_away_a_process_knows_its_own_answers(shared, redis_server):
    first, second = shared(), shared()
    redis_server.kill()
    first.add(REF, [(region(), prompt(), logits())], "")
    assert [answer.region.id for answer in first.on(REF)] == ["region-0001"]
    assert second.on(REF) == ()
    redis_server.start()
    eventually(lambda: first.add(REF, [(region(name="region-0002"), prompt("b"), None)], "") or second.on(REF))
    assert first.on(REF)[-1].region == second.on(REF)[-1].region
