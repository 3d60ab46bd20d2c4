"""Mixture priors: several places in the latent space where data may come from."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import pyro.distributions as dist
import torch
from jaxtyping import Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.networks import running_statistics, user_units
from pyro_vae.priors.starts import embedded, k_means, some_rows

MixtureStart = Literal["random", "data", "kmeans"]

VampStart = Literal["data", "mean", "kmeans"]

# Of the data's standard deviation: about what the VampPrior's authors add to a constant picture.
_NOISE = 0.05


def _check(latent_dim: int, components: int, start: str, starts: Sequence[str]) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    if components < 1:
        raise ValueError(f"components must be at least 1, got {components}.")
    if start not in starts:
        raise ValueError(f"start must be one of {', '.join(starts)}, got {start!r}.")


class GaussianMixture(nn.Module):
    """p(z) = sum_k w_k N(z | mu_k, diag(sigma_k^2)), everything learned.

    It may start where the untrained posterior puts the training data. With one draw z of q(z | x)
    for each datum x, the draws are cut into groups by the nearest component, and w_k and sigma_k^2
    are a group's share and its mean squared distance from mu_k, the latter over all groups where a
    group has fewer than two.

    Args:
        latent_dim: The dimension of z.
        components: The number K of components.
        start: What mu is at first: draws of N(0, I), with sigma = 1; posterior means of training
            data drawn at random; or K-means centres of posterior means of up to 10,000 of them.
        posterior: The VAE's posterior, which places the data; it is not kept.
        train_data: Training data `(n, *event_shape)`. Without, the start is random whatever `start`
            says: parameters that are loaded replace it.

    Raises:
        ValueError: If `latent_dim` or `components` is below 1, `start` is unknown, or there are fewer
            data than components and `start` is kmeans.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 2, https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        components: int = 10,
        start: MixtureStart = "random",
        posterior: nn.Module | None = None,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        super().__init__()
        _check(latent_dim, components, start, get_args(MixtureStart))
        self.latent_dim = latent_dim
        # Spread like N(0, I), so that the untrained prior covers what an untrained guide gives.
        logits, loc = torch.zeros(components), torch.randn(components, latent_dim)
        raw_scale = torch.full((components, latent_dim), math.log(math.e - 1))
        if start != "random" and posterior is not None and train_data is not None:
            logits, loc, scale = _from_data(start, components, posterior, train_data)
            raw_scale = scale + (-torch.expm1(-scale)).log()
        self.logits = nn.Parameter(logits)
        self.loc = nn.Parameter(loc)
        self.raw_scale = nn.Parameter(raw_scale)

    def forward(self) -> dist.Distribution:
        scale = F.softplus(self.raw_scale) + 1e-5
        return DiagonalNormalMixture(self.logits, self.loc, scale)


def _from_data(
    start: MixtureStart, components: int, posterior: nn.Module, train_data: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, means and scales of components that cover a posterior's draws at the data."""
    mean, draw = embedded(posterior, some_rows(train_data, components))
    if start == "kmeans":
        loc = k_means(mean, components).centres
    else:
        loc = mean[torch.randint(len(mean), (components,))]
    group = torch.cdist(draw, loc).argmin(-1)
    squared = (draw - loc[group]).square()
    count = torch.zeros(components, dtype=loc.dtype).index_add_(0, group, torch.ones(len(draw)))
    variance = torch.zeros_like(loc).index_add_(0, group, squared) / count.clamp(min=1)[:, None]
    variance = torch.where(count[:, None] < 2, squared.mean(0), variance)
    # An empty group is a component all the same, of the weight of one datum.
    return count.clamp(min=1).log(), loc, variance.sqrt().clamp(min=1e-3)


class Vamp(nn.Module):
    """p(z) = 1/K sum_k q(z | u_k): the aggregate posterior of K learned pseudo-inputs u_k.

    The posterior is the VAE's own and is not registered here a second time: a `state_dict` holds
    one copy of it, and its parameters are trained through both roles. Batch normalisation in it
    uses its running statistics for pseudo-inputs, which never enter them: `running_statistics` says
    why.

    Over `inverse_autoregressive` the density takes an inverse, coordinate after coordinate, for each z
    and each pseudo-input. A step of 100 data with 500 of them costs some three times one over
    `coupling_flow` in 10 dimensions, but 10 to 20 s of a core and above 5 GB in 50: take fewer
    components there, or `coupling_flow`.

    Args:
        latent_dim: The dimension of z.
        posterior: The VAE's posterior, whose `posterior(u)` are the components.
        event_shape: The shape of a datum, and so of a pseudo-input.
        components: The number K of pseudo-inputs.
        train_data: Training data `(n, *event_shape)` in the likelihood's support. Without, the
            pseudo-inputs start uniform on [0, 1] whatever `start` says: parameters that are loaded
            replace them. Those of real data are kept in units of their spread.
        start: What the pseudo-inputs are at first: training data drawn at random; the mean of the
            training data, with normal noise of 5 % of their standard deviation; or K-means centres
            of up to 10,000 training data (more where that is below 20 for each component).

    Raises:
        ValueError: If `latent_dim` or `components` is below 1, `start` is unknown, there are fewer
            data than components and `start` is kmeans, or the posterior has no density.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        components: int = 500,
        train_data: Real[Tensor, " n *event"] | None = None,
        start: VampStart = "data",
    ) -> None:
        super().__init__()
        _check(latent_dim, components, start, get_args(VampStart))
        if not getattr(posterior, "has_density", True):
            raise ValueError(
                "Vamp is a mixture of the posterior's densities at pseudo-inputs, and a "
                f"{type(posterior).__name__} has none: use another prior, such as standard_normal."
            )
        self.latent_dim = latent_dim
        # In a tuple, so that nn.Module does not see it.
        self._posterior = (posterior,)
        if train_data is None:
            first = torch.rand(components, *event_shape)
        else:
            units = user_units(posterior)
            data = train_data if units is None else units.inside(train_data)
            first = _pseudo_inputs(start, components, data)
        self.pseudo_inputs = nn.Parameter(first)

    def forward(self) -> dist.Distribution:
        (posterior,) = self._posterior
        units = user_units(posterior)
        inputs = self.pseudo_inputs if units is None else units.outside(self.pseudo_inputs)
        with running_statistics(posterior):
            components = posterior(inputs)
        logits = self.pseudo_inputs.new_zeros(len(self.pseudo_inputs))
        if isinstance(components, dist.Independent) and isinstance(
            normal := components.base_dist, dist.Normal
        ):
            return DiagonalNormalMixture(logits, normal.loc, normal.scale)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


def _pseudo_inputs(start: VampStart, components: int, train_data: Tensor) -> Tensor:
    """Training data, their noisy mean, or their centres."""
    dtype = torch.get_default_dtype()
    if start == "data":
        return train_data[torch.randint(len(train_data), (components,))].to(dtype)
    rows = some_rows(train_data, components).to(dtype)
    if start == "mean":
        noise = _NOISE * rows.std(correction=0) * torch.randn(components, *rows.shape[1:])
        return rows.mean(0) + noise
    return k_means(rows.flatten(1), components).centres.view(components, *rows.shape[1:])
