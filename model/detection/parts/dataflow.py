"""Which results of a program depend on nothing but its text inputs, so that they hold for every picture."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from model.detection.operators import ENLARGING, RANDOM


class Side(IntEnum):
    """What an operator's results depend on; the higher one counts where several do."""

    NOTHING, TEXT, REST = range(3)


@dataclass(frozen=True)
class Operator:
    """An operator, with those inside its branches and loops.

    Attributes:
        names: its name, and those of the operators inside it, without what a format adds to them.
        reads: the values that it takes.
        writes: the values that it gives, and those that it overwrites.
        is_output: whether it gives a value to the caller.
        input_side: of an input of the program, ``TEXT`` or ``REST``; None for every other operator.
    """

    names: frozenset[str]
    reads: frozenset[Hashable]
    writes: frozenset[Hashable]
    is_output: bool = False
    input_side: Side | None = None


@dataclass(frozen=True)
class Cut:
    """A program in two parts; inputs and what neither text nor picture changes may be in both.

    Attributes:
        text: the positions of the operators that depend on the text alone, and of those that they need.
        rest: the positions of all others.
        crossing: the values that the text's part gives to the rest.
    """

    text: tuple[int, ...]
    rest: tuple[int, ...]
    crossing: tuple[Hashable, ...]


def cut(operators: Sequence[Operator], can_cross: Callable[[Hashable], bool]) -> Cut | None:
    """Return the two parts of a program, None where nothing depends on the text alone.

    Args:
        operators: of the program, in order.
        can_cross: whether a value can be an output of one program and an input of another.
    """
    writers = Counter(value for operator in operators for value in operator.writes)
    in_rest = {index for index, operator in enumerate(operators) if operator.is_output or operator.names & RANDOM}
    while True:
        sides = _sides(operators, in_rest)
        read = {value for operator, side in zip(operators, sides, strict=True) if side == Side.REST
                for value in operator.reads}  # fmt: skip
        crossing = [
            (value, index)
            for index, operator in enumerate(operators)
            if sides[index] == Side.TEXT and operator.input_side is None
            for value in sorted(operator.writes & read, key=str)
        ]
        # A value that is overwritten may have changed by the time the part ends; what only enlarges is done again.
        wrong = {index for value, index in crossing
                 if writers[value] > 1 or operators[index].names & ENLARGING or not can_cross(value)}  # fmt: skip
        if not wrong:
            break
        in_rest |= wrong
    if not crossing:
        return None
    values = tuple(value for value, _ in crossing)
    own = {index for index, operator in enumerate(operators) if operator.is_output or operator.input_side == Side.REST}
    return Cut(
        text=_needed(operators, {index for index, side in enumerate(sides) if side != Side.REST}, set(), values),
        rest=_needed(operators, {index for index, side in enumerate(sides) if side != Side.TEXT}, own, ()),
        crossing=values,
    )


def _sides(operators: Sequence[Operator], in_rest: Iterable[int]) -> list[Side]:
    sides = [operator.input_side or Side.NOTHING for operator in operators]
    for index in in_rest:
        sides[index] = Side.REST
    of_value: dict[Hashable, Side] = {}
    is_stable = False
    while not is_stable:
        is_stable = True
        for index, operator in enumerate(operators):
            touched = (of_value.get(value, Side.NOTHING) for value in operator.reads | operator.writes)
            sides[index] = max(sides[index], *touched, Side.NOTHING)
            for value in operator.writes:
                if of_value.get(value, Side.NOTHING) < sides[index]:
                    of_value[value], is_stable = sides[index], False
    return sides


def _needed(
    operators: Sequence[Operator], allowed: set[int], chosen: set[int], values: Iterable[Hashable]
) -> tuple[int, ...]:
    """Return the positions of chosen operators, and of all allowed ones and inputs that they and the values need."""
    chosen = set(chosen)
    wanted = set(values).union(*(operators[index].reads for index in chosen))
    for index in reversed(range(len(operators))):
        operator = operators[index]
        if operator.writes & wanted and (index in allowed or operator.input_side is not None):
            chosen.add(index)
            wanted |= operator.reads
    return tuple(sorted(chosen))
