"""What ``torch.save`` wrote before PyTorch 1.6, and still writes on request: five pickles, then the storages.

The pickles: a magic number, the version of the protocol, a few words on the machine, what was saved, and the keys of
the storages in the order in which they follow, each as its count of numbers (i64) and the numbers. Source: PyTorch's
``_legacy_save``.
"""

from functools import partial
from pathlib import Path
from typing import BinaryIO

from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import layouts, pickles, state_dicts, torch_tensors
from model.weights.formats.pickles import Call, Name, Reference

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc"
"""How the pickle of the magic number begins."""
_VERSION = 1001
_ITEM_SIZES = {
    **{f"{kind}Storage": size for kind, size in (("Double", 8), ("Float", 4), ("Half", 2), ("BFloat16", 2))},
    **{f"{kind}Storage": size for kind, size in (("Long", 8), ("Int", 4), ("Short", 2), ("Char", 1), ("Byte", 1))},
    **{f"{kind}Storage": size for kind, size in (("Bool", 1), ("ComplexFloat", 8), ("ComplexDouble", 16))},
}


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a state dict, or a dict that holds one, from a file of the old kind.

    Raises:
        WeightsError: the file is truncated, holds something else than tensors, or not a SAM network.
    """
    with path.open("rb") as stream:
        _, version, machine, saved, keys = (pickles.read(stream, str(path)) for _ in range(5))
        if version != _VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise WeightsError(f"{path}: expected a PyTorch file of protocol {_VERSION}, little-endian, got another")
        places = _places(path, stream, keys, _kinds(saved))

    def locate(entry: str, needed: int) -> int:
        offset, length = places.get(entry, (0, -1))
        if length < needed:
            raise WeightsError(f"{path}: expected storage {entry!r:.20} of {needed} bytes, got none or a smaller one")
        return offset

    stored = state_dicts.select(path, saved, partial(torch_tensors.tensor, path, locate), "a tensor")
    return layouts.from_torch(path, stored, name)


def _kinds(saved: object) -> dict[str, str]:
    """Return the keys of all storages that are mentioned, each with its type; what is mentioned twice, seen once."""
    kinds: dict[str, str] = {}
    seen: set[int] = set()
    ahead = [saved]
    while ahead:
        value = ahead.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case Reference(("storage", Name(name=kind), str(key), *_)):
                kinds[key] = kind
            case Call():
                ahead += [value.function, value.arguments, value.state, value.items]
            case dict():
                ahead += value.values()
            case list() | tuple():
                ahead += value
    return kinds


def _places(path: Path, stream: BinaryIO, keys: object, kinds: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return where each storage begins, and how many bytes it has."""
    places: dict[str, tuple[int, int]] = {}
    if not isinstance(keys, list):
        raise WeightsError(f"{path}: expected the keys of storages, got {pickles.describe(keys)}")
    for key in keys:
        kind = kinds.get(key) if isinstance(key, str) else None
        count = stream.read(8)
        if kind not in _ITEM_SIZES or len(count) < 8:
            raise WeightsError(f"{path}: expected storage {key!r:.20} of a known type, got none (truncated?)")
        length = int.from_bytes(count, "little") * _ITEM_SIZES[kind]
        places[key] = (stream.tell(), length)
        stream.seek(length, 1)
    return places
