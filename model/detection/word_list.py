"""The words that a detector looks for: read from text, and checked."""

import re
from collections.abc import Iterable

_SEPARATORS = re.compile(r"[,;\n]|\s\.(?:\s|$)|\.\s*$")
_SHOWN = 60


class WordsError(ValueError):
    """The words cannot be looked for; the message names the word and what was expected."""


def split_text(text: str) -> tuple[str, ...]:
    """Return the words in a text, each once, in order; nothing for a text without any.

    Words are separated by commas, semicolons, line breaks, or full stops between spaces as in Grounding DINO's prompts.

    Example:
        >>> split_text("cat, walking man, cat")
        ('cat', 'walking man')
        >>> split_text("bus . walking man .")
        ('bus', 'walking man')
    """
    words: dict[str, str] = {}
    for part in _SEPARATORS.split(text):
        word = " ".join(part.split())
        if word:
            words.setdefault(spelling(word), word)
    return tuple(words.values())


def spelling(word: str) -> str:
    """Return what a detector makes of a word: lower case, one space between parts."""
    return " ".join(word.split()).lower()


def check_words(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words as a tuple.

    Raises:
        WordsError: there is none, one is empty, or two have the same spelling.
    """
    if isinstance(words, str):
        raise WordsError(f"words: expected a list such as ['cat', 'dog'], got the text {words!r:.60}")
    given = tuple(words)
    if not given:
        raise WordsError("words: expected at least one, got none")
    seen: dict[str, str] = {}
    for word in given:
        if not isinstance(word, str) or not spelling(word):
            raise WordsError(f"words: expected text, got {word!r:.60}")
        other = seen.get(spelling(word))
        if other is not None:
            raise WordsError(f"words: expected each spelling once, got {other!r:.60} and {word!r:.60}")
        seen[spelling(word)] = word
    return given


def listing(words: Iterable[str]) -> str:
    """Return the words for a message, the first few of many."""
    given = [f"{word:.{_SHOWN}}" for word in words]
    return ", ".join(given[:20]) + (f" and {len(given) - 20} more" if len(given) > 20 else "")
