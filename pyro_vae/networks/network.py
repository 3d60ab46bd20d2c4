"""The base of all networks, and the layers they are made of."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_choice
from pyro_vae.networks.normalisation import Norm, normalisation

# An encoder or decoder: from an output shape to a network with that output.
NetworkFactory = Callable[[tuple[int, ...]], nn.Module]

Activation = Literal["softplus", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]

# a * sigmoid(b) for the two halves a, b of the features: units that can be switched off.
gate: Callable[[Tensor], Tensor] = partial(F.glu, dim=1)


class Network(nn.Module):
    """head(layers(inputs)), with all leading axes flattened into one for the layers. Abstract.

    Args:
        input_shape: The shape of the input, without leading axes.
        output_shape: The shape of the output, without leading axes.
        layers: Modules applied to `(n, *reads)`, one after the other.
        head: The last, linear one.
        reads: The shape that the first layer reads: `input_shape`, or its product if it is dense.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        layers: Sequence[nn.Module],
        head: nn.Module,
        reads: Sequence[int],
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.output_shape = tuple(output_shape)
        self.reads = tuple(reads)
        self.layers = nn.Sequential(*layers)
        self.head = head

    def forward(self, inputs: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        axes = max(inputs.dim() - len(self.input_shape), 0)
        leading, event = inputs.shape[:axes], inputs.shape[axes:]
        if event != self.input_shape:
            # A reshape would silently take (28, 28, 1) for (1, 28, 28).
            raise ValueError(
                f"{type(self).__name__} reads {self.input_shape} after any leading axes, "
                f"got {tuple(inputs.shape)}."
            )
        # Counts arrive as integers; products need floats.
        dtype = next(self.head.parameters()).dtype
        flat = inputs.reshape(-1, *self.reads).to(dtype)
        outputs = self.head(self.layers(flat)).reshape(*leading, *self.output_shape)
        # Under autocast the head's product is bfloat16; a scale or a KL needs more digits than that.
        return outputs.to(dtype)


class Layer(nn.Module):
    """nonlinearity(norm(A h + b)), with features on axis 1.

    There is no b under batch normalisation, which removes the mean.

    Args:
        affine: The map's class, called with inputs, outputs and `bias`: `nn.Linear` or a convolution.
        inputs: The number of input features.
        outputs: The number of output features. For `gate`, the map gives twice as many.
        nonlinearity: The function applied last.
        norm: The normalisation between.
    """

    def __init__(
        self,
        affine: Callable[..., nn.Module],
        inputs: int,
        outputs: int,
        nonlinearity: Callable[[Tensor], Tensor],
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        features = 2 * outputs if nonlinearity is gate else outputs
        self.linear = affine(inputs, features, bias=norm != "batch")
        self.norm = normalisation(norm, features)
        self.nonlinearity = nonlinearity

    def forward(
        self, h: Float[Tensor, " n inputs *positions"]
    ) -> Float[Tensor, " n outputs *new_positions"]:
        return self.nonlinearity(self.norm(self.linear(h)))


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The elementwise function of a name.

    Raises:
        ValueError: If the name is unknown.
    """
    check_choice(Activation, activation=name)
    return torch.tanh if name == "tanh" else getattr(F, name)
