"""Counts on the scale on which a network reads them well."""

from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.networks.network import NetworkFactory


class LogScale(nn.Module):
    """f(log(1 + x)): a network f that reads counts, which run over orders of magnitude, as logarithms.

    What lies below 0, as a learned pseudo-input may, is read as 0.

    Args:
        network: f.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), methods,
        https://doi.org/10.1038/s41592-018-0229-2
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        return self.network(x.clamp(min=0).log1p())


def on_log_scale(encoder: NetworkFactory) -> NetworkFactory:
    """The same encoder, reading log(1 + x)."""
    return lambda output_shape: LogScale(encoder(output_shape))
