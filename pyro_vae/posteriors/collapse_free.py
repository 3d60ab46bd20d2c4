"""BN-VAE and delta-VAE: normal posteriors whose mean KL from N(0, I) has a lower bound above 0."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_choice, check_positive
from pyro_vae.networks import NetworkFactory, Standardised
from pyro_vae.posteriors.posterior import MINIMUM_SCALE, Posterior
from pyro_vae.posteriors.real import DiagonalNormal, FullNormal, LowRankNormal

# Above about 1e3, the spacing of float32 numbers approaches the scales of the means.
_GAMMAS = (1e-6, 1e3)
_RATES = (1e-6, 1e6)

NormalPosterior = Literal["diagonal_normal", "low_rank_normal", "full_normal"]

_NORMALS: dict[str, Callable[..., nn.Module]] = {
    "diagonal_normal": DiagonalNormal,
    "low_rank_normal": LowRankNormal,
    "full_normal": FullNormal,
}


class BatchNormalised(nn.Module):
    """q(z | x) = N(z | gamma h_i(x) + beta_i, Sigma(x)), h the means, standardised over the batch.

    The mean of mu_i^2 over a batch is then gamma^2 + beta_i^2, and so the mean over the batch of
    KL(q(z | x) || N(0, I)) is at least sum_i (gamma^2 + beta_i^2) / 2 nats for any encoder. This
    holds in training, for the statistics of the batch, and approximately in evaluation, for the
    running ones. Since the bound is imposed, active units are no evidence that the decoder uses
    them. Nothing is added to the variance, which would loosen the bound; a mean that is constant
    over a batch is beta.

    gamma is fixed, because a learned one can go to 0; beta is learned. A Vamp prior's
    pseudo-inputs are standardised with the running statistics. Training with several processes,
    each of which sees a part of a batch, refuses this posterior.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        of: The normal posterior whose means are normalised.
        gamma: The standard deviation of each mean over a batch, from 1e-6 to 1e3.

    Raises:
        ValueError: If `latent_dim` is below 1, `of` is unknown, or `gamma` is out of its range.

    References:
        A Batch Normalized Inference Network Keeps the KL Vanishing Away (Zhu et al., 2020),
        https://arxiv.org/abs/2004.12585
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        of: NormalPosterior = "diagonal_normal",
        gamma: float = 0.6,
    ) -> None:
        super().__init__()
        check_choice(NormalPosterior, of=of)
        check_positive(_GAMMAS, gamma=gamma)
        self.latent_dim = latent_dim
        self.posterior = _NORMALS[of](
            latent_dim, lambda shape: _NormalisedMeans(encoder(shape), latent_dim, gamma)
        )

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return self.posterior(x)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean gamma h(x) + beta."""
        return self.posterior.embed(x)


class _NormalisedMeans(nn.Module):
    """A normal posterior's encoder with a normalised mean, the first row of its output."""

    def __init__(self, network: nn.Module, latent_dim: int, gamma: float) -> None:
        super().__init__()
        self.network = network
        self.standardised = Standardised(latent_dim)
        self.gamma = gamma
        self.beta = nn.Parameter(torch.zeros(latent_dim))

    def forward(
        self, x: Real[Tensor, "*batch_event"]
    ) -> Float[Tensor, "*batch parameters latent"]:
        outputs = self.network(x)
        loc = outputs[..., :1, :]
        standard = self.standardised(loc.reshape(-1, loc.shape[-1])).view_as(loc)
        return torch.cat([self.gamma * standard + self.beta, outputs[..., 1:, :]], -2)


class CommittedRate(Posterior):
    r"""q(z | x) = prod_i N(z_i | mu_i(x), sigma_i(x)^2) with KL(q || N(0, I)) >= rate for every x.

    With delta = rate / latent_dim and t = log sigma, one variable has the KL

        mu^2 / 2 + f(t),    f(t) = (e^(2 t) - 1) / 2 - t >= 0.

    f has the value delta at a t_low < 0 and at a t_high > 0. The encoder's outputs (a, b) give
    t = t_low + (t_high - t_low) sigmoid(b), and mu = sqrt(2 (delta - f(t))) + softplus(a), so that
    each variable has at least delta nats. This is the independent delta-VAE, but interpolates
    log sigma instead of sigma, and uses softplus instead of max(0, a), which has no gradient below
    0. All means are above 0, unlike draws of a standard normal, so samples of the prior may lie
    where there are no data. The bound holds for N(0, I), not for another prior.

    Args:
        rate: The minimum KL(q(z | x) || N(0, I)) per example, in nats, from 1e-6 to 1e6, shared
            equally by the variables.

    Raises:
        ValueError: If `latent_dim` is below 1, or `rate` is out of its range.

    References:
        Preventing Posterior Collapse with delta-VAEs (Razavi et al., 2019), appendix on
        independent delta-VAEs, https://arxiv.org/abs/1901.03416
    """

    def __init__(self, latent_dim: int, encoder: NetworkFactory, rate: float = 2.0) -> None:
        super().__init__(latent_dim, encoder)
        check_positive(_RATES, rate=rate)
        delta = rate / latent_dim
        # Plus the rounding error in float32 of mu, sigma, and a KL that is computed from them.
        self.delta = delta + 1e-6 * (1 + delta)
        low, high = _log_scales(self.delta)
        self.low, self.high = max(low, math.log(MINIMUM_SCALE)), high

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, scale = self._loc_and_scale(x)
        return dist.Normal(loc, scale).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self._loc_and_scale(x)[0]

    def _loc_and_scale(
        self, x: Real[Tensor, "*batch_event"]
    ) -> tuple[Float[Tensor, "*batch latent"], Float[Tensor, "*batch latent"]]:
        outputs = self.encoder(x)
        raw_loc, raw_scale = outputs.double().unbind(-2)
        # Excluding both ends, where the root below has an infinite derivative.
        share = 1e-3 + (1 - 2e-3) * torch.sigmoid(raw_scale)
        log_scale = self.low + (self.high - self.low) * share
        of_scale = torch.expm1(2 * log_scale) / 2 - log_scale
        loc = (2 * (self.delta - of_scale)).sqrt() + F.softplus(raw_loc)
        return loc.to(outputs.dtype), log_scale.exp().to(outputs.dtype)


def _log_scales(delta: float) -> tuple[float, float]:
    """The t < 0 and the t > 0 at which KL(N(0, e^(2 t)) || N(0, 1)) is delta, by bisection."""

    def root(inside: float, outside: float) -> float:
        for _ in range(200):
            middle = (inside + outside) / 2
            if math.expm1(2 * middle) / 2 - middle < delta:
                inside = middle
            else:
                outside = middle
        return inside

    return root(0.0, -1 - delta), root(0.0, 1 + math.log(4 * (1 + delta)) / 2)
