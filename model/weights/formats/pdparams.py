"""Paddle's ``.pdparams``, PaddleMIX's ``model_state.pdparams`` among them: a pickled dict of numpy arrays.

They have Meta's names and Paddle's layout, and may lie in another dict.
"""

from functools import partial
from math import prod
from pathlib import Path

from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.errors import WeightsError
from model.weights.formats import huggingface, pickles, state_dicts
from model.weights.formats.pickles import Call, Name, Span
from model.weights.tensors import ITEM_SIZES, Shape, Stored, in_file

_RECONSTRUCT = {Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
_FROM_BUFFER = {Name(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
_DTYPE = Name("numpy", "dtype")
_MOST_AXES = 8
_DTYPES = {"f4": "float32", "f2": "float16", "f8": "float64", "u2": "bfloat16"}  # Paddle keeps bfloat16 as u2


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read what ``paddle.save`` wrote of a state dict (pickle protocol 3 and newer).

    Raises:
        WeightsError: the file is truncated, holds something else than numpy arrays, or no SAM network.
    """
    with path.open("rb") as stream:
        saved = pickles.read(stream, str(path))
    stored = state_dicts.select(path, saved, partial(_tensor, path), "a little-endian numpy array of floats")
    if huggingface.has_its_names(stored):
        stored = huggingface.renamed(stored)
    return assemble(path, stored, name=name, digest=digest_of([path]), file_format="paddlemix")


def _tensor(path: Path, key: str, value: object) -> Stored:
    if isinstance(value, Call) and value.function == Name("builtins", "tuple"):
        value = _paddle_tensor(value)
    match value:
        case Call(
            function=Name() as function,
            state=(int(), tuple(shape), Call() as dtype, bool(is_fortran), Span() as span),
        ) if function in _RECONSTRUCT:
            array = _array(path, span, dtype, shape, is_fortran)
        case Call(
            function=Name() as function, arguments=(Span() as span, Call() as dtype, tuple(shape), str(order))
        ) if function in _FROM_BUFFER:
            array = _array(path, span, dtype, shape, order == "F")
        case _:
            array = None
    if array is None:
        got = pickles.describe(value)
        raise WeightsError(f"{path}: expected {key!r:.80} to be a little-endian numpy array of floats, got {got}")
    return array


def _array(path: Path, span: Span, dtype: Call, shape: Shape, is_fortran: bool) -> Stored | None:
    """Return the array of these bytes, None where they are no floating point numbers of that shape."""
    match dtype:
        case Call(function=function, arguments=(str(kind), *_), state=(_, "<", *_)) if function == _DTYPE:
            fits = len(shape) <= _MOST_AXES and all(isinstance(side, int) for side in shape)
            if not fits or kind not in _DTYPES or span.length != prod(shape) * ITEM_SIZES[_DTYPES[kind]]:
                return None
            stored = in_file(path, span.offset, _DTYPES[kind], shape[::-1] if is_fortran else shape)
            return stored.transposed() if is_fortran else stored
    return None


def _paddle_tensor(call: Call) -> object:
    """Return the array of a Paddle tensor, which is pickled as ``tuple((name, array))``."""
    match call.arguments:
        case ((str(), array),):
            return array
    return call
