"""Pickles read as inert data: nothing is imported, nothing is called.

A pickle is a small program. This reader follows its stack machine but turns every "call this" into a `Call` that merely
says what would have been called, for the format readers to recognise or refuse, and leaves the bytes of arrays in the
file as a `Span`. An opcode outside those that training scripts' checkpoints need is refused. Source of the opcodes:
the standard library's ``pickletools``.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from model.weights.errors import WeightsError

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}
_BYTES_HEADER = {"SHORT_BINBYTES": 2, "BINBYTES": 5, "BINBYTES8": 9, "BYTEARRAY8": 9}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, MemoryError, OverflowError)
"""What a stack machine on damaged instructions runs into."""
_LONGEST_NAME = 80
_LIMIT = 1 << 20
"""Opcodes in a pickle; a SAM checkpoint needs about ten thousand."""


def printable(text: str, length: int) -> str:
    """Return the beginning of a text from a file, fit for a message of one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length])


@dataclass(frozen=True)
class Name:
    """A mention of ``module.name``."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}", _LONGEST_NAME)


@dataclass
class Call:
    """What the pickle wanted to call, with which arguments, and the state it wanted to give the outcome."""

    function: Any  # Any: whatever the pickle put there; the readers compare it with the names they know
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A persistent id: PyTorch's way to point at a storage outside the pickle."""

    value: Any  # Any: unvalidated content of the pickle


class OddKey:
    """Stands for a key of a dict that is neither text nor a number.

    A tuple is hashed with all that is in it: of tuples of tuples that takes for ever, or overflows the stack.
    """

    def __str__(self) -> str:
        return "a key that is no text or number"


@dataclass(frozen=True)
class Span:
    """Bytes that stay where they are: their place in the stream that was read."""

    offset: int
    length: int


def describe(value: object) -> str:
    """Return a few words on something in a pickle, whatever it is: its ``repr`` may be endless."""
    if isinstance(value, Call):
        return f"a call of {value.function}" if isinstance(value.function, Name) else "a call of something else"
    if isinstance(value, Name):
        return f"a mention of {value}"
    return type(value).__name__


def read(stream: BinaryIO, source: str) -> object:
    """Return what the pickle describes, out of dicts, lists, tuples, plain values and the classes of this module.

    ``Span`` offsets count from where the stream stood.

    Raises:
        WeightsError: the stream is no pickle, ends too early or uses an opcode that no weights need.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools' own, at damaged strings
            return _Machine(source).run(stream)
    except _DAMAGE as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{source}: expected a whole pickle of tensors, got: {error or type(error).__name__}"
        ) from error


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> object:
        start = stream.tell()
        for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
            if count > _LIMIT:
                raise WeightsError(f"{self._source}: expected a pickle of tensors, got more than {_LIMIT} instructions")
            if opcode.name == "STOP":
                return self._stack.pop()
            assert position is not None
            self._step(opcode.name, argument, position - start)
        raise WeightsError(f"{self._source}: expected a whole pickle, got one that stops early")

    def _step(self, name: str, argument: Any, position: int) -> None:  # noqa: ANN401  # its type depends on the opcode
        push, stack = self._stack.append, self._stack
        if name in _ARGUMENTS:
            push(argument)
        elif name in _BYTES_HEADER:
            push(Span(position + _BYTES_HEADER[name], len(argument)))
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _TUPLES:
            push(self._take(_TUPLES[name]))
        elif name == "MARK":
            push(_MARK)
        elif name == "TUPLE":
            push(tuple(self._take_to_mark()))
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name not in ("PROTO", "FRAME"):
            self._build(name, argument)

    def _build(self, name: str, argument: object) -> None:
        push, stack = self._stack.append, self._stack
        if name == "GLOBAL":
            push(Name(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, global_name = self._take(2)
            if not isinstance(module, str) or not isinstance(global_name, str):
                raise WeightsError(f"{self._source}: expected a pickle of tensors, got a class whose name is no text")
            push(Name(module, global_name))
        elif name in ("REDUCE", "NEWOBJ"):
            push(Call(*self._take(2)))
        elif name == "NEWOBJ_EX":
            function, arguments, _ = self._take(3)
            push(Call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Call):
                stack[-1].state = state
        elif name == "BINPERSID":
            push(Reference(stack.pop()))
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._take(2) if name == "SETITEM" else self._take_to_mark()
            keys = [key if isinstance(key, str | int) else OddKey() for key in pairs[::2]]
            target = stack[-1].items if isinstance(stack[-1], Call) else stack[-1]
            target.update(zip(keys, pairs[1::2], strict=True))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = self._take(1) if name == "APPEND" else self._take_to_mark()
            if not isinstance(stack[-1], Call):  # what a class of its own makes of them does not matter here
                stack[-1].extend(values)
        elif name == "FROZENSET":
            push(self._take_to_mark())
        else:
            raise WeightsError(f"{self._source}: expected a pickle of tensors only, got the instruction {name}")

    def _take(self, count: int) -> tuple[Any, ...]:
        if count > len(self._stack):
            raise WeightsError(f"{self._source}: expected a whole pickle of tensors, got an empty stack")
        values = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        return values

    def _take_to_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise WeightsError(f"{self._source}: expected a whole pickle of tensors, got no mark on the stack")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values
