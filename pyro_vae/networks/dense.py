"""Perceptrons: networks for events of any shape."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.networks.layers import Activation, Layer, activation_function, gate
from pyro_vae.networks.network import Network
from pyro_vae.networks.normalisation import Norm


class _Dense(Network):
    """Dense hidden layers and a linear head, on the flattened event."""

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int],
        nonlinearity: Callable[[Tensor], Tensor],
        norm: Norm,
    ) -> None:
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
    """A multilayer perceptron: h <- activation(norm(W h + b)) for each hidden layer, a linear head.

    Args:
        input_shape: The shape of what it reads, leading axes apart.
        output_shape: The shape of what it gives, leading axes apart.
        hidden: The width of each hidden layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over a layer's units, or none.

    Raises:
        ValueError: If a width is below 1, or the activation or the normalisation is unknown.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] = (400,),
        activation: Activation = "relu",
        norm: Norm = "none",
    ) -> None:
        super().__init__(input_shape, output_shape, hidden, activation_function(activation), norm)


class GatedMLP(_Dense):
    """A perceptron of gated layers: h <- a * sigmoid(g), (a, g) = norm(W h + b), a linear head.

    Args:
        input_shape: The shape of what it reads, leading axes apart.
        output_shape: The shape of what it gives, leading axes apart.
        hidden: The width of each hidden layer.
        norm: Normalisation over the batch, over a layer's units, or none.

    Raises:
        ValueError: If a width is below 1 or the normalisation is unknown.

    References:
        Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017),
        https://arxiv.org/abs/1612.08083; in a VAE: VAE with a VampPrior (Tomczak & Welling, 2018),
        https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] = (300, 300),
        norm: Norm = "none",
    ) -> None:
        super().__init__(input_shape, output_shape, hidden, gate, norm)
