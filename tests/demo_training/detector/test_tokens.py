"""The tokenizer of the demo's detector: one token for each word, and what it means."""

import json

from demo_training.detector import tokens
from demo_training.detector.words import WORDS, spellings


def test_byte_pairs_join_the_letters_of_each_word_and_of_nothing_else():
    merges = tokens.byte_pairs(["ring", "rings", "star"])
    joined = {"".join(pair) for pair in merges}
    assert {"ring</w>", "rings</w>", "star</w>"} <= joined
    assert not joined & {"starring</w>", "rin</w>"}
    assert len(merges) == len(set(merges))


def test_a_token_means_its_word_however_it_is_spelled(tmp_path):
    meanings = tokens.write(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert len(meanings) == len(vocabulary)

    def meaning(word):
        return meanings[vocabulary[f"{word}</w>"]]

    for word in ("star", "stars"):
        assert meaning(word) == WORDS.index("star")
    assert meaning("moon") == meaning("crescents") == WORDS.index("crescent")
    assert meaning("gray") == meaning("grey") == WORDS.index("grey")
    assert meaning("shape") == meaning("things") == meaning("a") == tokens.ANY
    assert meaning("b") == meanings[vocabulary["st"]] == tokens.UNKNOWN
    assert {int(meaning(word)) for word in spellings()} == {*range(len(WORDS)), tokens.ANY}
    assert meanings[vocabulary[tokens.BEGIN]] == meanings[vocabulary[tokens.END]] == tokens.SILENT
