"""Multilayer perceptrons, for events of any shape."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.networks.layers import Activation, Layer, Network, Norm, activation_function, gate

# Below this number of training rows, hidden layers are narrow by default, and training is longer.
FEW_ROWS = 1000
SMALL_WIDTH = 100


class _Dense(Network):
    """Dense hidden layers and a linear head, on the flattened event. Abstract."""

    # The hidden widths by default.
    default: Sequence[int] = ()

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] | None,
        norm: Norm,
        train_size: int | None,
        nonlinearity: Callable[[Tensor], Tensor],
    ) -> None:
        if hidden is None:
            few = train_size is not None and train_size < FEW_ROWS
            hidden = [SMALL_WIDTH] * len(self.default) if few else self.default
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden sizes must be at least 1, got {list(hidden)}.")
        widths = [math.prod(input_shape), *hidden]
        layers = [
            Layer(nn.Linear, inputs, outputs, nonlinearity, norm)
            for inputs, outputs in pairwise(widths)
        ]
        head = nn.Linear(widths[-1], math.prod(output_shape))
        super().__init__(input_shape, output_shape, layers, head, reads=widths[:1])


class MLP(_Dense):
    """A multilayer perceptron: layers h <- activation(norm(W h + b)) and a linear head.

    Args:
        hidden: The width of each hidden layer; None for one of 400, or of 100 for fewer than 1,000
            training rows.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over a layer's units, or none.
        train_size: The number of training rows.

    Raises:
        ValueError: If a width is below 1, or the activation or the normalisation is unknown.
    """

    default = (400,)

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] | None = None,
        activation: Activation = "relu",
        norm: Norm = "none",
        train_size: int | None = None,
    ) -> None:
        nonlinearity = activation_function(activation)
        super().__init__(input_shape, output_shape, hidden, norm, train_size, nonlinearity)


class GatedMLP(_Dense):
    """A perceptron of gated layers: h <- a * sigmoid(g), (a, g) = norm(W h + b), a linear head.

    Args:
        hidden: The width of each hidden layer; None for two of 300, or of 100 for fewer than 1,000
            training rows.
        norm: Normalisation over the batch, over a layer's units, or none.
        train_size: The number of training rows.

    Raises:
        ValueError: If a width is below 1 or the normalisation is unknown.

    References:
        Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017),
        https://arxiv.org/abs/1612.08083; in a VAE: VAE with a VampPrior (Tomczak & Welling, 2018),
        https://arxiv.org/abs/1705.07120
    """

    default = (300, 300)

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] | None = None,
        norm: Norm = "none",
        train_size: int | None = None,
    ) -> None:
        super().__init__(input_shape, output_shape, hidden, norm, train_size, gate)
