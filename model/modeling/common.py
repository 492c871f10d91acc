"""The small layers that several boxes of SAM's diagram share.

Parameters are created as zeros: a network is always filled from a checkpoint, and drawing 600 million random numbers
first costs seconds and says nothing.
"""

from itertools import pairwise

import paddle
from paddle import Tensor, nn

from model.modeling.blas import Floats
from model.modeling.kernels import affine, gelu
from model.modeling.tokens import Tokens, project, relu


def zeros() -> paddle.ParamAttr:
    """Return the attribute of a parameter that waits for its checkpoint."""
    return paddle.ParamAttr(initializer=nn.initializer.Constant(0.0), trainable=False)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer; weight (in_features, out_features)."""
    return nn.Linear(in_features, out_features, weight_attr=zeros(), bias_attr=zeros())


def embedding(count: int, dim: int) -> nn.Embedding:
    """Return a table of ``count`` learned vectors of ``dim`` channels."""
    return nn.Embedding(count, dim, weight_attr=zeros())


def norm(channels: int, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Return a layer norm over the last axis; epsilon 1e-6 in the image encoder, 1e-5 in the decoder."""
    return nn.LayerNorm(channels, epsilon=epsilon, weight_attr=zeros(), bias_attr=zeros())


class MLPBlock(nn.Layer):
    """The two-layer perceptron of an image encoder's block, over the last axis, with GELU."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = linear(embed_dim, mlp_dim)
        self.lin2 = linear(mlp_dim, embed_dim)

    def forward(self, x: Tensor, shortcut: Tensor | None = None, to: Floats | None = None) -> Tensor:
        """Map (..., embed_dim) to (..., embed_dim), and add a shortcut if there is one; for ``to`` see `affine`."""
        hidden = gelu(affine(x, self.lin1.weight, self.lin1.bias))
        return affine(hidden, self.lin2.weight, self.lin2.bias, shortcut=shortcut, to=to)


class TokenMLPBlock(nn.Layer):
    """The two-layer perceptron of the mask decoder's block, for the few tokens of a prompt, with ReLU."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = linear(embed_dim, mlp_dim)
        self.lin2 = linear(mlp_dim, embed_dim)

    def forward(self, x: Tokens) -> Tokens:
        """Map (..., embed_dim) to (..., embed_dim)."""
        return project(relu(project(x, self.lin1)), self.lin2)


class MLP(nn.Layer):
    """A perceptron of ``num_layers`` with ReLU between, as the mask decoder's heads use it."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.LayerList([linear(a, b) for a, b in pairwise(dims)])

    def forward(self, x: Tokens) -> Tokens:
        """Map (..., input_dim) to (..., output_dim)."""
        *hidden, last = self.layers  # a slice would make a list of layers, which takes as long as all products
        for layer in hidden:
            x = relu(project(x, layer))
        return project(x, last)
