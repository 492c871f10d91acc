"""A detector's program, read before it runs: which operators it uses, and which inputs it takes.

Unlike SAM's weights, from which only numbers are read, a detector's program is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.detection.operators import COMPUTING, STRUCTURE
from model.detection.parts import legacy, pir
from model.weights import WeightsError
from model.weights.formats import protobuf
from model.weights.formats.paddle_program import pir_operations

_OPERATORS = "1."  # the number of Paddle's own dialect in inference.json
_LARGEST_PROGRAM_BYTES = 256 << 20


@dataclass(frozen=True)
class DetectorProgram:
    """What a program is made of.

    Attributes:
        path: ``inference.json`` or ``inference.pdmodel``.
        inputs: the NumPy dtype of each input, by name.
        outputs: how many arrays it returns.
        operators: the names of its operators, sorted.
    """

    path: Path
    inputs: Mapping[str, str]
    outputs: int
    operators: tuple[str, ...]

    @property
    def is_pir(self) -> bool:
        """Whether it is in the representation of Paddle 3."""
        return self.path.suffix == ".json"


def read_checked(path: Path) -> DetectorProgram:
    """Read a program and check that it only computes.

    Args:
        path: ``inference.json`` or ``inference.pdmodel``.

    Raises:
        WeightsError: the file is not a program of Paddle, or it uses an operator that is not in
            `model.detection.operators`.
    """
    size = path.stat().st_size
    if size > _LARGEST_PROGRAM_BYTES:
        raise WeightsError(
            f"{path}: expected a program of at most {_LARGEST_PROGRAM_BYTES >> 20} MiB, got {size} bytes"
        )
    try:
        if path.suffix == ".json":
            operators, inputs = _read_pir(path.read_bytes())
        else:
            operators, inputs = _read_legacy(path.read_bytes())
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected a whole program of Paddle, got: {error!r:.80} (truncated?)") from error
    names = tuple(sorted(set(operators)))
    refused = [name for name in names if not _is_allowed(name, path.suffix == ".json")]
    if refused:
        raise WeightsError(
            f"{path}: expected a program that only computes, got the operators {', '.join(refused)[:200]}; "
            "a program is executed, so files and connections, Python and custom operators are refused"
        )
    return DetectorProgram(path, inputs, operators.count("1.fetch") + operators.count("fetch"), names)


def _is_allowed(name: str, is_pir: bool) -> bool:
    if not is_pir:
        return name in COMPUTING
    return name in STRUCTURE or (
        name.startswith(_OPERATORS) and name.removeprefix(_OPERATORS).removesuffix("_") in COMPUTING
    )


def _read_pir(data: bytes) -> tuple[list[str], dict[str, str]]:
    content = json.loads(data)
    if content["base_code"]["magic"] != "pir":
        raise ValueError("no program of Paddle 3")
    operators, inputs = [], {}
    for operation in pir_operations(content["program"]):
        name = operation["#"]
        if not isinstance(name, str):
            raise TypeError("an operator without a name")
        operators.append(name)
        if name == "1.data":
            given = next(attribute["AT"]["D"] for attribute in operation["A"] if attribute["N"] == "name")
            inputs[str(given)] = pir.DTYPES[operation["O"][0]["TT"]["D"][0]["#"]]
    return operators, inputs


def _read_legacy(data: bytes) -> tuple[list[str], dict[str, str]]:
    blocks = protobuf.children(memoryview(data), 1)
    if not blocks:
        raise ValueError("no block in it")
    operators, dtypes, fed = [], {}, []
    for block in blocks:
        for variable in protobuf.children(block, 3):
            tensors = [tensor for kind in protobuf.children(variable, 2) for tensor in protobuf.children(kind, 3)]
            for description in (value for tensor in tensors for value in protobuf.children(tensor, 1)):
                dtypes[protobuf.text(variable, 1)] = protobuf.integers(description, 1)[-1]
        for operation in protobuf.children(block, 4):
            operators.append(protobuf.text(operation, 3))
            if operators[-1] == "feed":
                fed += [str(name, "utf-8") for slot in protobuf.children(operation, 2)
                        for name in protobuf.children(slot, 2)]  # fmt: skip
    return operators, {name: legacy.DTYPES[dtypes[name]] for name in fed}
