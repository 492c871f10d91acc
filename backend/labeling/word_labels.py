"""Which words a detector looks for, and the label of each: the labels of a labeling config, or a text."""

from collections.abc import Iterable

from backend.errors import ConfigError, Reason, RequestError
from backend.labeling.config_types import LabelConfig, loosely
from backend.words import LONGEST_WORD, MOST_WORDS, Words
from model.detection.word_list import listing, spelling, split_text

ALL = "*"
"""A text that means all labels, as one without words does."""

LONGEST_TEXT = 50_000


def of_labels(controls: LabelConfig) -> Words:
    """Return the words for the labels of a config: the ``prompt`` of each, else its alias, else its value.

    Raises:
        ConfigError: the config has no labels, they come with each task, or two have one word.
    """
    prompts = {label: prompt for tag in reversed(controls.output_label_tags) for label, prompt in tag.prompts}
    labels = dict.fromkeys(label for tag in controls.output_label_tags for label in tag.labels if label.strip())
    if not labels:
        raise ConfigError("expected labels in the labeling config, got none; say in words what to look for")
    return _each_once((word, label) for label in labels for word in split_text(prompts.get(label, "")) or (label,))


def of_text(text: str, controls: LabelConfig) -> Words:
    """Return the words in a text such as ``walking man=Person, bus``, each with its label, empty where it has none.

    The label is the one after ``=``; else the one that the word names by its value or alias, in any case; else the one
    with that word in its ``prompt``. For a label's name the detector gets its ``prompt``, if it has one. Where the
    config has no labels, or they come with each task, what stands after ``=`` is taken as it is.

    >>> from backend.labeling import config
    >>> labels = '<Label value="Katze" prompt="cat"/><Label value="Bus"/>'
    >>> image, brush = '<Image name="image" value="$image"/>', '<BrushLabels name="brush" toName="image">'
    >>> of_text("katze, tram=Bus, dog", config.parse(f"<View>{image}{brush}{labels}</BrushLabels></View>"))
    {'cat': 'Katze', 'tram': 'Bus', 'dog': ''}

    Raises:
        ConfigError: there are no words (``unknown_word``), or one has two labels.
    """
    tags = controls.output_label_tags
    offered = {name: label for tag in reversed(tags) for name, label in tag.loose_spellings.items()}
    exact = {name: label for tag in reversed(tags) for name, label in tag.spellings.items()}
    prompts = {label: split_text(prompt) for tag in reversed(tags) for label, prompt in tag.prompts}
    prompted = {spelling(word): label for label, words in reversed(prompts.items()) for word in words}
    is_free = not offered or any(tag.labels_vary for tag in tags)
    pairs: list[tuple[str, str]] = []
    for part in split_text(text):
        word, has_label, wanted = (piece.strip() for piece in part.partition("="))
        if not word:
            raise _no_words(text)
        name = wanted if has_label else word
        label = exact.get(name) or offered.get(loosely(name), "")
        if label and not has_label:
            pairs += [(spelled, label) for spelled in prompts.get(label) or (word,)]
        else:
            pairs.append((word, label or ("" if has_label else prompted.get(spelling(word), "")) or wanted * is_free))
    if not pairs:
        raise _no_words(text)
    return _each_once(pairs)


def typed(text: str, controls: LabelConfig) -> Words:
    """Return the words for a text that an annotator typed: all labels for one without words, and for ``*``.

    Raises:
        ConfigError: see `of_labels` and `of_text`.
        RequestError: the text is too long, or holds too many words (``too_complex``).
    """
    if len(text) > LONGEST_TEXT:
        raise RequestError(
            f"words: expected at most {LONGEST_TEXT:,} characters, got {len(text):,}", Reason.TOO_COMPLEX
        )
    words = of_text(text, controls) if split_text(text.replace(ALL, " ")) else of_labels(controls)
    check_count(words)
    return words


def check_count(words: Words) -> None:
    """Check that words are not too many, nor too long.

    Raises:
        RequestError: they are (``too_complex``).
    """
    if len(words) > MOST_WORDS or max(map(len, words), default=0) > LONGEST_WORD:
        raise RequestError(
            f"words: expected at most {MOST_WORDS:,} of at most {LONGEST_WORD:,} characters, got {len(words):,}",
            Reason.TOO_COMPLEX,
        )


def unlabelled(words: Words, controls: LabelConfig) -> tuple[str, ...]:
    """Return the words that have no label, where the config has labels."""
    has_labels = any(tag.labels or tag.labels_vary for tag in controls.output_label_tags)
    return tuple(word for word, label in words.items() if has_labels and not label)


def labels_of(controls: LabelConfig) -> str:
    """Return a config's labels for a message."""
    return listing(dict.fromkeys(label for tag in controls.output_label_tags for label in tag.labels))


def _each_once(pairs: Iterable[tuple[str, str]]) -> Words:
    """Return the words with their labels.

    Raises:
        ConfigError: a word, in any case, belongs to two labels.
    """
    by_spelling: dict[str, tuple[str, str]] = {}
    for word, label in pairs:
        _, other = by_spelling.setdefault(spelling(word), (word, label))
        if other != label:
            raise ConfigError(
                f"labels {other!r:.60} and {label!r:.60}: expected a word for each, got {word!r:.60} for both; give "
                'one of them another with prompt="..."'
            )
    return dict(by_spelling.values())


def _no_words(text: str) -> ConfigError:
    return ConfigError(f'expected words such as "walking man=Person, bus", got {text!r:.60}', Reason.UNKNOWN_WORD)
