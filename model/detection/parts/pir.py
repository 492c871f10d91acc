"""Parts of a program in Paddle 3's representation (PIR), ``inference.json``."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from model.detection.parts.dataflow import Operator, Side
from model.weights.formats.paddle_program import pir_operations

DTYPES = {
    "0.t_bool": "bool", "0.t_i32": "int32", "0.t_i64": "int64", "0.t_f32": "float32", "0.t_f64": "float64",
}  # fmt: skip
_Json = dict[str, Any]  # unvalidated JSON; the caller answers for its shape


class PirParts:
    """A program that can be cut into parts.

    Attributes:
        operators: those of its main block; values are their numbers.
    """

    def __init__(self, data: bytes, text_inputs: Iterable[str]) -> None:
        """Read ``inference.json``, of which these inputs hold text.

        Raises:
            KeyError, TypeError, IndexError, AttributeError, ValueError: it is no such program.
        """
        self._content = json.loads(data)
        [block] = self._content["program"]["regions"][0]["blocks"]
        self._block: _Json = block
        self.operators = [_operator(operation, frozenset(text_inputs)) for operation in block["ops"]]
        self._types = {result["%"]: result["TT"] for operation in block["ops"] for result in _results(operation)}

    def can_cross(self, value: Hashable) -> bool:
        """Whether a value is a tensor of a type that programs take."""
        kind = self._types[value]
        return kind["#"] == "0.t_dtensor" and kind["D"][0]["#"] in DTYPES

    def part(
        self, kept: Sequence[int], inputs: Mapping[Hashable, str], outputs: Sequence[Hashable]
    ) -> tuple[bytes, set[str]]:
        """Return a program of some of the operators, and the names of the parameters it uses.

        Args:
            kept: the positions of the operators.
            inputs: values that it takes, and the names of their inputs.
            outputs: values that it returns before its own.
        """
        operations = self._block["ops"]
        chosen = [operations[index] for index in kept]
        given = [self._input(value, name) for value, name in inputs.items()]
        returned = [self._output(value, number) for number, value in enumerate(outputs)]
        block = {**self._block, "ops": [*given, *chosen, *returned]}
        region = {**self._content["program"]["regions"][0], "blocks": [block]}
        content = {**self._content, "program": {**self._content["program"], "regions": [region]}}
        return json.dumps(content).encode(), {operation["A"][3] for operation in chosen if operation["#"] == "p"}

    def _input(self, value: Hashable, name: str) -> _Json:
        operation = self._like("1.data")
        kind = self._types[value]
        content = {"name": name, "shape": kind["D"][1], "dtype": DTYPES[kind["D"][0]["#"]]}
        for attribute in operation["A"]:
            if attribute["N"] in content:
                attribute["AT"]["D"] = content[attribute["N"]]
        operation["O"] = [{"%": value, "TT": kind}]
        return operation

    def _output(self, value: Hashable, number: int) -> _Json:
        operation = self._like("1.fetch")
        content = {"name": f"fetch_name_{number}", "col": number}
        for attribute in operation["A"]:
            if attribute["N"] in content:
                attribute["AT"]["D"] = content[attribute["N"]]
        operation["I"] = [{"%": value}]
        operation["O"] = [{"%": max(self._types) + 1 + number, "TT": self._types[value]}]
        return operation

    def _like(self, name: str) -> _Json:
        return deepcopy(next(operation for operation in self._block["ops"] if operation["#"] == name))


def _operator(operation: _Json, text_inputs: frozenset[str]) -> Operator:
    inner = list(pir_operations(operation))
    reads = _operands(operation).union(*map(_operands, inner))
    overwritten = [_operands(each) for each in (operation, *inner) if each["#"].endswith("_")]
    side = None
    if operation["#"] == "1.data":
        name = next(attribute["AT"]["D"] for attribute in operation["A"] if attribute["N"] == "name")
        side = Side.TEXT if name in text_inputs else Side.REST
    return Operator(
        names=frozenset(each["#"].partition(".")[2].removesuffix("_") for each in (operation, *inner)),
        reads=reads,
        writes=frozenset(result["%"] for result in _results(operation)).union(*overwritten),
        is_output=operation["#"] == "1.fetch",
        input_side=side,
    )


def _operands(operation: _Json) -> frozenset[int]:
    return frozenset(operand["%"] for operand in operation.get("I", ()) if operand["%"])  # 0 stands for none


def _results(operation: _Json) -> list[_Json]:
    results = operation["O"]
    return [results] if isinstance(results, dict) else results
