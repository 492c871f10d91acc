"""What a network's shape says of how it is run."""

import pytest

from model.config import demo, mobile_sam, vit_b


@pytest.mark.parametrize(("cores", "of_sam", "of_the_demo"), [(1, 1, 1), (2, 2, 1), (4, 2, 1), (8, 3, 2), (64, 17, 16)])
def test_a_decode_more_than_cores_are_for_is_taken_where_cores_share_decodes(cores, of_sam, of_the_demo):
    counts = [config.decodes_at_once(cores) for config in (vit_b(), mobile_sam(), demo())]
    assert counts == [of_sam, of_sam, of_the_demo]
