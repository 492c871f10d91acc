"""The one state dict of SAM in what a training script saved, wherever in it and under whatever prefix.

A published file is the state dict itself. Trainers wrap it (``{"model": ..., "optimizer": ..., "epoch": 35}``), and
wrappers of modules put their own names before the parameters' or between them: ``module.`` (DataParallel and
DistributedDataParallel), ``_orig_mod.`` (torch.compile), ``model.`` (Lightning), ``sam.``.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from model.weights import parameters, tiny_vit
from model.weights.errors import WeightsError
from model.weights.formats import pickles
from model.weights.formats.pickles import Call, Name

T = TypeVar("T")

logger = logging.getLogger(__name__)

_WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(_WRAPPERS)})\.")
_ANCHOR = re.compile(
    rf"^(?P<prefix>(?:.*\.)?)(?:sam_)?mask_decoder\.(?:(?:{'|'.join(_WRAPPERS)})\.)*mask_tokens\.weight$"
)
"""Of all parameters the one that every SAM has, in every layout and however much of it was left out."""
_ROOTS = (
    "image_encoder",
    "prompt_encoder",
    "mask_decoder",
    "vision_encoder",
    "shared_image_embedding",
    "sam_prompt_encoder",
    "sam_mask_decoder",
)
_COPY = re.compile(r"(?:^|[._])(?:ema|averaged?|avg|swa|teacher|momentum|target)(?:[._]|$)", re.IGNORECASE)
"""What trainers call a second, averaged copy of the same network."""
_DICTS = {Name("collections", "OrderedDict"), Name("collections", "defaultdict")}
_HARMLESS = (str, int, float, type(None))
_WORTH_TELLING = (Call, tuple, pickles.Reference)
_MOST_LEVELS, _MOST_ENTRIES, _LONGEST_NAME = 8, 1 << 16, 256


@dataclass(frozen=True)
class _Entry:
    """One value.

    Attributes:
        key: its dotted name, through all dicts.
        container: that of the dict it lies in.
        level: how many dicts that is in.
        value: what the file has there.
    """

    key: str
    container: str
    level: int
    value: object


def select(path: Path, saved: object, tensor: Callable[[str, object], T], kind: str) -> dict[str, T]:
    """Return the parameters of the one SAM in ``saved``, by their names without prefixes.

    Of what lies beside the state dict nothing is looked at; what lies in it, beside the module that is SAM, is told
    in the log. Where there is a model and an averaged copy of it (``ema``), the model is taken.

    Args:
        path: the file, for messages.
        saved: what was pickled, as `model.weights.formats.pickles` reads it, or a dict of tensors.
        tensor: makes a tensor of a name and of what the file has there, or refuses it with a `WeightsError`.
        kind: what a tensor is in such a file, for messages: ``a tensor``.

    Raises:
        WeightsError: there is no SAM, or there are several; or its dict holds what is no parameter.
    """
    entries = list(islice(_entries(saved), _MOST_ENTRIES + 1))
    if len(entries) > _MOST_ENTRIES:
        raise WeightsError(f"{path}: expected a state dict, got more than {_MOST_ENTRIES} entries")
    candidates = [
        (match["prefix"], entry)
        for entry in entries
        if (match := _ANCHOR.match(entry.key)) and not isinstance(entry.value, _HARMLESS)
    ]
    if not candidates:
        raise WeightsError(_nothing_found(path, saved, entries, kind))
    prefix, anchor = _the_model(path, candidates)
    selected: dict[str, T] = {}
    others: list[str] = []
    for entry in entries:
        if not entry.key.startswith(prefix):
            if entry.container == anchor.container and not isinstance(entry.value, _HARMLESS):
                others.append(entry.key)
            continue
        name = _WRAPPED.sub("", entry.key[len(prefix) :])
        is_part = name.partition(".")[0] in _ROOTS
        if not is_part and (entry.level > anchor.level or isinstance(entry.value, _HARMLESS)):
            continue  # an optimizer's state, an epoch
        if tiny_vit.is_unused(name):
            continue  # among them counters and indexes, which are no floating point numbers
        if name in selected:
            raise WeightsError(f"{path}: expected one {name}, got two, the second as {entry.key:.80}")
        selected[name] = tensor(entry.key, entry.value)
    others = [key for key in others if not _COPY.search(key)]
    if others:
        logger.warning("%s: read what is under %s; left out %s", path, prefix, parameters.listed(others))
    return selected


def _entries(saved: object, prefix: str = "", container: str = "", level: int = 0) -> Iterator[_Entry]:
    """Yield every value with its dotted name, through dicts in dicts; a dict may contain itself."""
    items = _items(saved)
    if not items or level == _MOST_LEVELS:  # an empty dict too, so that what there is to walk through is counted
        yield _Entry(prefix, container, level, saved)
        return
    for key, value in items.items():
        part = pickles.printable(str(key), _LONGEST_NAME)
        yield from _entries(value, f"{prefix}.{part}" if level else part, prefix, level + 1)


def _items(value: object) -> Mapping[object, object] | None:
    if isinstance(value, Call) and isinstance(value.function, Name) and value.function in _DICTS:
        return value.items
    return value if isinstance(value, dict) else None


def _the_model(path: Path, anchors: list[tuple[str, _Entry]]) -> tuple[str, _Entry]:
    """Return prefix and one parameter of the network that is meant.

    Raises:
        WeightsError: that cannot be decided.
    """
    originals = [anchor for anchor in anchors if not _COPY.search(anchor[0])] or anchors
    if len(originals) > 1:
        raise WeightsError(
            f"{path}: expected one SAM, got {len(originals)}, "
            f"under {parameters.listed(prefix for prefix, _ in originals)}; "
            "save the state dict of the one that is meant by itself"
        )
    return originals[0]


def _nothing_found(path: Path, saved: object, entries: list[_Entry], kind: str) -> str:
    """Return the sentence that names what there is instead."""
    for value in (saved, *(entry.value for entry in entries)):
        if isinstance(value, Call) and isinstance(value.state, dict) and "_modules" in value.state:
            return (
                f"{path}: expected a state dict, got a whole module ({_class_of(value)}), of which nothing is executed "
                "here; save its state_dict() with PyTorch instead"
            )
    if not _items(saved):
        got = pickles.describe(saved) if _items(saved) is None else "an empty dict"
        return f"{path}: expected a state dict of SAM, got {got}"
    keys = parameters.listed(_shown(entry) for entry in entries)
    return f"{path}: expected parameter {parameters.MASK_TOKENS} as {kind}, got none among {keys}"


def _shown(entry: _Entry) -> str:
    value = entry.value
    if isinstance(value, Call) and isinstance(value.function, Name) and "rebuild" in value.function.name:
        return entry.key  # a tensor
    return f"{entry.key:.30} ({pickles.describe(value)})" if isinstance(value, _WORTH_TELLING) else entry.key


def _class_of(module: Call) -> str:
    """Return the name of a pickled object's class."""
    parts = module.arguments if isinstance(module.arguments, tuple) else ()
    names = [part for part in (module.function, *parts[:1]) if isinstance(part, Name)]
    return str(names[-1]) if names else "of no name"
