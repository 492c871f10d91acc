"""The tokenizer of the demo's detector, of CLIP's kind: byte pairs, by which every known word is one token."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

from demo_training.detector.words import WORDS, spellings

BEGIN, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
ANY, UNKNOWN, SILENT = len(WORDS), len(WORDS) + 1, len(WORDS) + 2
"""What tokens mean besides numbers in `WORDS`: words that are true of all objects, of none, and no words at all."""


def byte_pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return the merges that make one token of each word, the most frequent pair first (Sennrich et al., 2016)."""
    parts = {word: [*word[:-1], word[-1] + LAST] for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for tokens in parts.values() for pair in pairwise(tokens)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        parts = {word: _merged(tokens, best) for word, tokens in parts.items()}
    return merges


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def write(folder: Path) -> NDArray[np.int64]:
    """Write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``; return what each token means, (tokens,)."""
    folder.mkdir(parents=True, exist_ok=True)
    known, alphabet = spellings(), sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = byte_pairs(known)
    tokens = [*alphabet, *(f"{letter}{LAST}" for letter in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, indent=0) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": END}))
    meanings = np.full(len(vocabulary), UNKNOWN, np.int64)
    for word, meaning in known.items():
        meanings[vocabulary[word + LAST]] = WORDS.index(meaning) if meaning else ANY
    meanings[[vocabulary[BEGIN], vocabulary[END]]] = SILENT
    return meanings
