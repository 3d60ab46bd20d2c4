"""Points of the simplex on the scale on which a network reads them well."""

from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.networks.network import NetworkFactory


class SimplexScale(nn.Module):
    """f((z - 1/K) sqrt(K (K + 1))): f reads K shares with mean 0 and, z being uniform, variance 1 - 1/K.

    Args:
        network: f.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Float[Tensor, "*batch corners"]) -> Float[Tensor, "*batch_output"]:
        corners = z.shape[-1]
        return self.network((z - 1 / corners) * (corners * (corners + 1)) ** 0.5)


def on_simplex_scale(decoder: NetworkFactory) -> NetworkFactory:
    """The same decoder, reading shares less their mean, over their spread.

    Both are near 1/K: to a network that reads the shares themselves, all codes are alike at the
    start, and it learns first to do without them.
    """
    return lambda output_shape: SimplexScale(decoder(output_shape))
