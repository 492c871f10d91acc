"""Steps on a CPU give the numbers of their definitions, with oneDNN and without it."""

import math

import numpy as np
import paddle
import pytest

from model.modeling import kernels, onednn

VALUES = np.concatenate([np.linspace(-12, 12, 70_001), [-0.0, 1e-30, -100, 100]]).astype(np.float32)


@pytest.fixture(params=["oneDNN", "NumPy"])
def either(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    elif not onednn.is_available():
        pytest.skip("this Paddle carries no oneDNN")


@pytest.mark.usefixtures("either")
def test_gelu_is_exact():
    expected = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in VALUES.astype(np.float64)]
    x = paddle.to_tensor(VALUES.copy())
    np.testing.assert_allclose(kernels.gelu(x).numpy(), expected, atol=2e-6, rtol=1e-6)


@pytest.mark.usefixtures("either")
def test_gelu_takes_a_tensor_whose_memory_is_not_in_order():
    x = paddle.to_tensor(VALUES[:60].reshape(6, 10).copy())
    expected = kernels.gelu(x.clone()).numpy().T
    np.testing.assert_array_equal(kernels.gelu(x.transpose([1, 0])).numpy(), expected)


@pytest.mark.parametrize("learns", [0, 1], ids=["weight", "bias"])
@pytest.mark.parametrize("then_gelu", [False, True])
def test_parameters_that_learn_get_gradients_though_their_input_does_not(learns, then_gelu):
    parameters = paddle.ones([3, 2]), paddle.ones([2])
    parameters[learns].stop_gradient = False
    with paddle.enable_grad():
        kernels.affine(paddle.ones([4, 3]), *parameters, then_gelu=then_gelu).sum().backward()
    assert parameters[learns].grad is not None
    assert np.abs(parameters[learns].grad.numpy()).min() > 0
