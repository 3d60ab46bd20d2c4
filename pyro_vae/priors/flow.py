"""Priors that transform a standard normal by a learned invertible map."""

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist

from pyro_vae.checks import check_positive
from pyro_vae.distributions import NormalFlow
from pyro_vae.distributions.ranges import BOUNDS
from pyro_vae.networks import CouplingFlow
from pyro_vae.priors.prior import Prior


class Flow(Prior):
    """p(z) = N(f^-1(z) | 0, I) |det df^-1/dz|, f a chain of affine couplings.

    Both directions take one pass, so a density costs as much as a draw. At initialisation p(z) is
    N(0, I).

    Args:
        latent_dim: The dimension of z. With 1, f is affine.
        couplings: The number of couplings; each moves half of the coordinates given the other half.
        hidden: The widths of each coupling's network.
        bound: The bound on the |log scale| of a coupling, approached by a tanh; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Density Estimation Using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017),
        https://arxiv.org/abs/1605.08803;
        as a VAE's prior: Variational Lossy Autoencoder (Chen et al., 2017),
        https://arxiv.org/abs/1611.02731
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        couplings: int = 12,
        hidden: Sequence[int] = (256, 256),
        bound: float = 2.0,
    ) -> None:
        super().__init__(latent_dim)
        check_positive(BOUNDS, bound=bound)
        self.flow = CouplingFlow(latent_dim, couplings, hidden, bound=bound)

    def forward(self) -> dist.Distribution:
        return NormalFlow(self.zeros, self.full(1.0), self.flow)
