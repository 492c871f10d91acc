"""Every reason is explained to whom it happens."""

import pytest

from backend.errors import Reason
from backend.remedies import HARMLESS, meaning, remedy


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_meaning_of_a_line(reason):
    assert 10 < len(meaning(reason)) <= 90
    assert len(remedy(reason)) <= 110


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in HARMLESS])
def test_every_failure_says_what_to_do(reason):
    assert remedy(reason)


@pytest.mark.parametrize("reason", [reason for reason in Reason if "PADDLE_SAM_" in remedy(reason)])
def test_settings_that_remedies_name_exist(reason):
    from backend.settings import NAMES

    words = [word.strip(",;.") for word in remedy(reason).split() if word.startswith("PADDLE_SAM_")]
    assert set(words) <= set(NAMES)
