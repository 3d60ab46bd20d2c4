"""A model file to copy: a likelihood written out, a Student's t with tails of each pixel's own.

`python scripts/svi_train.py --model scripts/examples/student_t.py --data freyface --epochs 200`
trains it. On the command line alone `--likelihood student_t` has the same tails for all pixels;
here the density is below, to be changed. Where a pixel has few degrees of freedom, its outliers,
such as a moving highlight, pull little at the mean.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import VAE, likelihoods, networks, posteriors, priors


class PixelStudentT(likelihoods.Likelihood):
    """p(x | z) = prod_i StudentT(x_i | f_i(z), s_i, nu_i), s and nu learned, pixel by pixel.

    Grey levels are real numbers v / 255 here. log p(x) is a log density of those and compares with
    no likelihood of the levels themselves, such as `discretized_logistic`.

    Args:
        event_shape: The shape of an image.
        decoder: Output shape -> network f that reads z.
        initial_scale: s at initialisation.
        initial_df: The degrees of freedom nu at initialisation, above 2.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        https://doi.org/10.24963/ijcai.2018/374
    """

    support = "real"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: networks.NetworkFactory,
        initial_scale: float = 0.1,
        initial_df: float = 5.0,
    ) -> None:
        if not (initial_scale > 0 and initial_df > 2):
            raise ValueError(
                "initial_scale must be above 0 and initial_df above 2, got "
                f"{initial_scale} and {initial_df}."
            )
        super().__init__(event_shape, decoder)
        # softplus^-1, so that both start there.
        raw = math.log(math.expm1(initial_scale))
        self.raw_scale = nn.Parameter(torch.full(self.event_shape, raw))
        raw = math.log(math.expm1(initial_df - 2))
        self.raw_df = nn.Parameter(torch.full(self.event_shape, raw))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        """p(x | z)."""
        (loc,) = self.outputs(z)
        # A floor of one grey level, without which the density of a pixel that never changes has no
        # bound; and a variance, which needs more than 2 degrees of freedom.
        scale, df = F.softplus(self.raw_scale) + 1 / 255, F.softplus(self.raw_df) + 2
        return dist.StudentT(df, loc, scale).to_event(self.event_dim)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 10,
    *,
    prior: Callable[..., nn.Module] = priors.StandardNormal,
    likelihood: Callable[..., nn.Module] = PixelStudentT,
    posterior: Callable[..., nn.Module] = posteriors.DiagonalNormal,
    network: Callable[..., nn.Module] = networks.MLP,
) -> VAE:
    """A VAE with this likelihood from the classes of its parts.

    Args:
        event_shape: The shape of an image, `(channels, height, width)`.
        latent_dim: The dimension of z.
        prior: p(z).
        likelihood: p(x | z).
        posterior: q(z | x).
        network: The class of encoder and decoder.
    """
    return VAE(
        prior=prior(latent_dim),
        likelihood=likelihood(event_shape, partial(network, (latent_dim,))),
        posterior=posterior(latent_dim, partial(network, tuple(event_shape))),
    )
