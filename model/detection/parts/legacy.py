"""Parts of a program of Paddle 2, ``inference.pdmodel``: a ``ProgramDesc`` of Paddle's framework.proto."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from model.detection.parts.dataflow import Operator, Side
from model.weights.formats import protobuf

DTYPES = {0: "bool", 2: "int32", 3: "int64", 5: "float32", 6: "float64"}  # VarType.Type
_TENSOR, _FEED, _FETCH = 7, 9, 10  # there: LOD_TENSOR, FEED_MINIBATCH, FETCH_LIST
_BLOCKS, _VARIABLES, _OPERATORS = 1, 3, 4  # fields of ProgramDesc and BlockDesc


@dataclass(frozen=True)
class _Variable:
    message: memoryview
    is_parameter: bool
    is_tensor: bool


class LegacyParts:
    """A program that can be cut into parts.

    Attributes:
        operators: those of its main block; values are the names of variables.
    """

    def __init__(self, data: bytes, text_inputs: Iterable[str]) -> None:
        """Read ``inference.pdmodel``, of which these inputs hold text.

        Raises:
            ValueError: it is no such program.
        """
        self._program, texts = memoryview(data), frozenset(text_inputs)
        self._blocks = protobuf.children(self._program, _BLOCKS)
        self._messages = protobuf.children(self._blocks[0], _OPERATORS)
        self.operators = [self._operator(message, texts) for message in self._messages]
        variables = protobuf.children(self._blocks[0], _VARIABLES)
        self._variables = {protobuf.text(message, 1): _variable(message) for message in variables}

    def can_cross(self, value: Hashable) -> bool:
        """Whether a value is a tensor of a type that programs take."""
        return value in self._variables and self._variables[value].is_tensor

    def part(
        self, kept: Sequence[int], inputs: Mapping[Hashable, str], outputs: Sequence[Hashable]
    ) -> tuple[bytes, set[str]]:
        """Return a program of some of the operators, and the names of the parameters it uses.

        Args:
            kept: the positions of the operators.
            inputs: values that it takes; their inputs have their names.
            outputs: values that it returns before its own.
        """
        chosen = [self.operators[index] for index in kept]
        fed = [value for operator in chosen if operator.input_side is not None for value in operator.writes]
        fetched = [value for operator in chosen if operator.is_output for value in operator.reads]
        computing = [
            self._messages[index]
            for index, operator in zip(kept, chosen, strict=True)
            if operator.input_side is None and not operator.is_output
        ]
        operators: list[bytes | memoryview] = [
            *(_feed(str(name), number) for number, name in enumerate([*inputs, *fed])),
            *computing,
            *(_fetch(str(name), number) for number, name in enumerate([*outputs, *fetched])),
        ]
        used = {str(value) for operator in chosen for value in operator.reads | operator.writes}
        parameters = {name for name, variable in self._variables.items() if variable.is_parameter and name in used}
        variables = [
            variable.message
            for name, variable in self._variables.items()
            if not variable.is_parameter or name in parameters
        ]
        block = b"".join([
            *(_encoded(number, value) for number, value in protobuf.fields(self._blocks[0])
              if number not in (_VARIABLES, _OPERATORS)),
            *(_encoded(_VARIABLES, message) for message in variables),
            *(_encoded(_OPERATORS, message) for message in operators),
        ])  # fmt: skip
        others = [_encoded(_BLOCKS, message) for message in self._blocks[1:]]
        rest = [_encoded(number, value) for number, value in protobuf.fields(self._program) if number != _BLOCKS]
        return b"".join([_encoded(_BLOCKS, block), *others, *rest]), parameters

    def _operator(self, message: memoryview, text_inputs: frozenset[str]) -> Operator:
        inner = [message, *self._inside(message, set())]
        reads = frozenset(name for each in inner for name in _arguments(each, 1))
        writes = frozenset(name for each in inner for name in _arguments(each, 2))
        names, side = frozenset(protobuf.text(each, 3) for each in inner), None
        if "feed" in names:
            reads, side = frozenset(), Side.TEXT if writes <= text_inputs else Side.REST
        if "fetch" in names:
            writes = frozenset()
        return Operator(names, reads, writes, is_output="fetch" in names, input_side=side)

    def _inside(self, message: memoryview, visited: set[int]) -> Iterator[memoryview]:
        """Yield the operators of the blocks that an operator runs."""
        for attribute in protobuf.children(message, 4):
            for number in (*protobuf.integers(attribute, 12), *protobuf.integers(attribute, 14)):
                if number not in visited:
                    visited.add(number)
                    for operator in protobuf.children(self._blocks[number], _OPERATORS):
                        yield operator
                        yield from self._inside(operator, visited)


def _variable(message: memoryview) -> _Variable:
    kind = protobuf.child(message, 2)
    kinds = protobuf.integers(kind, 1)
    tensors = [description for tensor in protobuf.children(kind, 3) for description in protobuf.children(tensor, 1)]
    dtypes = [number for description in tensors for number in protobuf.integers(description, 1)]
    return _Variable(
        message,
        is_parameter=any(protobuf.integers(message, 3)) and not {_FEED, _FETCH} & set(kinds),
        is_tensor=kinds == [_TENSOR] and dtypes[-1:] != [] and dtypes[-1] in DTYPES,
    )


def _arguments(operator: memoryview, slots: int) -> list[str]:
    """Return the variables that an operator reads (1) or writes (2); also those that stand for an attribute."""
    named = [str(name, "utf-8") for slot in protobuf.children(operator, slots) for name in protobuf.children(slot, 2)]
    if slots == 1:
        attributes = protobuf.children(operator, 4)
        named += [str(name, "utf-8") for each in attributes for field in (17, 18)
                  for name in protobuf.children(each, field)]  # fmt: skip
    return named


def _feed(name: str, column: int) -> bytes:
    return _operator_message("feed", "feed", name, column)


def _fetch(name: str, column: int) -> bytes:
    return _operator_message("fetch", name, "fetch", column)


def _operator_message(kind: str, read: str, written: str, column: int) -> bytes:
    given = _encoded(1, b"X") + _encoded(2, read.encode())
    returned = _encoded(1, b"Out") + _encoded(2, written.encode())
    attribute = _encoded(1, b"col") + _encoded(2, 0) + _encoded(3, column)  # a whole number
    return _encoded(1, given) + _encoded(2, returned) + _encoded(3, kind.encode()) + _encoded(4, attribute)


def _encoded(number: int, value: int | bytes | memoryview) -> bytes:
    """Return a field of a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
