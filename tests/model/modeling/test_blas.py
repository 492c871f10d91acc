"""Products on arrays are NumPy's, whichever library computes them and however the operands lie in memory."""

import numpy as np
import pytest

from model.modeling import blas


@pytest.fixture(params=["MKL", "NumPy"], autouse=True)
def either(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(blas, "sgemm", lambda: None)
    elif blas.sgemm() is None:
        pytest.skip("this Paddle carries no MKL")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


LAYOUTS = {
    "in order": lambda rows, columns: draw(rows, columns),
    "transposed": lambda rows, columns: draw(columns, rows).T,
    "columns of a larger one": lambda rows, columns: draw(rows, columns + 9)[:, 4 : columns + 4],
    "rows of a larger one, transposed": lambda rows, columns: draw(columns, rows + 9)[:, 4 : rows + 4].T,
    "a head of many": lambda rows, columns: draw(rows, 3, columns)[:, 1],
}


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("y_layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 7, 6), (5, 1, 6), (5, 7, 1), (1, 1, 1), (130, 70, 90)], ids=str)
def test_a_product_is_written_or_added_to_a_part_of_an_array(shape, x_layout, y_layout, adds):
    rows, inner, columns = shape
    x, y, whole = LAYOUTS[x_layout](rows, inner), LAYOUTS[y_layout](inner, columns), draw(rows + 2, columns + 3)
    expected = whole.copy()
    expected[1:-1, 2:-1] = x @ y + (whole[1:-1, 2:-1] if adds else 0)
    blas.multiply(x, y, whole[1:-1, 2:-1], adds=adds)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "out"),
    [
        (draw(2, 3), draw(4, 5), draw(2, 5)),
        (draw(2, 3), draw(3, 5), draw(2, 4)),
        (draw(4, 6)[::2, ::2], draw(3, 5), draw(2, 5)),
        (np.broadcast_to(draw(1, 3), (2, 3)), draw(3, 5), draw(2, 5)),
        (draw(2, 3), draw(3, 5)[::-1], draw(2, 5)),
        (draw(2, 3), draw(3, 5), draw(5, 2).T),
        (draw(3, 4).astype(np.float64), draw(4, 5), draw(3, 5)),
        (draw(3, 4), draw(4, 5).astype(">f4"), draw(3, 5)),
    ],
    ids=[
        "inner sizes",
        "size of the result",
        "no axis in order",
        "repeated rows",
        "reversed rows",
        "transposed result",
        "numbers twice as long",
        "bytes in the other order",
    ],
)
def test_other_matrices_are_refused(x, y, out):
    before = out.copy()
    with pytest.raises(ValueError, match="product: expected"):
        blas.multiply(x, y, out)
    np.testing.assert_array_equal(out, before)
