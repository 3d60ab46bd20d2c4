"""A layer of every network: an affine map, a normalisation and a nonlinearity."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.networks.normalisation import Norm, normalisation

Activation = Literal["softplus", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]

# a * sigmoid(b) for the two halves a, b of the features: units that can be switched off.
gate: Callable[[Tensor], Tensor] = partial(F.glu, dim=1)


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The elementwise function that a word names.

    Raises:
        ValueError: If the word is unknown.
    """
    if name not in get_args(Activation):
        raise ValueError(
            f"activation must be one of {', '.join(get_args(Activation))}, got {name!r}."
        )
    return torch.tanh if name == "tanh" else getattr(F, name)


class Layer(nn.Module):
    """nonlinearity(norm(A h + b)), features on axis 1.

    Batch normalisation takes the mean away, and so there is no b with it.

    Args:
        affine: The map's class, called with inputs, outputs and `bias`: `nn.Linear` or a convolution.
        inputs: The number of features it reads.
        outputs: The number of features it gives. For `gate`, the map gives twice as many.
        nonlinearity: What the last step is.
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
