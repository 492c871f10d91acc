"""Steps on a CPU give the numbers of their definitions, with oneDNN and without it."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from model.modeling import attention, kernels, onednn

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


def draw(seed: int, *shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def assert_close(actual: paddle.Tensor, expected: paddle.Tensor) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("n", "heads", "queries", "keys", "width"),
    [(3, 2, 5, 5, 4), (2, 4, 49, 49, 32), (4, 2, 4, 16, 48), (3, 8, 1, 9, 16), (5, 3, 1, 1, 4), (2, 1, 7, 300, 8)],
)
def test_attention_of_a_part_of_a_projection_is_that_of_the_definition(n, heads, queries, keys, width, has_bias):
    inner, bias = heads * width, draw(3, heads, queries, keys) if has_bias else None
    query = attention.split_heads(draw(0, n, queries, 3 * inner), heads, slice(0, inner))
    key, value = (
        attention.split_heads(draw(1, n, keys, 3 * inner), heads, slice(index * inner, (index + 1) * inner))
        for index in (1, 2)
    )
    scores = paddle.matmul(0.3 * query, key, transpose_y=True)
    scores = scores if bias is None else scores + bias
    expected = paddle.matmul(functional.softmax(scores, axis=-1), value).transpose([0, 2, 1, 3])
    output = attention.attend(query, key, value, 0.3, bias=bias)
    assert_close(output, expected.reshape([n, queries, inner]))


@pytest.mark.parametrize(("heads", "length", "width"), [(1, 2, 8), (2, 4, 16), (3, 7, 5)])
def test_attention_of_any_number_of_windows_is_that_of_each_alone(heads, length, width):
    inner = heads * width
    qkv = draw(0, 30, length, 3 * inner)
    parts = [attention.split_heads(qkv, heads, slice(first * inner, (first + 1) * inner)) for first in range(3)]
    alone = paddle.concat([attention.attend(*(part[n : n + 1] for part in parts), 1.0) for n in range(30)])
    for count in range(1, 31):
        assert_close(attention.attend(*(part[:count] for part in parts), 1.0), alone[:count])
        whole = [part[:count].contiguous() for part in parts]
        assert_close(attention.attend(*whole, 1.0), alone[:count])


@pytest.mark.skipif(not onednn.is_available(), reason="this Paddle carries no oneDNN")
def test_what_onednn_computes_otherwise_than_paddle_is_computed_without_it(monkeypatch, caplog):
    query, key, value = (draw(seed, 3, 2, 11, 4) for seed in range(3))
    expected = attention.attend(query, key, value, 0.5)
    assert "onednn_wrong" not in caplog.text
    monkeypatch.setattr(onednn, "TOLERANCE", -1.0)
    for _ in range(2):
        assert_close(attention.attend(query, key, value, 0.25), attention.attend(query * 0.5, key, value, 0.5))
    assert caplog.text.count("onednn_wrong") == 1
    assert_close(attention.attend(query, key, value, 0.5), expected)


@pytest.mark.usefixtures("either")
def test_attention_whose_scores_do_not_fit_at_once_is_the_same(monkeypatch):
    query, key, value = (draw(seed, 7, 2, 6, 4) for seed in range(3))
    expected = attention.attend(query, key, value, 0.5)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 150)  # of two of the seven
    assert_close(attention.attend(query, key, value, 0.5), expected)


def test_values_of_another_width_than_the_keys_go_through_paddles_fused_attention():
    query, key, value = draw(0, 2, 1, 6, 12), draw(1, 2, 1, 6, 12), draw(2, 2, 1, 6, 4)
    assert_close(attention.attend(query, key, value, 0.5, fused=True), attention.attend(query, key, value, 0.5))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("then_gelu", [False, True])
@pytest.mark.parametrize("is_added", [False, True])
@pytest.mark.parametrize("inputs", [5, 600])
def test_a_product_may_have_a_shortcut_added_and_weights_in_any_order(inputs, is_added, then_gelu):
    x, weight, bias = draw(0, 2, 3, inputs), draw(1, 7, inputs).transpose([1, 0]), draw(2, 7)
    shortcut = draw(3, 2, 4, 7)[:, :3] if is_added else None
    expected = functional.linear(x, weight.contiguous(), bias)
    expected = expected if shortcut is None else expected + shortcut
    expected = functional.gelu(expected) if then_gelu else expected
    assert_close(kernels.affine(x, weight, bias, then_gelu, shortcut), expected)


@pytest.mark.usefixtures("either")
def test_layer_norm_of_a_part_of_a_tensor_is_that_of_the_definition():
    x, norm = draw(0, 4, 6, 33)[:, 1:4], nn.LayerNorm(33, epsilon=1e-3)
    for parameter, seed in ((norm.weight, 1), (norm.bias, 2)):
        parameter.set_value(draw(seed, 33))
        parameter.stop_gradient = True
    apart = x - x.mean(axis=-1, keepdim=True)
    expected = apart / paddle.sqrt((apart * apart).mean(axis=-1, keepdim=True) + 1e-3) * norm.weight + norm.bias
    assert_close(kernels.layer_norm(x, norm), expected)


@pytest.mark.parametrize("learns", ["weight", "bias", "input"])
def test_what_learns_around_a_layer_norm_gets_gradients(learns):
    x, norm = draw(0, 4, 6), nn.LayerNorm(6)
    norm.weight.stop_gradient = norm.bias.stop_gradient = True
    learner = x if learns == "input" else getattr(norm, learns)
    learner.stop_gradient = False
    with paddle.enable_grad():
        (kernels.layer_norm(x, norm) * draw(1, 4, 6)).sum().backward()
    assert np.abs(learner.grad.numpy()).max() > 0
