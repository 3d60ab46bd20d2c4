"""Encoders and decoders: tensors to tensors, with any leading axes.

A network is a class called with the shape of what it reads and the shape of what it gives::

    encoder = partial(MLP, event_shape)     # output shape -> network that reads x
    decoder = partial(MLP, (latent_dim,))   # output shape -> network that reads z

A likelihood asks its decoder for `(outputs_per_element, *event_shape)`, a posterior its encoder
for `(parameters, latent_dim)`. Leading axes (batch, particles) pass through.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["softplus", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]

# What `encoder` and `decoder` are: the shape wanted to a network that gives it.
NetworkFactory = Callable[[tuple[int, ...]], nn.Module]


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in get_args(Activation):
        raise ValueError(
            f"activation must be one of {', '.join(get_args(Activation))}, got {name!r}."
        )
    return torch.tanh if name == "tanh" else getattr(F, name)


class _FullyConnected(nn.Module):
    """Flatten the input's event once, run hidden layers and a linear head, give the output's shape."""

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int],
        layer: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden sizes must be at least 1, got {list(hidden)}.")
        self.input_shape = tuple(input_shape)
        self.output_shape = tuple(output_shape)
        widths = [math.prod(self.input_shape), *hidden]
        self.layers = nn.ModuleList(map(layer, widths[:-1], widths[1:]))
        self.head = nn.Linear(widths[-1], math.prod(self.output_shape))

    def forward(self, inputs: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        # Counts arrive as integers; products need floats.
        hidden = inputs.flatten(-len(self.input_shape)).to(self.head.weight.dtype)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden).unflatten(-1, self.output_shape)


class Dense(nn.Module):
    """activation(W h + b)."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = _activation(activation)

    def forward(self, h: Float[Tensor, "*leading inputs"]) -> Float[Tensor, "*leading outputs"]:
        return self.activation(self.linear(h))


class GatedDense(nn.Module):
    """(W h + b) * sigmoid(V h + c): a layer that can switch its units off."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, h: Float[Tensor, "*leading inputs"]) -> Float[Tensor, "*leading outputs"]:
        return F.glu(self.linear(h), dim=-1)


class MLP(_FullyConnected):
    """A multilayer perceptron: h <- activation(W h + b) for each hidden layer, then a linear head.

    Args:
        input_shape: The shape of what it reads, leading axes apart.
        output_shape: The shape of what it gives, leading axes apart.
        hidden: The width of each hidden layer.
        activation: The elementwise nonlinearity.

    Raises:
        ValueError: If a width is below 1 or the activation is unknown.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        hidden: Sequence[int] = (400,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(input_shape, output_shape, hidden, lambda i, o: Dense(i, o, activation))


class GatedMLP(_FullyConnected):
    """A perceptron of gated layers: h <- (W h + b) * sigmoid(V h + c), then a linear head.

    Args:
        input_shape: The shape of what it reads, leading axes apart.
        output_shape: The shape of what it gives, leading axes apart.
        hidden: The width of each hidden layer.

    Raises:
        ValueError: If a width is below 1.

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
    ) -> None:
        super().__init__(input_shape, output_shape, hidden, GatedDense)


NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "gated_mlp": GatedMLP}
