"""Encoders and decoders: tensors to tensors, with any leading axes.

A network is a class called with an input and an output shape::

    encoder = partial(MLP, event_shape)     # output shape -> network that reads x
    decoder = partial(MLP, (latent_dim,))   # output shape -> network that reads z

A likelihood asks its decoder for `(outputs_per_element, *event_shape)`, a posterior its encoder
for `(parameters, latent_dim)`. Leading axes (batch, particles) pass through. `mlp` and `gated_mlp`
take events of any shape, `conv`, `gated_conv` and `resnet` images `(channels, height, width)`,
`conv1d` series `(length,)` and `(channels, length)`.
"""

from torch import nn

from pyro_vae.networks.convolutional import Conv, Conv1d, GatedConv, ResNet
from pyro_vae.networks.dense import MLP, GatedMLP
from pyro_vae.networks.flows import CouplingFlow, InverseAutoregressiveFlow, MaskedMLP
from pyro_vae.networks.layers import (
    Activation,
    BatchNorm,
    Network,
    NetworkFactory,
    Norm,
    Standardised,
    running_statistics,
)
from pyro_vae.networks.scaling import (
    SAME_UNITS,
    LogScale,
    OnUserUnits,
    SimplexScale,
    UnitScale,
    UserUnits,
    column_spreads,
    on_log_scale,
    on_simplex_scale,
    on_unit_scale,
    on_user_units,
    unit_vector,
    user_units,
)

NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "gated_mlp": GatedMLP,
    "conv": Conv,
    "gated_conv": GatedConv,
    "resnet": ResNet,
    "conv1d": Conv1d,
}

__all__ = [
    "MLP",
    "NETWORKS",
    "SAME_UNITS",
    "Activation",
    "BatchNorm",
    "Conv",
    "Conv1d",
    "CouplingFlow",
    "GatedConv",
    "GatedMLP",
    "InverseAutoregressiveFlow",
    "LogScale",
    "MaskedMLP",
    "Network",
    "NetworkFactory",
    "Norm",
    "OnUserUnits",
    "ResNet",
    "SimplexScale",
    "Standardised",
    "UnitScale",
    "UserUnits",
    "column_spreads",
    "on_log_scale",
    "on_simplex_scale",
    "on_unit_scale",
    "on_user_units",
    "running_statistics",
    "unit_vector",
    "user_units",
]
