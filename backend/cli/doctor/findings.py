"""The findings of the doctor's checks."""

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """The severity of a finding."""

    OK = "ok"
    HINT = "hint"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    text: str
    fix: str = ""  # what to do about it; empty if nothing is wrong
