"""Levels on the scale on which a network reads them well."""

from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.networks.network import NetworkFactory


class UnitScale(nn.Module):
    """f(x / (levels - 1)): a network f that reads the levels 0, ..., levels - 1 as numbers in [0, 1].

    Args:
        network: f.
        levels: The number of levels.

    Raises:
        ValueError: If `levels` is below 2.
    """

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}.")
        self.network = network
        self.levels = levels

    def forward(self, x: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        return self.network(x / (self.levels - 1))


def on_unit_scale(encoder: NetworkFactory, levels: int | None) -> NetworkFactory:
    """The same encoder, reading x / (levels - 1).

    Raises:
        ValueError: If `levels` is None: the data's levels have to be known.
    """
    if levels is None:
        raise ValueError(
            "a likelihood of integers needs to know the number of levels of the data, got None: build(..., "
            "levels=256) for 0 to 255."
        )
    return lambda output_shape: UnitScale(encoder(output_shape), levels)
