"""Every reason is explained to whom it happens."""

import pytest

from backend.errors import Kind, Reason


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_meaning_of_a_line(reason):
    assert 10 < len(reason.meaning) <= 90
    assert len(reason.remedy) <= 110


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.kind is not Kind.HARMLESS])
def test_every_failure_says_what_to_do(reason):
    assert reason.remedy


@pytest.mark.parametrize("reason", [reason for reason in Reason if "PADDLE_SAM_" in reason.remedy])
def test_settings_that_remedies_name_exist(reason):
    from backend.settings import NAMES

    words = [word.strip(",;.") for word in reason.remedy.split() if word.startswith("PADDLE_SAM_")]
    assert set(words) <= set(NAMES)
