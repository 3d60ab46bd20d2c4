"""What likelihoods share: a decoder, asked for as many outputs an element as the density needs."""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.networks import NetworkFactory


class Likelihood(nn.Module):
    """p(x | z) whose parameters a decoder gives, element by element. Abstract: a likelihood has `forward`.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network that reads z.
    """

    # The data that the likelihood is a density on: binary, unit, real, integers or counts.
    support: ClassVar[str]
    # The number of decoder outputs for each element of a datum. No option: the density fixes it.
    outputs_per_element: int = 1
    # Whether the density is given the datum's total: for each total, not over all of them, its mass is one.
    given_total: ClassVar[bool] = False

    def __init__(self, event_shape: Sequence[int], decoder: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = decoder((self.outputs_per_element, *self.event_shape))

    @property
    def event_dim(self) -> int:
        """The number of axes of a datum."""
        return len(self.event_shape)

    def outputs(self, z: Float[Tensor, "*batch latent"]) -> tuple[Tensor, ...]:
        """The decoder's outputs, each of shape `(*batch, *event_shape)`."""
        return self.decoder(z).unbind(-1 - self.event_dim)
