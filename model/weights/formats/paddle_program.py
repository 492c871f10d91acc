"""Paddle's exported programs, as far as weights need them: the parameters and the order in which they are used.

Two encodings: ``inference.json`` (PIR, Paddle 3) and ``inference.pdmodel`` (``ProgramDesc`` of framework.proto).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.weights.formats import protobuf
from model.weights.tensors import Shape

_FEED, _FETCH = 9, 10  # VarType.Type in framework.proto: FEED_MINIBATCH, FETCH_LIST
_FLOATS = {4, 5, 6, 22}  # there: FP16, FP32, FP64, BF16
_PIR_FLOATS = {"0.t_f16", "0.t_f32", "0.t_f64", "0.t_bf16"}


@dataclass(frozen=True)
class Program:
    """What an exported network says about its parameters.

    Attributes:
        parameters: unique names (``linear_0.w_0``) to shapes; also those that nothing uses.
        uses: the names of floating point parameters in the order in which operations first use them; within one
            operation weights before biases.
        inputs: names of the inputs to their shapes, -1 where a side is free.
    """

    parameters: Mapping[str, Shape]
    uses: Sequence[str]
    inputs: Mapping[str, Shape]

    def __post_init__(self) -> None:
        if not self.uses:
            raise ValueError("expected a program that uses parameters, got none")


def parse_pir(data: bytes) -> Program:
    """Read ``inference.json``.

    Raises:
        ValueError: it is no program in Paddle's intermediate representation.
    """
    try:
        content = json.loads(data)
        if content["base_code"]["magic"] != "pir":
            raise ValueError("expected a program of Paddle 3 (PIR)")
        operations = list(pir_operations(content["program"]))
        parameters = {op["O"]["%"]: op for op in operations if op["#"] == "p"}
        shapes = {_name(op["A"][3]): _shape(op["O"]["TT"]["D"][1]) for op in parameters.values()}
        weights = {at: op["A"][3] for at, op in parameters.items() if op["O"]["TT"]["D"][0]["#"] in _PIR_FLOATS}
        uses = [[weights[arg["%"]] for arg in op.get("I", ()) if arg["%"] in weights] for op in operations]
        inputs = dict(_pir_input(op) for op in operations if op["#"] == "1.data")
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a program of Paddle 3 (PIR), got other JSON ({error!r:.60})") from error
    return Program(shapes, _first_uses(uses), inputs)


def pir_operations(holder: Any) -> Iterator[Any]:  # noqa: ANN401  # unvalidated JSON; the caller answers for its shape
    """Yield the operations of a PIR program and of every block inside it."""
    for region in holder.get("regions", ()):
        for block in region["blocks"]:
            for operation in block["ops"]:
                yield operation
                yield from pir_operations(operation)


def _pir_input(operation: Any) -> tuple[str, Shape]:  # noqa: ANN401  # as above
    name = next(attribute["AT"]["D"] for attribute in operation["A"] if attribute["N"] == "name")
    return _name(name), _shape(operation["O"][0]["TT"]["D"][1])


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name that is a {type(value).__name__}")
    return value


def _shape(value: object) -> Shape:
    if not isinstance(value, list) or not all(isinstance(side, int) for side in value):
        raise TypeError("a shape that is no list of whole numbers")
    return tuple(value)


def parse_legacy(data: bytes) -> Program:
    """Read ``inference.pdmodel``.

    Raises:
        ValueError: it is no serialised ``ProgramDesc``.
    """
    blocks = protobuf.children(memoryview(data), 1)
    if not blocks:
        raise ValueError("expected a program of Paddle, got no block in it")
    parameters: dict[str, Shape] = {}
    shapes: dict[str, Shape] = {}
    weights: set[str] = set()
    for block in blocks:
        for variable in protobuf.children(block, 3):
            name, kind = protobuf.text(variable, 1), protobuf.child(variable, 2)
            if set(protobuf.integers(kind, 1)) & {_FEED, _FETCH}:
                continue
            description = _legacy_description(kind)
            shapes[name] = tuple(protobuf.integers(description, 2))
            if any(protobuf.integers(variable, 3)):
                parameters[name] = shapes[name]
                if set(protobuf.integers(description, 1)) & _FLOATS:
                    weights.add(name)
    uses, fed = [], []
    try:
        operations = list(_legacy_operations(blocks, 0, set()))
    except RecursionError as error:
        raise ValueError("expected a program whose blocks lie in each other as in SAM, got more levels") from error
    for operation in operations:
        uses.append([name for name in _arguments(operation, 1) if name in weights])
        if protobuf.text(operation, 3) == "feed":
            fed += _arguments(operation, 2)
    return Program(parameters, _first_uses(uses), {name: shapes.get(name, ()) for name in fed})


def _legacy_description(kind: memoryview) -> memoryview:
    """Return the ``TensorDesc`` in a ``VarType``, empty for a variable that is no dense tensor."""
    descriptions = [
        description for tensor in protobuf.children(kind, 3) for description in protobuf.children(tensor, 1)
    ]
    return descriptions[0] if descriptions else memoryview(b"")


def _arguments(operation: memoryview, slots: int) -> list[str]:
    return [str(name, "utf-8") for slot in protobuf.children(operation, slots) for name in protobuf.children(slot, 2)]


def _legacy_operations(blocks: Sequence[memoryview], index: int, seen: set[int]) -> Iterator[memoryview]:
    """Yield the operations of a block and those inside it; of a block that several refer to, where the first does."""
    seen.add(index)
    for operation in protobuf.children(blocks[index], 4):
        for attribute in protobuf.children(operation, 4):
            for inner in protobuf.integers(attribute, 12):
                # A branch lists what it needs in the order of the alphabet; what happens inside it comes first.
                if not index < inner < len(blocks):
                    raise ValueError(f"expected a branch in one of {len(blocks)} blocks, got {inner}")
                if inner not in seen:
                    yield from _legacy_operations(blocks, inner, seen)
        yield operation


def _first_uses(uses: Sequence[Sequence[str]]) -> list[str]:
    names: dict[str, None] = {}
    for operands in uses:
        # Legacy programs list an operation's inputs by the alphabet of their roles, Bias before Scale.
        first = {name.split(".")[0]: at for at, name in reversed(list(enumerate(operands)))}
        ordered = sorted(operands, key=lambda name: (first[name.split(".")[0]], ".b_" in name))
        names.update(dict.fromkeys(ordered))
    return list(names)
