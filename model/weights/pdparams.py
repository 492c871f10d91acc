"""PaddleMIX's ``model_state.pdparams``: a pickled dict of numpy arrays, Meta's names and Paddle's layout."""

from math import prod
from pathlib import Path

from model.weights import pickles
from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.errors import WeightsError
from model.weights.pickles import Call, Name, Span
from model.weights.tensors import ITEM_SIZES, Stored, in_file

_STRUCTURED_NAMES = "StructuredToParameterName@@"  # Paddle's own table in the same dict; not a tensor
_RECONSTRUCT = {Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
_DTYPE = Name("numpy", "dtype")
_MOST_AXES = 8
_DTYPES = {"f4": "float32", "f2": "float16", "f8": "float64"}


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a state dict that ``paddle.save`` wrote (pickle protocol 3 and newer).

    Raises:
        WeightsError: the file is truncated, holds something else than numpy arrays, or no SAM network.
    """
    with path.open("rb") as stream:
        state = pickles.read(stream, str(path))
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: expected a dict of numpy arrays, got {type(state).__name__}")
    stored = {key: _tensor(path, key, value) for key, value in state.items() if key != _STRUCTURED_NAMES}
    return assemble(path, stored, name=name, digest=digest_of([path]), file_format="paddlemix")


def _tensor(path: Path, key: object, value: object) -> Stored:
    if isinstance(value, Call) and value.function == Name("builtins", "tuple"):
        value = _paddle_tensor(value)
    match value:
        case Call(
            function=Name() as function,
            state=(
                int(),
                tuple(shape),
                Call(function=dtype, arguments=(str(kind), *_), state=(_, "<", *_)),
                False,
                Span(offset=offset, length=length),
            ),
        ) if function in _RECONSTRUCT and dtype == _DTYPE and kind in _DTYPES and isinstance(key, str):
            fits = len(shape) <= _MOST_AXES and all(isinstance(side, int) for side in shape)
            if fits and length == prod(shape) * ITEM_SIZES[_DTYPES[kind]]:
                return in_file(path, offset, _DTYPES[kind], shape)
    got = pickles.told(value)
    raise WeightsError(f"{path}: expected {key!r:.80} to be a little-endian numpy array of floats, got {got}")


def _paddle_tensor(call: Call) -> object:
    """Return the array of a Paddle tensor, which is pickled as ``tuple((name, array))``."""
    match call.arguments:
        case ((str(), array),):
            return array
    return call
