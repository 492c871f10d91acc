"""Matrix products on the memory of NumPy's arrays, by the MKL that Paddle's Linux wheels carry.

Unlike Paddle's product it adds to numbers that are there without copying them first, writes to a part of an array, and
reads rows or columns of a larger one in place. NumPy's own takes several times as long, but where MKL is missing.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_float, c_void_p
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import paddle

Floats = npt.NDArray[np.float32]

BYTES = 4
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
"""Of the C interface to BLAS, see https://www.netlib.org/blas."""


def product(x: Floats, y: Floats) -> Floats:
    """Return ``x @ y``; see `multiply`."""
    out = np.empty((len(x), y.shape[1]), np.float32)
    multiply(x, y, out)
    return out


def multiply(x: Floats, y: Floats, out: Floats, *, adds: bool = False) -> None:
    """Write ``x @ y`` to ``out``, or add it; other threads run meanwhile.

    >>> out = np.ones((1, 2), np.float32)
    >>> multiply(np.float32([[1, 2]]), np.float32([[1, 0], [0, 1]]), out, adds=True)
    >>> out
    array([[2., 3.]], dtype=float32)

    Args:
        x: (n, k) float32, one axis of which is contiguous.
        y: (k, m) float32, likewise.
        out: (n, m) float32, the last axis contiguous.
        adds: add the product to what ``out`` holds.

    Raises:
        ValueError: the shapes, the dtype or the memory are others.
    """
    (rows, inner), columns = x.shape, y.shape[1]
    (x_order, x_step), (y_order, y_step), (out_order, out_step) = _layout(x), _layout(y), _layout(out)
    if y.shape[0] != inner or out.shape != (rows, columns) or out_order != PLAIN:
        raise ValueError(f"product: expected matrices that fit, got {x.shape}, {y.shape} and {out.shape}")
    function = sgemm()
    if function is None:
        np.add(out, x @ y, out=out) if adds else np.matmul(x, y, out=out)
        return
    operands = c_float(1), c_void_p(x.ctypes.data), x_step, c_void_p(y.ctypes.data), y_step, c_float(adds)
    function(ROW_MAJOR, x_order, y_order, rows, columns, inner, *operands, c_void_p(out.ctypes.data), out_step)


def _layout(matrix: Floats) -> tuple[int, int]:
    """Return the order of a matrix's memory, and the numbers from one row, or column, to the next."""
    rows, columns = matrix.shape
    if matrix.dtype != np.float32:
        raise ValueError(f"product: expected float32, got {matrix.dtype}")
    down, along = (step // BYTES for step in matrix.strides)
    if along == 1 and (rows == 1 or down >= columns):
        return PLAIN, max(down, columns)
    if down == 1 and (columns == 1 or along >= rows):
        return TRANSPOSED, max(along, rows)
    raise ValueError(f"product: expected a matrix with one contiguous axis, got strides {matrix.strides}")


@lru_cache
def sgemm() -> Callable[..., object] | None:
    """Return the C function ``cblas_sgemm`` of Paddle's MKL; None where it carries none."""
    for path in (Path(paddle.__file__).parent / "libs").glob("libmklml*.so"):
        try:
            found: Callable[..., object] = ctypes.CDLL(str(path)).cblas_sgemm
        except (OSError, AttributeError):
            continue
        return found
    return None
