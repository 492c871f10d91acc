"""The state of a training, in one file, so that a run that was stopped or killed goes on where it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors_numpy

from model import folders
from model.types import FloatArray

Tensors = Mapping[str, FloatArray]
_KEY = "paddle-sam-training"
_GROUPS = ("values", "moments", "average", "best")


@dataclass
class TrainingState:
    """Where a training is.

    Attributes:
        step: how many steps were made.
        scores: of the judgements so far, the base's first.
        best_at: the step of the best of them.
        values: the parameters in training.
        moments: the optimiser's state.
        average: the moving average of the parameters.
        best: that average where it was judged best; empty where the base is.
    """

    step: int = 0
    scores: list[float] = field(default_factory=list)
    best_at: int = 0
    values: Tensors = field(default_factory=dict)
    moments: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)


class _Header(msgspec.Struct):
    fingerprint: str
    step: int
    scores: list[float]
    best_at: int


def save(path: Path, state: TrainingState, fingerprint: str) -> None:
    """Write a state, whole or not at all.

    Args:
        path: of the file.
        state: what to write.
        fingerprint: of all that the training depends on.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {f"{group}:{name}": value for group in _GROUPS for name, value in getattr(state, group).items()}
    header = _Header(fingerprint, state.step, state.scores, state.best_at)
    folders.write(path, safetensors_numpy.save(tensors, {_KEY: msgspec.json.encode(header).decode()}))


def load(path: Path, fingerprint: str) -> TrainingState | None:
    """Return the state in a file; None where there is none, or one of another training, or a damaged one."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = msgspec.json.decode((file.metadata() or {})[_KEY], type=_Header)
            if header.fingerprint != fingerprint:
                return None
            groups: dict[str, dict[str, FloatArray]] = {group: {} for group in _GROUPS}
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                group, _, name = key.partition(":")
                groups[group][name] = file.get_tensor(key)
    except (OSError, KeyError, SafetensorError, msgspec.MsgspecError):
        return None
    return TrainingState(header.step, header.scores, header.best_at, **groups)
