"""Words are read from text, and refused where a detector cannot look for them."""

import pytest

from model.detection.word_list import WordsError, check_words, split_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat, dog", ("cat", "dog")),
        ("bus . walking man .", ("bus", "walking man")),
        ("cat;dog\nbus", ("cat", "dog", "bus")),
        ("  walking   man ,, ", ("walking man",)),
        ("Cat, cat, CAT", ("Cat",)),
        ("猫, 狗", ("猫", "狗")),
        ("3.5 inch disk, St. Bernard", ("3.5 inch disk", "St. Bernard")),
        ("cat.", ("cat",)),
        ("", ()),
        (" , . ;\n", ()),
    ],
)
def test_a_text_is_cut_into_its_words_each_once(text, words):
    assert split_text(text) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected at least one, got none"),
        (["cat", " "], "expected text, got ' '"),
        (["cat", None], "expected text, got None"),
        (["cat", "Cat"], "expected each spelling once, got 'cat' and 'Cat'"),
        (["cat", "cat"], "expected each spelling once, got 'cat' and 'cat'"),
        ("cat, dog", "expected a list such as"),
    ],
)
def test_words_that_cannot_be_looked_for_are_refused(words, message):
    with pytest.raises(WordsError, match=message):
        check_words(words)


def test_words_keep_how_they_are_written():
    assert check_words(["Walking  man", "猫"]) == ("Walking  man", "猫")
