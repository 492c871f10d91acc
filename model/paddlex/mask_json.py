"""Masks as JSON text: the very characters of ``json.dumps`` of nested lists, written by numpy.

``json`` with an indent handles one pixel after the other in Python. Every pixel takes the same number of characters,
so a row of text is a table in which only one column differs.
"""

from collections.abc import Iterator

import numpy as np

from model.types import BoolArray


def rows(mask: BoolArray, indent: int | None, depth: int) -> Iterator[str]:
    """Yield the text of one mask in pieces: ``[[0, 1], [1, 0]]``.

    Args:
        mask: (H, W) bool; true is written as 1.
        indent: spaces per level as ``json.dumps`` takes them, None for one line.
        depth: how many levels the mask's list is in.
    """
    height, width = mask.shape
    outer, inner = _break(indent, depth + 1), _break(indent, depth + 2)
    separator = "," + (inner or " ")
    cell = ("0" + separator).encode()
    table = np.tile(np.frombuffer(cell, np.uint8), (width, 1))  # (W, characters of a pixel)
    yield "["
    for index in range(height):
        table[:, 0] = mask[index]
        table[:, 0] += ord("0")
        line = table.tobytes()[: -len(separator)].decode()
        lead = ("," + (outer or " ")) if index else outer
        yield f"{lead}[{inner}{line}{outer}]"
    yield _break(indent, depth) + "]"


def _break(indent: int | None, depth: int) -> str:
    return "" if indent is None else "\n" + " " * (indent * depth)
