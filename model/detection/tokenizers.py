"""Text to token numbers: BERT's WordPiece and CLIP's byte pairs, by the library ``tokenizers``, from local files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from model.weights import WeightsError

_LARGEST_FILE_BYTES = 16 << 20
_UNKNOWN, _CLIP_END = "[UNK]", "<|endoftext|>"
_CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class TextTokenizer:
    """A vocabulary and how text is cut into its tokens.

    Attributes:
        unknown_id: the number that stands for what the vocabulary lacks; None where it lacks nothing.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, unknown_id: int | None) -> None:
        self._path, self._tokenizer, self.unknown_id = path, tokenizer, unknown_id

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens, without the special ones that begin and end a sequence."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def id_of(self, token: str) -> int:
        """Return a token's number.

        Raises:
            WeightsError: the vocabulary has no such token.
        """
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise WeightsError(f"{self._path}: expected a vocabulary with {token}, got none")
        return int(number)


def bert(folder: Path) -> TextTokenizer:
    """Read BERT's tokenizer from ``vocab.txt``; ``tokenizer_config.json`` says whether case matters.

    Raises:
        WeightsError: a file is missing or is no vocabulary.
    """
    path = folder / "vocab.txt"
    vocabulary = {token: index for index, token in enumerate(_text(path).splitlines())}
    config = _config(folder)
    is_lower = config.get("do_lower_case") is not False
    tokenizer = _built(path, lambda: models.WordPiece(vocabulary, unk_token=_UNKNOWN))
    accents = config.get("strip_accents")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars") is not False,
        strip_accents=accents if isinstance(accents, bool) else None,
        lowercase=is_lower,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(path, tokenizer, vocabulary.get(_UNKNOWN))


def clip(folder: Path) -> TextTokenizer:
    """Read CLIP's tokenizer from ``vocab.json`` and ``merges.txt``.

    Raises:
        WeightsError: a file is missing or is no vocabulary.
    """
    path = folder / "vocab.json"
    vocabulary = {token: index for token, index in _json(path).items() if isinstance(index, int)}
    merges = [
        _pair(folder / "merges.txt", line) for line in _text(folder / "merges.txt").splitlines()[1:] if line.strip()
    ]
    tokenizer = _built(
        path,
        lambda: models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=_CLIP_END,
        ),
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return TextTokenizer(path, tokenizer, None)


def pad_token(folder: Path, default: str) -> str:
    """Return the token that fills up shorter texts, as ``tokenizer_config.json`` names it."""
    token = _config(folder).get("pad_token")
    if isinstance(token, Mapping):  # as a token with its properties
        token = token.get("content")
    return token if isinstance(token, str) else default


def _pair(path: Path, line: str) -> tuple[str, str]:
    first, _, second = line.partition(" ")
    if not first or not second or " " in second:
        raise WeightsError(f"{path}: expected two tokens in each line, got {line!r:.60}")
    return first, second


def _config(folder: Path) -> dict[str, object]:
    path = folder / "tokenizer_config.json"
    return _json(path) if path.exists() else {}


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected JSON, got other text") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise WeightsError(f"{path}: expected at most {_LARGEST_FILE_BYTES >> 20} MiB, got more")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: expected text in UTF-8, got other bytes") from error
    except OSError as error:
        raise WeightsError(f"{path}: expected a tokenizer's file, got: {error.strerror}") from error


def _built(path: Path, model: Callable[[], models.Model]) -> Tokenizer:
    try:
        return Tokenizer(model())
    except Exception as error:  # the library raises no other kind
        raise WeightsError(f"{path}: expected a tokenizer's vocabulary, got: {error!s:.120}") from error
