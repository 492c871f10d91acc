"""The names in Redis."""

import pytest

from backend.cluster.keys import Keys
from backend.embeddings.content_index import source_key
from backend.embeddings.stores import EmbeddingKey
from backend.types import ImageRef

PLACE = source_key(ImageRef("/a.png", 1, 1))


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "x" * 65, "a\n"])
def test_a_prefix_is_a_plain_word(prefix):
    with pytest.raises(ValueError, match="prefix: expected"):
        Keys(prefix, "SAM@1")


def test_models_do_not_take_each_others_work_whatever_they_are_called():
    ours, theirs = Keys("p", "SAM@1"), Keys("p", "a:b/c d@1")
    for name in ("content", "failure", "lease"):
        assert getattr(ours, name)(PLACE) != getattr(theirs, name)(PLACE)
    assert ours.events != theirs.events
    assert theirs.model.count(":") == 0
    assert EmbeddingKey("0" * 64, "SAM@1").__str__() in ours.embedding(EmbeddingKey("0" * 64, "SAM@1"))
